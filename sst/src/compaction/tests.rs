//! Decisions as text, and what holds of any history of flushes and rewrites.

use std::fmt::Write;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::manifest::samples::{HOUR_NS, flush, fresh, term};
use crate::manifest::{Manifest, Retired, check};

const MIB: u64 = 1 << 20;
const MINUTE_MS: i64 = 60_000;

fn made(key_of: &FileEntry, number: u64, minute: i64) -> String {
    let ulid = ulid::Ulid::from_parts((minute * MINUTE_MS) as u64, number.into());
    let folder = key_of.key.rsplit_once('/').unwrap().0;
    format!("{folder}/11-21-{ulid}.parquet")
}

/// One file a line: `seqs keys MiB [final] [@minute it was made]`, in the segment of 6 h that
/// begins at minute 0; `now MINUTE` before them.
fn parse(input: &str) -> (i64, Vec<FileEntry>) {
    let mut now_ms = 0;
    let mut files = Vec::new();
    for (number, line) in input.trim().lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "now" {
            now_ms = words[1].parse::<i64>().unwrap() * MINUTE_MS;
            continue;
        }
        let (low, high) = words[0].split_once('-').unwrap();
        let (first, last) = words[1].split_once("..").unwrap();
        let seqs = (low.parse().unwrap(), high.parse().unwrap());
        let mut file = crate::manifest::samples::file(term(1, 0), 1, 0, seqs);
        let minute = words.iter().find_map(|word| word.strip_prefix('@'));
        let minute = minute.map_or(0, |minute| minute.parse().unwrap());
        file.key = made(&file, number as u64, minute);
        file.first_key = Bytes::copy_from_slice(first.as_bytes());
        file.last_key = Bytes::copy_from_slice(last.as_bytes());
        file.length = words[2].parse::<u64>().unwrap() * MIB;
        file.is_final = words.contains(&"final");
        files.push(file);
    }
    (now_ms, files)
}

fn show(plans: &[Plan]) -> String {
    let mut text = String::new();
    for plan in plans {
        let rule = format!("{:?}", plan.rule).to_lowercase();
        let files = plan.inputs.len();
        let (low, high) = (plan.seq_min, plan.seq_max);
        let mib = plan.input_bytes() / MIB;
        write!(text, "{rule} {low}-{high}: {files} files, {mib} MiB").unwrap();
        if plan.cut_bytes < 64 * MIB {
            write!(text, ", cut at {} MiB", plan.cut_bytes / MIB).unwrap();
        }
        text.push('\n');
    }
    text
}

fn check_pick(input: &str, expected: &str) {
    let (now_ms, files) = parse(input);
    let plans = pick(&files, &Options::default(), now_ms);
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    assert_eq!(show(&plans), expected, "{input}");
}

#[test]
fn five_layers_stay_and_six_of_a_size_become_one() {
    let five = "now 200
        0-9 a..z 1
        10-19 a..z 4
        20-29 a..z 2
        30-39 a..z 2
        40-49 a..z 1";
    check_pick(five, "");
    let six = format!("{five}\n50-59 b..c 1");
    check_pick(&six, "tier 0-59: 6 files, 11 MiB");
    let too_large = format!("{five}\n50-59 b..c 5");
    check_pick(&too_large, "");
}

#[test]
fn pieces_of_one_flush_are_one_layer() {
    check_pick(
        "now 200
        0-9 a..k 64
        0-9 l..z 40
        10-19 a..z 30
        20-29 a..z 30
        30-39 a..z 30
        40-49 a..z 30
        50-59 a..k 64
        50-59 l..z 30",
        "tier 0-59: 8 files, 318 MiB, cut at 63 MiB",
    );
}

#[test]
fn the_run_that_costs_least_is_joined_and_large_old_layers_rest() {
    check_pick(
        "now 200
        0-9 a..z 36
        10-19 a..z 6
        20-29 a..z 6
        30-39 a..z 1
        40-49 a..z 1
        50-59 a..z 1
        60-69 a..z 1
        70-79 a..z 1
        80-89 a..z 1
        90-99 a..z 1",
        "tier 30-99: 7 files, 7 MiB",
    );
}

#[test]
fn more_than_twelve_layers_are_joined_whatever_their_sizes() {
    let twelve = "now 200
        0-9 a..z 4000
        10-19 a..z 4000
        20-29 a..z 4000
        30-39 a..z 4000
        40-49 a..z 4000
        50-59 a..z 60
        60-69 a..z 60
        70-79 a..z 60
        80-89 a..z 60
        90-99 a..z 60
        100-109 a..z 1
        110-119 a..z 1";
    check_pick(twelve, "");
    let thirteen = format!("{twelve}\n120-129 a..z 1");
    check_pick(&thirteen, "tier 70-129: 6 files, 183 MiB, cut at 61 MiB");
}

#[test]
fn a_segment_closes_when_it_is_over_and_quiet() {
    let files = "
        0-9 a..k 40 @40
        0-9 l..z 40 @40
        10-19 a..z 20 @360";
    let close = "close 0-19: 3 files, 100 MiB, cut at 50 MiB";
    check_pick(&format!("now 395{files}"), "");
    check_pick(&format!("now 396{files}"), close);
    check_pick(&format!("now 396{files}\n20-29 a..b 1 @387"), "");
    let quiet = "close 0-29: 4 files, 101 MiB, cut at 50 MiB";
    check_pick(&format!("now 397{files}\n20-29 a..b 1 @387"), quiet);
}

#[test]
fn a_segment_under_constant_load_closes_after_six_hours_all_the_same() {
    let files = "
        0-9 a..z 40 @40
        10-19 a..z 20 @399";
    check_pick(&format!("now 399{files}"), "");
    let close = "close 0-19: 2 files, 60 MiB";
    check_pick(&format!("now 400{files}"), close);
}

#[test]
fn one_layer_or_a_closed_segment_is_left_alone() {
    check_pick("now 1000\n0-9 a..z 1", "");
    check_pick("now 1000\n0-9 a..k 40\n0-9 l..z 40", "");
    check_pick("now 1000\n0-9 a..k 40 final\n0-9 l..z 40 final", "");
}

#[test]
fn final_files_are_never_joined_by_tier() {
    check_pick(
        "now 1000
        0-9 a..b 50 final
        10-19 c..d 50 final
        20-29 e..f 50 final
        30-39 g..h 50 final
        40-49 i..j 50 final
        50-59 k..l 50 final
        60-69 m..n 13 @999",
        "",
    );
}

#[test]
fn late_rows_wait_until_they_are_worth_a_rewrite() {
    let closed = "now 1000
        0-99 a..f 50 final
        0-99 g..p 50 final
        0-99 q..z 50 final";
    let late = |mib: u64, minute: i64| format!("{closed}\n100-109 h..i {mib} @{minute}");
    check_pick(&late(14, 900), "");
    check_pick(&late(15, 900), "late 0-109: 2 files, 65 MiB, cut at 32 MiB");
    check_pick(&late(15, 991), "");
    check_pick(&late(1, 641), "");
    check_pick(&late(1, 640), "late 0-109: 2 files, 51 MiB");
}

#[test]
fn many_late_layers_are_joined_first_and_then_worked_in() {
    let mut input = "now 1000\n0-99 a..z 5000 final".to_owned();
    for number in 10..15 {
        let size = if number == 10 { 60 } else { 1 };
        write!(input, "\n{number}0-{number}9 a..z {size} @900").unwrap();
    }
    check_pick(&input, "");
    for number in 15..18 {
        write!(input, "\n{number}0-{number}9 a..z 30 @900").unwrap();
    }
    check_pick(&input, "late 0-179: 9 files, 5154 MiB, cut at 63 MiB");
    let unquiet = input.replace("@900", "@995");
    check_pick(&unquiet, "");
    let six = unquiet.replace("z 30", "z 4");
    check_pick(&six, "tier 110-169: 6 files, 12 MiB");
}

#[test]
fn late_rows_touch_only_the_keys_they_meet() {
    check_pick(
        "now 1000
        0-99 a..f 50 final
        0-99 g..p 50 final
        0-99 q..z 50 final
        100-109 a..b 9 @900
        110-119 c..d 9 @900
        120-129 y..z 9 @900",
        "late 0-119: 3 files, 68 MiB, cut at 34 MiB
        late 0-129: 2 files, 59 MiB",
    );
}

#[test]
fn small_neighbours_are_taken_along() {
    check_pick(
        "now 1000
        0-99 a..b 2 final
        0-99 c..d 3 final
        0-99 q..z 50 final
        100-109 e..e 1 @100",
        "late 0-109: 2 files, 4 MiB",
    );
    check_pick(
        "now 1000
        0-99 a..b 40 final
        100-109 c..c 1 @100
        0-99 d..e 20 final
        0-99 f..g 20 final
        0-99 h..i 20 final",
        "late 0-109: 3 files, 41 MiB",
    );
}

#[test]
fn crowded_segments_come_first() {
    let (now_ms, mut files) = parse("now 200\n0-9 a..z 1");
    let template = files.remove(0);
    let mut number = 0;
    let mut add = |tablet: u64, layers: u64| {
        for layer in 0..layers {
            let mut file = template.clone();
            number += 1;
            file.key = made(&file, number, 0);
            file.tablet = TabletId(tablet);
            file.seq_min = Seq(layer * 10);
            file.seq_max = Seq(layer * 10 + 9);
            file.length = tablet * MIB;
            files.push(file);
        }
    };
    add(1, 6);
    add(2, 33);
    add(3, 32);
    let plans = pick(&files, &Options::default(), now_ms);
    let tablets: Vec<u64> = plans.iter().map(|plan| plan.tablet.0).collect();
    assert_eq!(tablets, [2, 1, 3]);
}

#[test]
fn files_expire_ten_minutes_after_their_youngest_row() {
    let (_, mut files) = parse("0-9 a..z 1\n10-19 a..z 1");
    files[0].t_max = 1_000 * 1_000_000;
    files[1].t_max = 1_001 * 1_000_000 - 1;
    let expire = |ttl_ms, now_ms| expired(&files, |_| ttl_ms, now_ms).count();
    assert_eq!(expire(Some(5_000), 606_000), 0);
    assert_eq!(expire(Some(5_000), 606_001), 2);
    files.swap(0, 1);
    files[0].t_max += 1;
    let expire = |ttl_ms, now_ms| expired(&files, |_| ttl_ms, now_ms).count();
    assert_eq!(expire(Some(5_000), 606_001), 1);
    assert_eq!(expire(None, i64::MAX), 0);
    assert_eq!(expire(Some(u64::MAX), i64::MAX), 0);
    assert_eq!(expire(Some(0), i64::MIN), 0);
}

/// A shard with one tablet that flushes and compacts, each commit held against the laws.
struct Shard {
    manifest: Manifest,
    minute: i64,
    written: u64,
    flushed: u64,
    number: u64,
    running: Vec<Plan>,
}

/// Rows of one flush: hour of the segment's start, keys, MiB.
#[derive(Clone, Debug)]
struct Rows {
    segment: i64,
    first: u8,
    last: u8,
    mib: u64,
}

impl Shard {
    fn new() -> Self {
        Self {
            manifest: fresh(term(1, 0), 1, 0, 1),
            minute: 0,
            written: 0,
            flushed: 0,
            number: 1,
            running: Vec::new(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.minute * MINUTE_MS
    }

    fn commit(&mut self, next: Manifest) {
        check::commit(Some(&self.manifest), &next).unwrap();
        self.manifest = next;
    }

    /// One flush with a file for each of `rows`, which are of different segments.
    fn flush(&mut self, rows: &[Rows], segment_hours: i64) {
        self.number += 1;
        let flushed = self.manifest.flushed + 10;
        let mut next = flush(&self.manifest, flushed, self.number.into());
        let template = next.files.pop().unwrap();
        for rows in rows {
            self.number += 1;
            let mut file = template.clone();
            file.key = made(&file, self.number, self.minute);
            file.segment_start = rows.segment * segment_hours * HOUR_NS;
            file.segment_ns = (segment_hours * HOUR_NS) as u64;
            file.t_min = file.segment_start;
            file.t_max = file.segment_start;
            file.first_key = Bytes::copy_from_slice(&[rows.first]);
            file.last_key = Bytes::copy_from_slice(&[rows.last]);
            file.length = rows.mib * MIB;
            self.flushed += file.length;
            self.written += file.length;
            next.files.push(file);
        }
        self.commit(next);
    }

    /// What may begin now beside what runs.
    fn pick(&self) -> Vec<Plan> {
        let mut plans = pick(&self.manifest.files, &Options::default(), self.now_ms());
        for (index, plan) in plans.iter().enumerate() {
            let others = &plans[index + 1..];
            assert!(!others.iter().any(|other| plan.shares_input(other)));
        }
        plans.retain(|plan| !self.running.iter().any(|other| plan.shares_input(other)));
        plans
    }

    /// Writes what the plan says and commits it.
    fn finish(&mut self, plan: &Plan) {
        self.number += 1;
        let mut next = self.manifest.clone();
        next.write_id = self.number.into();
        next.retired.clear();
        for input in &plan.inputs {
            let at = next.files.iter().position(|file| file == input).unwrap();
            next.files.remove(at);
            next.retired.push(Retired {
                key: input.key.clone(),
                length: input.length,
                at_ms: self.now_ms(),
            });
        }
        let first = plan
            .inputs
            .iter()
            .map(|file| file.first_key[0])
            .min()
            .unwrap();
        let last = plan
            .inputs
            .iter()
            .map(|file| file.last_key[0])
            .max()
            .unwrap();
        let keys = u64::from(last - first) + 1;
        let pieces = plan.input_bytes().div_ceil(plan.cut_bytes).min(keys);
        for piece in 0..pieces {
            self.number += 1;
            let bound = |piece: u64| first + (keys * piece / pieces) as u8;
            let mut file = plan.inputs[0].clone();
            file.key = made(&file, self.number, self.minute);
            file.seq_min = plan.seq_min;
            file.seq_max = plan.seq_max;
            file.first_key = Bytes::copy_from_slice(&[bound(piece)]);
            file.last_key = Bytes::copy_from_slice(&[bound(piece + 1) - 1]);
            file.length = plan.input_bytes() / pieces;
            file.rows = plan.inputs.iter().map(|file| file.rows).sum::<u64>() / pieces;
            file.is_final = plan.is_final;
            self.written += file.length;
            next.files.push(file);
        }
        self.commit(next);
    }

    /// Runs everything that is worth it; how many plans that were.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        while let Some(plan) = self.pick().first().cloned() {
            self.finish(&plan);
            count += 1;
            assert!(count < 10_000, "rewriting never ends");
        }
        count
    }

    fn most_layers(&self) -> usize {
        let mut segments: BTreeMap<i64, Vec<&FileEntry>> = BTreeMap::new();
        for file in &self.manifest.files {
            segments.entry(file.segment_start).or_default().push(file);
        }
        let counts = segments.into_values().map(|files| layers(files).len());
        counts.max().unwrap_or_default()
    }

    fn amplification(&self) -> f64 {
        self.written as f64 / self.flushed as f64
    }
}

/// One load for a number of minutes, a flush every so many, everything settled in between; then
/// bytes written for each byte flushed, and the most layers a read ever met.
fn load(
    minutes: i64,
    every: i64,
    segment_hours: i64,
    rows: impl Fn(i64) -> Vec<Rows>,
) -> (f64, usize) {
    let mut shard = Shard::new();
    let mut most = 0;
    for minute in 1..=minutes {
        shard.minute = minute;
        if minute % every == 0 {
            shard.flush(&rows(minute), segment_hours);
        }
        if minute % 10 == 0 || minute % every == 0 {
            shard.settle();
            most = most.max(shard.most_layers());
        }
    }
    shard.minute += 100_000;
    shard.settle();
    assert_eq!(shard.most_layers(), 1);
    (shard.amplification(), most)
}

fn rows(segment: i64, mib: u64) -> Rows {
    Rows {
        segment,
        first: 1,
        last: 200,
        mib,
    }
}

#[test]
fn rows_in_order_are_written_three_times_at_most_in_segments_of_six_hours() {
    for every in [10, 15, 30] {
        let in_order = |minute: i64| vec![rows((minute - 1) / 360, 8)];
        let (amplification, most) = load(3 * 1440, every, 6, in_order);
        assert!(amplification <= 3.0, "{every}: {amplification}");
        assert!(most <= 13, "{every}: {most} layers");
    }
}

#[test]
fn rows_in_order_are_written_five_times_at_most_in_longer_segments() {
    for (every, hours) in [(30, 24), (30, 7 * 24), (120, 28 * 24)] {
        let in_order = |minute: i64| vec![rows((minute - 1) / (hours * 60), 8)];
        let (amplification, most) = load(2 * hours * 60, every, hours, in_order);
        assert!(amplification <= 5.0, "{every} {hours}: {amplification}");
        assert!(most <= 13, "{every} {hours}: {most} layers");
    }
}

#[test]
fn loading_an_old_segment_does_not_rewrite_it_with_each_flush() {
    let (amplification, most) = load(500, 1, 6, |_| vec![rows(-100, 8)]);
    assert!(amplification <= 6.0, "{amplification}");
    assert!(most <= 17, "{most} layers");
}

#[test]
fn a_trickle_of_late_rows_keeps_reads_short() {
    let mut shard = Shard::new();
    let (mut most, mut minute) = (0, 0);
    while minute < 10 * 1440 {
        minute += 30;
        shard.minute = minute;
        let current = (minute - 1) / 360;
        shard.flush(&[rows(current, 60), rows(current - 1, 1)], 6);
        shard.settle();
        most = most.max(shard.most_layers());
    }
    assert!(most <= 13, "{most} layers");
    assert!(shard.amplification() <= 4.0, "{}", shard.amplification());
}

#[derive(Clone, Debug)]
enum Event {
    Flush(Vec<Rows>),
    Wait(i64),
    Start(usize),
    Finish(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let rows =
        (0..3_i64, 1..60_u8, 0..40_u8, 1..100_u64).prop_map(|(segment, first, more, mib)| Rows {
            segment,
            first,
            last: first + more,
            mib,
        });
    let flush = proptest::collection::vec(rows, 1..4).prop_map(|mut rows| {
        rows.sort_by_key(|rows| rows.segment);
        rows.dedup_by_key(|rows| rows.segment);
        Event::Flush(rows)
    });
    prop_oneof![
        6 => flush,
        3 => (1..300_i64).prop_map(Event::Wait),
        3 => (0..3_usize).prop_map(Event::Start),
        2 => (0..3_usize).prop_map(Event::Finish),
    ]
}

proptest! {
    /// Flushes, and plans that begin and end in any order: no commit breaks a law, and in the end
    /// nothing is left to do.
    #[test]
    fn any_history_keeps_the_laws_and_comes_to_rest(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut shard = Shard::new();
        for event in events {
            match event {
                Event::Flush(rows) => shard.flush(&rows, 6),
                Event::Wait(minutes) => shard.minute += minutes,
                Event::Start(index) => {
                    let plans = shard.pick();
                    if let Some(plan) = plans.get(index) {
                        shard.running.push(plan.clone());
                    }
                }
                Event::Finish(index) => {
                    if index < shard.running.len() {
                        let plan = shard.running.remove(index);
                        shard.finish(&plan);
                    }
                }
            }
        }
        while let Some(plan) = shard.running.pop() {
            shard.finish(&plan);
        }
        shard.minute += 100_000;
        shard.settle();
        prop_assert_eq!(shard.pick(), Vec::new());
        let files = &shard.manifest.files;
        for (index, file) in files.iter().enumerate() {
            let apart = |other: &FileEntry| {
                file.segment_start != other.segment_start || !check::may_share_keys(file, other)
            };
            prop_assert!(files[index + 1..].iter().all(apart), "a read would merge {file:?}");
        }
    }
}
