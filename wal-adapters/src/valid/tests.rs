//! The rule as tables of text, one per trace, and the bound of its memory.
//!
//! A line is `offset kind term writer n prev/prev_n -> verdict`, with `of X` before the arrow for a
//! frame of another incarnation; `floor term writer n from offset` starts a reader, `cur …` states
//! where it stands.

use bytes::Bytes;

use super::*;

const INCARNATION: u64 = 0xab;

/// Runs a table; every line that states something must state what happens.
fn check(table: &str) {
    let mut log = None;
    let mut stated = 0;
    for (number, line) in table.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let place = format!("line {}: {line}", number + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "floor" {
            let from = words.iter().position(|word| *word == "from").expect(&place);
            let from_offset = words[from + 1].parse().expect(&place);
            let floor = cur_of(&words[1..from]);
            log = Some(Acceptance::new(INCARNATION, floor, from_offset));
            continue;
        }
        let log = log.as_mut().expect(&place);
        stated += 1;
        if words[0] == "cur" {
            assert_eq!(log.cur(), cur_of(&words[1..]), "{place}");
            continue;
        }
        let (frame, expected) = line.split_once(" -> ").expect(&place);
        let (offset, frame) = frame_of(&frame.split_whitespace().collect::<Vec<_>>());
        let verdict = match log.valid(offset, &frame) {
            Verdict::Counts => "counts".to_owned(),
            Verdict::Apply => "apply".to_owned(),
            Verdict::Skip => "skip".to_owned(),
            Verdict::Broken(breach) => format!("broken: {breach}"),
        };
        assert_eq!(verdict, expected.trim(), "{place}");
    }
    assert!(stated > 2, "a table that states nothing");
}

fn term_of(word: &str) -> Term {
    let (epoch, inc) = word.split_once('.').unwrap();
    Term {
        epoch: epoch.parse().unwrap(),
        inc: inc.parse().unwrap(),
    }
}

fn writer_of(word: &str) -> u64 {
    u64::from(word.as_bytes()[0])
}

fn cur_of(words: &[&str]) -> Cur {
    if words == ["none"] {
        return Cur::default();
    }
    Cur {
        term: term_of(words[0]),
        writer: writer_of(words[1]),
        n: words[2].parse().unwrap(),
        sealed: words.get(3) == Some(&"sealed"),
    }
}

fn frame_of(words: &[&str]) -> (Offset, Frame) {
    let kind = match words[1] {
        "rows" => FrameKind::Rows,
        "mark" => FrameKind::Mark,
        "claim" => FrameKind::Claim,
        "seal" => FrameKind::Seal,
        other => panic!("no kind of frame: {other}"),
    };
    let (prev, prev_n) = words[5].split_once('/').unwrap();
    let incarnation = match words.get(6..) {
        Some(["of", hex]) => u64::from_str_radix(hex, 16).unwrap(),
        _ => INCARNATION,
    };
    let frame = Frame {
        kind,
        incarnation,
        term: term_of(words[2]),
        writer: writer_of(words[3]),
        n: words[4].parse().unwrap(),
        prev: prev.parse().unwrap(),
        prev_n: prev_n.parse().unwrap(),
        payload: Bytes::new(),
    };
    (words[0].parse().unwrap(), frame)
}

#[test]
fn every_rule() {
    check(include_str!("../../testdata/valid/rules.txt"));
}

#[test]
fn every_witness() {
    check(include_str!("../../testdata/valid/witness.txt"));
}

#[test]
fn trace_b_a_deposed_leader_whose_batch_lands_behind_the_claim() {
    check(include_str!("../../testdata/valid/trace-b.txt"));
}

#[test]
fn trace_c_a_zombie_frame_after_the_claim_was_truncated() {
    check(include_str!("../../testdata/valid/trace-c.txt"));
}

#[test]
fn trace_d_a_seal_that_lands_after_the_split_was_called_off() {
    check(include_str!("../../testdata/valid/trace-d.txt"));
}

#[test]
fn trace_f_a_duplicate_that_lands_after_the_flush() {
    check(include_str!("../../testdata/valid/trace-f.txt"));
}

#[test]
fn a_writer_that_never_moves_its_witness_costs_bounded_memory() {
    let floor = Cur {
        term: term_of("1.0"),
        writer: 1,
        n: 0,
        sealed: false,
    };
    let mut log = Acceptance::new(INCARNATION, floor, 0);
    let count = ACCOUNT_FRAMES_MAX as u64 * 2;
    let frame = |n: u64, prev: Offset, prev_n: u64| Frame {
        kind: FrameKind::Rows,
        incarnation: INCARNATION,
        term: floor.term,
        writer: 1,
        n,
        prev,
        prev_n,
        payload: Bytes::new(),
    };
    for n in 1..=count {
        assert_eq!(log.valid(n, &frame(n, 0, 0)), Verdict::Apply);
        assert!(log.account.accepted.len() <= ACCOUNT_FRAMES_MAX);
    }
    // What was dropped is taken on trust as far as it can be, what is remembered is not.
    let mut trusted = log.clone();
    assert_eq!(
        trusted.valid(count + 1, &frame(count + 1, 9, 8)),
        Verdict::Apply
    );
    let hole = log.valid(count + 1, &frame(count + 1, count, count - 2));
    assert!(matches!(hole, Verdict::Broken(Breach::Hole { .. })));
}
