//! Writes a set as line protocol or CSV: all sources of one time, then of the next.
//!
//! The same options give the same bytes. Each source has streams of random numbers of its own, so
//! its values do not depend on how many other sources there are, on jitter or on lateness.

use std::io::{self, Write};

use super::dice::Dice;
use super::sets::{CPU_ONLY, Field, IOT, Set, Show};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Ten tags a host, ten integer fields from 0 to 100.
    CpuOnly,
    /// Five tags a truck, eight fields with missing values.
    Iot,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Line protocol.
    Lp,
    /// A header, then tags, fields and time; a missing value is empty.
    Csv,
}

/// Unit of the times written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Unit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl Unit {
    fn ns(self) -> i64 {
        match self {
            Self::S => 1_000_000_000,
            Self::Ms => 1_000_000,
            Self::Us => 1_000,
            Self::Ns => 1,
        }
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub(crate) struct GenerateOptions {
    /// What is measured
    #[arg(long, value_enum, default_value_t = Kind::CpuOnly)]
    pub(crate) set: Kind,
    /// Number of hosts (or trucks)
    #[arg(long, default_value_t = 100)]
    pub(crate) hosts: u32,
    /// Hosts at the start, growing evenly to --hosts; 0 means all
    #[arg(long, default_value_t = 0)]
    pub(crate) initial_hosts: u32,
    /// First time, as 2026-01-01T00:00:00Z
    #[arg(long, value_parser = parse_time, default_value = "2026-01-01T00:00:00Z")]
    pub(crate) start: i64,
    /// First time that is not written any more
    #[arg(long, value_parser = parse_time, default_value = "2026-01-01T01:00:00Z")]
    pub(crate) end: i64,
    /// Seconds between two rows of a host
    #[arg(long, default_value_t = 10)]
    pub(crate) interval: u32,
    /// Another seed, other values
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u64,
    /// Only the first fields of the set; 0 means all
    #[arg(long, default_value_t = 0)]
    pub(crate) fields: usize,
    /// Each row is later by up to this many milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) jitter_ms: u32,
    /// Share of rows that are sent late, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub(crate) late_share: f64,
    /// Late rows come up to this many intervals later
    #[arg(long, default_value_t = 6)]
    pub(crate) late_lag: u32,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Lp)]
    pub(crate) format: Format,
    /// Unit of the times
    #[arg(long, value_enum, default_value_t = Unit::Ns)]
    pub(crate) precision: Unit,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Rows, the late ones among them.
    pub(crate) rows: u64,
    /// Rows that came late.
    pub(crate) late_rows: u64,
    /// Values of fields, without the missing ones.
    pub(crate) values: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Numbers of streams: those of the sources follow the last.
const TAGS: u64 = 1 << 60;
const NULLS: u64 = 2 << 60;
const TIMES: u64 = 3 << 60;

/// Writes all rows.
///
/// * errors: `InvalidInput` for options that contradict themselves, before anything is written;
///   otherwise what `out` returns.
pub(crate) fn generate(options: &GenerateOptions, out: &mut dyn Write) -> io::Result<Generated> {
    let set = match options.set {
        Kind::CpuOnly => &CPU_ONLY,
        Kind::Iot => &IOT,
    };
    check(options, set).map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
    let fields = match options.fields {
        0 => set.fields,
        some => &set.fields[..some],
    };
    let mut sources: Vec<_> = (0..options.hosts)
        .map(|host| Source::new(options, set, host))
        .collect();
    let mut writer = Writer::new(options, fields, out);
    if options.format == Format::Csv {
        writer.header(set);
    }
    let mut times = Dice::new(options.seed, TIMES);
    let interval_ns = i64::from(options.interval) * 1_000_000_000;
    let epochs = (options.end - options.start + interval_ns - 1) / interval_ns;
    let late = (options.late_share * 4_294_967_296.0) as u64;
    let mut waiting = vec![Vec::new(); options.late_lag as usize + 1];
    for epoch in 0..epochs {
        let time = options.start + epoch * interval_ns;
        let active = active_hosts(options, epoch, epochs);
        for (host, source) in sources.iter_mut().enumerate() {
            if epoch > 0 {
                source.step(set);
            }
            if host as u64 >= active {
                continue;
            }
            let time = match options.jitter_ms {
                0 => time,
                jitter_ms => time + times.below(jitter_ms.into()) as i64 * 1_000_000,
            };
            if late > 0 && times.chance(late) {
                let lag = 1 + times.below(options.late_lag.into());
                let due = (epoch as u64 + lag) % waiting.len() as u64;
                writer.row(source, time, Some(&mut waiting[due as usize]));
            } else {
                writer.row(source, time, None);
            }
            writer.write(CHUNK_BYTES)?;
        }
        let due = epoch as usize % waiting.len();
        writer.late(&mut waiting[due])?;
    }
    for epoch in epochs..epochs + waiting.len() as i64 {
        let due = epoch as usize % waiting.len();
        writer.late(&mut waiting[due])?;
    }
    writer.write(0)?;
    Ok(writer.generated)
}

fn check(options: &GenerateOptions, set: &Set) -> Result<(), String> {
    if options.hosts == 0 || options.initial_hosts > options.hosts {
        return Err("hosts must be at least 1 and at least initial-hosts".into());
    }
    if options.interval == 0 || options.start >= options.end {
        return Err("interval must be at least 1 and start before end".into());
    }
    if options.fields > set.fields.len() {
        return Err(format!("the set has {} fields", set.fields.len()));
    }
    if !(0.0..=1.0).contains(&options.late_share) {
        return Err("late-share must lie between 0 and 1".into());
    }
    if options.late_share > 0.0 && options.late_lag == 0 {
        return Err("late-lag must be at least 1".into());
    }
    Ok(())
}

/// Hosts that send at an epoch: from the initial number evenly to all at the last one.
fn active_hosts(options: &GenerateOptions, epoch: i64, epochs: i64) -> u64 {
    let hosts = u64::from(options.hosts);
    let initial = match options.initial_hosts {
        0 => hosts,
        some => some.into(),
    };
    let last = (epochs - 1).max(1) as u64;
    initial + (hosts - initial) * epoch as u64 / last
}

/// A host or truck.
struct Source {
    /// Its tags as they are written, with what stands before the first field.
    head: Vec<u8>,
    /// Values of its fields in units of 2⁻¹⁶.
    state: Vec<i64>,
    walk: Dice,
    nulls: Dice,
}

impl Source {
    fn new(options: &GenerateOptions, set: &Set, host: u32) -> Self {
        let mut tags = Dice::new(options.seed, TAGS + u64::from(host));
        let values = (set.draw)(host, &mut tags);
        let head = match options.format {
            Format::Lp => {
                let tags = set.tags.iter().zip(values);
                let tags = tags.filter_map(|(tag, value)| Some(format!(",{tag}={}", value?)));
                format!("{}{} ", set.measurement, tags.collect::<String>())
            }
            Format::Csv => {
                let values = values.into_iter();
                let values = values.map(|value| value.unwrap_or_default() + ",");
                values.collect()
            }
        };
        let mut walk = Dice::new(options.seed, host.into());
        let start = |field: &Field| {
            let (min, max) = field.range;
            (min << 16) + walk.below(((max - min) as u64) << 16) as i64
        };
        Self {
            head: head.into_bytes(),
            state: set.fields.iter().map(start).collect(),
            walk,
            nulls: Dice::new(options.seed, NULLS + u64::from(host)),
        }
    }

    fn step(&mut self, set: &Set) {
        for (state, field) in self.state.iter_mut().zip(set.fields) {
            let (min, max) = field.range;
            let next = *state + self.walk.step() * field.step;
            *state = next.clamp(min << 16, max << 16);
        }
    }
}

struct Writer<'o> {
    format: Format,
    unit_ns: i64,
    fields: &'static [Field],
    /// What stands before each field's value.
    names: Vec<String>,
    out: &'o mut dyn Write,
    buffer: Vec<u8>,
    /// The last time written, and its text.
    time: (i64, Vec<u8>),
    generated: Generated,
}

impl<'o> Writer<'o> {
    fn new(options: &GenerateOptions, fields: &'static [Field], out: &'o mut dyn Write) -> Self {
        let name = |field: &Field| match options.format {
            Format::Lp => format!("{}=", field.name),
            Format::Csv => String::new(),
        };
        Self {
            format: options.format,
            unit_ns: options.precision.ns(),
            fields,
            names: fields.iter().map(name).collect(),
            out,
            buffer: Vec::with_capacity(CHUNK_BYTES + 4096),
            time: (i64::MIN, Vec::new()),
            generated: Generated::default(),
        }
    }

    fn header(&mut self, set: &Set) {
        let fields = self.fields.iter().map(|field| field.name);
        let columns = set.tags.iter().copied().chain(fields).chain(["time"]);
        let columns: Vec<_> = columns.collect();
        self.buffer.extend_from_slice(columns.join(",").as_bytes());
        self.buffer.push(b'\n');
    }

    /// Renders a row into what is written next, or into the rows that wait.
    fn row(&mut self, source: &mut Source, time: i64, waiting: Option<&mut Vec<u8>>) {
        self.generated.rows += 1;
        self.generated.late_rows += u64::from(waiting.is_some());
        let row = waiting.unwrap_or(&mut self.buffer);
        row.extend_from_slice(&source.head);
        let csv = self.format == Format::Csv;
        let mut first = true;
        for ((field, name), state) in self.fields.iter().zip(&self.names).zip(&source.state) {
            let null = field.null > 0 && source.nulls.chance(field.null);
            if null && !csv {
                continue;
            }
            if !first {
                row.push(b',');
            }
            first = false;
            if null {
                continue;
            }
            self.generated.values += 1;
            row.extend_from_slice(name.as_bytes());
            value(row, field.show, state >> 16, self.format);
        }
        row.push(if csv { b',' } else { b' ' });
        if self.time.0 != time {
            self.time.0 = time;
            self.time.1.clear();
            number(&mut self.time.1, time.div_euclid(self.unit_ns));
        }
        row.extend_from_slice(&self.time.1);
        row.push(b'\n');
    }

    /// Appends rows that are due.
    fn late(&mut self, rows: &mut Vec<u8>) -> io::Result<()> {
        self.buffer.append(rows);
        self.write(CHUNK_BYTES)
    }

    /// Hands on what was rendered if it is more than that many bytes.
    fn write(&mut self, more_than: usize) -> io::Result<()> {
        if self.buffer.len() > more_than {
            self.out.write_all(&self.buffer)?;
            self.generated.bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn value(row: &mut Vec<u8>, show: Show, units: i64, format: Format) {
    match show {
        Show::Whole => {
            number(row, units);
            if format == Format::Lp {
                row.push(b'i');
            }
        }
        Show::Decimal(digits) => {
            if units < 0 {
                row.push(b'-');
            }
            let unit = 10_u64.pow(digits);
            let units = units.unsigned_abs();
            number(row, (units / unit) as i64);
            row.push(b'.');
            let mut rest = units % unit;
            for digit in (0..digits).rev() {
                let power = 10_u64.pow(digit);
                row.push(b'0' + (rest / power) as u8);
                rest %= power;
            }
        }
        Show::From(least) => row.extend_from_slice(if units >= least { b"true" } else { b"false" }),
    }
}

fn number(row: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        row.push(b'-');
    }
    row.extend_from_slice(&digits[at..]);
}

/// Nanoseconds since 1970 of `2026-01-01T00:00:00Z`: UTC, whole seconds.
fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time like 2026-01-01T00:00:00Z");
    let bytes = text.as_bytes();
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'Z'),
    ];
    if bytes.len() != 20 || marks.iter().any(|&(at, mark)| bytes[at] != mark) {
        return Err(wrong());
    }
    let part = |from: usize, to: usize, least: i64, most: i64| {
        let digits = bytes[from..to].iter();
        if !digits.clone().all(u8::is_ascii_digit) {
            return Err(wrong());
        }
        let value = digits.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(wrong())
        }
    };
    // After 2261 nanoseconds do not fit.
    let (year, month) = (part(0, 4, 1970, 2261)?, part(5, 7, 1, 12)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let day = part(8, 10, 1, months[month as usize - 1])?;
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let days_before = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let days = days_before + months[..month as usize - 1].iter().sum::<i64>() + day - 1;
    let (hour, minute) = (part(11, 13, 0, 23)?, part(14, 16, 0, 59)?);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + part(17, 19, 0, 59)?;
    Ok(seconds * 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: GenerateOptions,
    }

    fn run(arguments: &str) -> (Generated, String) {
        let arguments = std::iter::once("gen").chain(arguments.split_whitespace());
        let options = Command::try_parse_from(arguments).unwrap().options;
        let mut out = Vec::new();
        let generated = generate(&options, &mut out).unwrap();
        assert_eq!(generated.bytes, out.len() as u64);
        (generated, String::from_utf8(out).unwrap())
    }

    fn hash(text: &str) -> u64 {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv)
    }

    #[test]
    fn the_same_options_give_the_same_bytes_for_ever() {
        let hashes = [
            "",
            "--hosts 50 --initial-hosts 10 --jitter-ms 500 --late-share 0.1 --precision ms \
             --format csv --fields 3 --seed 7 --interval 60",
            "--set iot --late-share 0.2 --late-lag 3 --precision s",
        ]
        .map(|arguments| format!("{:016x}", hash(&run(arguments).1)));
        assert_eq!(
            hashes,
            ["452a4d0be957fbbf", "0586f9bc238c6026", "f882491b429205a7"]
        );
    }

    #[test]
    fn rows_go_out_by_time_and_the_end_is_not_reached() {
        let (generated, text) = run("--hosts 3 --end 2026-01-01T00:00:21Z");
        assert_eq!(
            (generated.rows, generated.late_rows, generated.values),
            (9, 0, 90)
        );
        let rows: Vec<_> = text.lines().collect();
        assert!(
            rows[0].starts_with("cpu,hostname=host_0,region="),
            "{}",
            rows[0]
        );
        for (index, row) in rows.iter().enumerate() {
            let (host, epoch) = (index % 3, index / 3);
            assert!(row.starts_with(&format!("cpu,hostname=host_{host},")));
            let time = 1_767_225_600 + 10 * epoch;
            assert!(row.ends_with(&format!(" {time}000000000")), "{row}");
            let fields = row.split(' ').nth(1).unwrap();
            for field in fields.split(',') {
                let value = field.split_once('=').unwrap().1.strip_suffix('i').unwrap();
                assert!((0..=100).contains(&value.parse::<i64>().unwrap()));
            }
        }
        let (exact, _) = run("--hosts 3 --end 2026-01-01T00:00:20Z");
        assert_eq!(exact.rows, 6);
    }

    #[test]
    fn other_hosts_jitter_and_lateness_change_no_value() {
        let plain = |arguments: &str| {
            let (_, text) = run(arguments);
            let values = |row: &str| row.rsplit_once(' ').unwrap().0.to_owned();
            let mut rows: Vec<_> = text
                .lines()
                .filter(|row| row.starts_with("cpu,hostname=host_1,"))
                .map(values)
                .collect();
            rows.sort();
            rows
        };
        let expected = plain("--hosts 2");
        assert_eq!(expected.len(), 360);
        assert_eq!(plain("--hosts 5"), expected);
        assert_eq!(plain("--hosts 2 --jitter-ms 900"), expected);
        assert_eq!(plain("--hosts 2 --late-share 0.5"), expected);
        assert_ne!(plain("--hosts 2 --seed 1"), expected);
    }

    #[test]
    fn late_rows_come_within_their_lag() {
        let (generated, text) = run("--hosts 20 --late-share 0.25 --late-lag 3 --precision s");
        assert_eq!(generated.rows, 20 * 360);
        let share = generated.late_rows as f64 / generated.rows as f64;
        assert!((0.2..0.3).contains(&share), "{share}");
        let (mut newest, mut late) = (0, 0);
        for row in text.lines() {
            let time: i64 = row.rsplit_once(' ').unwrap().1.parse().unwrap();
            newest = newest.max(time);
            late += u64::from(time < newest);
            assert!(newest - time <= 30, "{row}");
        }
        // Only at the end can a late row meet no newer one.
        assert!((generated.late_rows - 20..=generated.late_rows).contains(&late));
    }

    #[test]
    fn hosts_join_evenly() {
        let (_, text) = run("--hosts 100 --initial-hosts 10 --precision s --interval 360");
        let mut counts = std::collections::BTreeMap::new();
        for row in text.lines() {
            *counts.entry(row.rsplit_once(' ').unwrap().1).or_insert(0) += 1;
        }
        let counts: Vec<_> = counts.into_values().collect();
        assert_eq!(counts, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    }

    #[test]
    fn csv_has_a_header_and_a_cell_for_every_column() {
        let (generated, text) = run("--set iot --format csv --hosts 30");
        let mut rows = text.lines();
        assert_eq!(
            rows.next().unwrap(),
            "name,fleet,driver,model,device_version,status,latitude,longitude,elevation,velocity,\
             fuel_state,current_load,engine_on,time"
        );
        let mut empty = 0;
        for row in rows.clone() {
            let cells: Vec<_> = row.split(',').collect();
            assert_eq!(cells.len(), 14, "{row}");
            assert!(!cells[5].is_empty() && !cells[0].is_empty());
            empty += cells[5..].iter().filter(|cell| cell.is_empty()).count() as u64;
        }
        assert_eq!(rows.count() as u64, generated.rows);
        assert_eq!(generated.values + empty, 8 * generated.rows);
        assert!(empty > generated.rows / 2);
    }

    #[test]
    fn the_iot_set_has_floats_switches_and_gaps() {
        let (_, text) = run("--set iot --hosts 50");
        assert!(text.lines().all(|row| row.contains(" status=")));
        assert!(text.contains("engine_on=true") && text.contains("engine_on=false"));
        assert!(text.lines().any(|row| !row.contains("current_load=")));
        assert!(text.lines().any(|row| !row.contains("fleet=")));
        let mut row = Vec::new();
        for (digits, units) in [(5, -123), (5, 9_000_000), (1, 5), (3, -1_001)] {
            value(&mut row, Show::Decimal(digits), units, Format::Lp);
            row.push(b' ');
        }
        assert_eq!(row, b"-0.00123 90.00000 0.5 -1.001 ");
    }

    #[test]
    fn options_that_contradict_themselves_are_refused() {
        for arguments in [
            "--hosts 0",
            "--hosts 1 --initial-hosts 2",
            "--interval 0",
            "--end 2026-01-01T00:00:00Z",
            "--fields 11",
            "--late-share 1.5",
            "--late-share 0.5 --late-lag 0",
        ] {
            let words = std::iter::once("gen").chain(arguments.split_whitespace());
            let options = Command::try_parse_from(words).unwrap().options;
            let error = generate(&options, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{arguments}");
        }
    }

    #[test]
    fn times_by_their_text() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-03-01T00:00:00Z", 59 * 86_400),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2026-01-01T00:00:00Z", 1_767_225_600),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("2261-12-31T23:59:59Z", 9_214_646_399),
        ] {
            assert_eq!(parse_time(text), Ok(seconds * 1_000_000_000), "{text}");
        }
        for text in [
            "",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00+",
            "2262-01-01T00:00:00Z",
            "20é6-01-01T00:00:0Z",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
