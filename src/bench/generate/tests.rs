//! The generator: the same arguments give the same bytes, and what they say.

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
        "--kind iot --late-share 0.2 --late-lag 3 --precision s",
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
    let (generated, text) = run("--kind iot --format csv --hosts 30");
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
    let (_, text) = run("--kind iot --hosts 50");
    assert!(text.lines().all(|row| row.contains(" status=")));
    assert!(text.contains("engine_on=true") && text.contains("engine_on=false"));
    assert!(text.lines().any(|row| !row.contains("current_load=")));
    assert!(text.lines().any(|row| !row.contains("fleet=")));
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
