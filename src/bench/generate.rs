//! Writes a set as line protocol or CSV: all sources of one time, then of the next.
//!
//! The same options give the same bytes. Each source has streams of random numbers of its own, so
//! its values do not depend on how many other sources there are, on jitter or on lateness.
//!
//! Rooms: `sets` (what a host or truck looks like), `dice` (numbers that never change), `text` (rows
//! as bytes). Never here:
//! a server, a clock.

use std::io::{self, Write};

use dice::Dice;
use sets::{CPU_ONLY, Field, IOT, Set};
use text::Writer;

mod dice;
mod sets;
#[cfg(test)]
mod tests;
mod text;

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
    pub(crate) kind: Kind,
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

/// Numbers of streams: those of the sources follow the last.
const TAGS: u64 = 1 << 60;
const NULLS: u64 = 2 << 60;
const TIMES: u64 = 3 << 60;

/// Writes all rows.
///
/// * errors: `InvalidInput` for options that contradict themselves, before anything is written;
///   otherwise what `out` returns.
pub(crate) fn generate(options: &GenerateOptions, out: &mut dyn Write) -> io::Result<Generated> {
    let set = match options.kind {
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
            writer.write_chunk()?;
        }
        let due = epoch as usize % waiting.len();
        writer.late(&mut waiting[due])?;
    }
    for epoch in epochs..epochs + waiting.len() as i64 {
        let due = epoch as usize % waiting.len();
        writer.late(&mut waiting[due])?;
    }
    writer.finish()
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
