//! Bytes and laws of manifests.

use std::collections::BTreeSet;

use auxo_proto::schema::HashRange;
use proptest::prelude::*;

use super::samples::{HOUR_NS, bump, file, flush, fresh, full, term};
use super::*;

const GOLDEN: &[u8] = include_bytes!("../../testdata/manifest-1.bin");

#[test]
fn golden_bytes_decode_to_the_written_value() {
    assert_eq!(Manifest::decode(GOLDEN), Ok(full()));
}

#[test]
fn the_value_encodes_to_the_golden_bytes() {
    assert_eq!(full().encode(), GOLDEN);
}

#[test]
fn every_flipped_bit_is_refused() {
    for bit in 0..GOLDEN.len() * 8 {
        let mut bytes = GOLDEN.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn every_missing_or_added_byte_is_refused() {
    for length in 0..GOLDEN.len() {
        assert!(Manifest::decode(&GOLDEN[..length]).is_err(), "{length}");
    }
    let longer = [GOLDEN, b"\0"].concat();
    let found = longer.len();
    let expected = GOLDEN.len();
    assert_eq!(
        Manifest::decode(&longer),
        Err(DecodeError::Length { found, expected })
    );
}

fn framed(version: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"AUXM".to_vec();
    bytes.push(version);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

#[test]
fn what_is_wrong_is_named() {
    let newer = Manifest::decode(&framed(2, b"")).unwrap_err();
    assert_eq!(newer, DecodeError::Newer { found: 2 });
    assert_eq!(
        newer.to_string(),
        "manifest format 2 is newer than 1, the newest this program reads"
    );
    assert_eq!(
        Manifest::decode(b"PAR1.........................."),
        Err(DecodeError::NotAManifest)
    );
    assert_eq!(Manifest::decode(b"PA"), Err(DecodeError::NotAManifest));
    let mut rotten = GOLDEN.to_vec();
    rotten[40] ^= 1;
    assert_eq!(Manifest::decode(&rotten), Err(DecodeError::Checksum));
    assert_eq!(
        Manifest::decode(&framed(1, b"")),
        Err(DecodeError::Malformed("a term is missing".into()))
    );
}

#[test]
fn a_filter_too_deep_to_read_back_is_refused_before_it_is_written() {
    let mut filter = TagFilter::Any;
    for _ in 1..check::FILTER_DEPTH_MAX {
        filter = TagFilter::Not(Box::new(filter));
    }
    let mut manifest = full();
    manifest.deletes[0].filter = filter.clone();
    assert_eq!(check::sound(&manifest), Ok(()));
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
    manifest.deletes[0].filter = TagFilter::Not(Box::new(filter));
    let law = check::sound(&manifest).unwrap_err().law;
    assert_eq!(law, "deletes_are_known");
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(Manifest::decode(&bytes).is_err());
        if let Ok(manifest) = Manifest::decode(&framed(1, &bytes)) {
            let again = Manifest::decode(&manifest.encode());
            prop_assert_eq!(again, Ok(manifest));
        }
    }

    #[test]
    fn a_whole_body_with_foreign_bytes_never_panics(
        at in 9..GOLDEN.len() - 4,
        with in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut body = GOLDEN[9..GOLDEN.len() - 4].to_vec();
        body.splice(at - 9..at - 9, with);
        let _ = Manifest::decode(&framed(1, &body));
    }

    #[test]
    fn numbers_survive(
        numbers in any::<[u64; 6]>(),
        ids in any::<[u128; 2]>(),
        times in any::<[i64; 4]>(),
        end in any::<i128>(),
        key in "\\PC{0,12}",
    ) {
        let mut manifest = full();
        manifest.write_id = ids[0];
        manifest.writer = numbers[0];
        manifest.base_seq = Seq(numbers[1]);
        manifest.flushed = numbers[2];
        manifest.claim = numbers[3];
        manifest.floor.n = numbers[4];
        manifest.files[0].length = numbers[5];
        manifest.files[0].t_min = times[0];
        manifest.files[0].segment_start = times[1];
        manifest.files[0].key = key;
        manifest.deletes[0].time = TimeRange { start: times[2], end };
        manifest.retired[0].at_ms = times[3];
        let tenants = &mut Arc::make_mut(&mut manifest.batches).tenants;
        tenants[0].entries[0].id = BatchId(ids[1]);
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }
}

/// A change and the law it must break.
type Breach<T> = (&'static str, fn(&mut T));

const UNSOUND: &[Breach<Manifest>] = &[
    ("tables_agree", |m| {
        m.tablets[1].table = renamed(&m.tablets[1].table);
    }),
    ("tablets_partition_tables", |m| m.tablets[1].range.lo = 9),
    ("tablets_partition_tables", |m| {
        m.tablets[1].id = TabletId(31)
    }),
    ("tablets_partition_tables", |m| {
        m.tablets[2].range = HashRange { lo: 2, hi: 1 };
    }),
    ("files_are_bounded", |m| m.files[0].key.clear()),
    ("files_are_bounded", |m| m.files[0].length = 511),
    ("files_are_bounded", |m| m.files[0].offset = u64::MAX),
    ("files_are_bounded", |m| m.files[0].rows = 0),
    ("files_are_bounded", |m| m.files[0].series = 1001),
    ("files_are_bounded", |m| m.files[0].t_min = HOUR_NS + 1),
    ("files_are_bounded", |m| m.files[0].t_max = 6 * HOUR_NS),
    ("files_are_bounded", |m| m.files[0].seq_min = Seq(5_200)),
    ("files_are_bounded", |m| m.files[0].last_key = Bytes::new()),
    ("files_are_bounded", |m| m.files[0].columns.reverse()),
    ("files_have_tablets", |m| {
        m.tablets.remove(0);
    }),
    ("files_have_tablets", |m| m.files[0].tablet = TabletId(33)),
    ("files_have_tablets", |m| m.files[0].range.hi = 10),
    ("files_have_tablets", |m| m.files[0].schema.0 = 4),
    ("files_below_flushed", |m| m.files[0].seq_max = Seq(5_200)),
    ("segments_do_not_straddle", |m| {
        m.files[1].segment_ns += 1;
    }),
    ("segments_do_not_straddle", |m| {
        let mut longer = m.files[0].clone();
        longer.segment_ns *= 2;
        m.files.push(longer);
    }),
    ("sources_are_disjoint", |m| {
        let again = file(term(3, 1), 0xabc, 3, (5_000, 5_100));
        m.files.push(again);
    }),
    ("retired_is_not_live", |m| {
        m.retired[0].key = m.files[0].key.clone();
    }),
    ("retired_is_not_live", |m| {
        m.retired.push(m.retired[0].clone());
    }),
    ("floor_agrees_with_claim", |m| m.floor.term.inc = 0),
    ("floor_agrees_with_claim", |m| m.floor.writer = 1),
    ("floor_agrees_with_claim", |m| m.claim = 200),
    ("batches_are_sorted", |m| batches(m).reverse()),
    ("batches_are_sorted", |m| batches(m)[0].entries.reverse()),
    ("batches_are_sorted", |m| {
        batches(m)[0].low_water = Some(BatchId(2));
    }),
    ("batches_are_sorted", |m| {
        batches(m)[0].entries[1].seq = Seq(5_200);
    }),
    ("deletes_are_known", |m| m.deletes[0].tablet = TabletId(99)),
    ("deletes_are_known", |m| m.deletes[0].seq = Seq(5_200)),
    ("parents_are_bounded", |m| m.parents[0].from = 4_000),
    ("parents_are_bounded", |m| m.parents[0].until = 4_000),
    ("parents_are_bounded", |m| m.parents[0].until = u64::MAX),
];

fn batches(manifest: &mut Manifest) -> &mut Vec<TenantBatches> {
    &mut Arc::make_mut(&mut manifest.batches).tenants
}

fn renamed(table: &Arc<auxo_proto::schema::TableInfo>) -> Arc<auxo_proto::schema::TableInfo> {
    let mut table = (**table).clone();
    table.name.push('x');
    Arc::new(table)
}

#[test]
fn every_law_of_one_manifest_can_be_broken() {
    assert_eq!(check::sound(&full()), Ok(()));
    let mut seen = BTreeSet::new();
    for (index, (law, breach)) in UNSOUND.iter().enumerate() {
        let mut manifest = full();
        breach(&mut manifest);
        let broken = check::sound(&manifest).expect_err("a law breaks");
        assert_eq!(broken.law, *law, "{index}: {broken}");
        seen.insert(*law);
    }
    let laws: BTreeSet<_> = check::SOUND.iter().map(|(law, _)| *law).collect();
    assert_eq!(seen, laws);
}

#[test]
fn disjoint_in_one_way_is_enough() {
    let ways: [fn(&mut FileEntry); 4] = [
        |file| file.seq_min = Seq(5_050),
        |file| file.first_key = Bytes::from_static(b"\x02zz\x00"),
        |file| file.range = HashRange { lo: 5, hi: 9 },
        |file| file.tablet = TabletId(32),
    ];
    for (index, way) in ways.iter().enumerate() {
        let mut manifest = full();
        manifest.files.truncate(1);
        manifest.files[0].range.hi = 4;
        let mut other = file(term(3, 1), 0xabc, 9, (5_150, 5_199));
        other.range = HashRange { lo: 4, hi: 9 };
        other.last_key = Bytes::from_static(b"\x02zzz\x00");
        manifest.files.push(other);
        assert_eq!(
            check::sound(&manifest).unwrap_err().law,
            "sources_are_disjoint"
        );
        let other = &mut manifest.files[1];
        way(other);
        if index == 0 {
            other.seq_max = Seq(5_099);
        }
        if index == 3 {
            other.range = HashRange { lo: 10, hi: 11 };
        }
        assert_eq!(check::sound(&manifest), Ok(()), "{index}");
    }
}

#[test]
fn number_one_states_a_claim_and_inherits() {
    let first = fresh(term(1, 0), 1, 0, 1);
    assert_eq!(check::commit(None, &first), Ok(()));

    let mut flushed = first.clone();
    flushed.flushed = 1;
    flushed.floor.term = term(1, 0);
    flushed.floor.writer = 1;
    let broken = check::commit(None, &flushed).unwrap_err();
    assert_eq!(broken.law, "first_is_a_claim");

    let mut own = first.clone();
    own.base_seq = Seq(100);
    own.files.push(file(term(1, 0), 1, 1, (0, 9)));
    let broken = check::commit(None, &own).unwrap_err();
    assert_eq!(broken.law, "first_files_are_inherited");
    own.parents = full().parents;
    own.parents[0].base_seq = Seq(0);
    own.parents[0].from = 10;
    own.parents[0].until = 99;
    assert_eq!(check::commit(None, &own), Ok(()));
}

/// A leader's manifest after two flushes, and what it makes of it next.
struct Pair {
    before: Manifest,
    after: Manifest,
}

fn flushed_twice() -> Manifest {
    let first = fresh(term(2, 0), 0xb, 4, 1);
    let mut manifest = flush(&flush(&first, 10, 2), 20, 3);
    manifest.batches = full().batches;
    batches(&mut manifest)[0].entries.clear();
    manifest
}

fn flushes() -> Pair {
    let before = flushed_twice();
    let after = flush(&before, 30, 4);
    Pair { before, after }
}

fn bumps() -> Pair {
    let before = flushed_twice();
    let after = bump(&before, term(2, 1), 0xc, 25, 4);
    Pair { before, after }
}

fn compacts() -> Pair {
    let before = flushed_twice();
    let mut after = before.clone();
    after.write_id = 4;
    for file in after.files.drain(..) {
        after.retired.push(Retired {
            key: file.key,
            length: file.length,
            at_ms: 1,
        });
    }
    let mut output = file(term(2, 0), 0xb, 99, (0, 19));
    output.rows = 1500;
    after.files.push(output);
    Pair { before, after }
}

fn rebases() -> Pair {
    let Pair { before, mut after } = bumps();
    after.incarnation = 6;
    after.base_seq = Seq(1_000);
    after.flushed = 0;
    after.claim = 0;
    Pair { before, after }
}

#[test]
fn lawful_steps_pass() {
    for pair in [flushes(), bumps(), compacts(), rebases()] {
        assert_eq!(check::commit(Some(&pair.before), &pair.after), Ok(()));
    }
}

type Unlawful = (&'static str, fn() -> Pair, fn(&mut Pair));

const UNLAWFUL: &[Unlawful] = &[
    ("write_id_is_fresh", flushes, |p| p.after.write_id = 3),
    ("term_never_falls", bumps, |p| {
        std::mem::swap(&mut p.before, &mut p.after);
    }),
    ("one_writer_a_term", bumps, |p| p.after.term = term(2, 0)),
    ("base_seq_is_fixed", flushes, |p| {
        p.after.base_seq = Seq(1);
    }),
    ("base_seq_is_fixed", compacts, |p| p.after.incarnation = 6),
    ("flushed_never_falls", compacts, |p| p.before.flushed = 21),
    ("flushed_never_falls", rebases, |p| {
        p.after.base_seq = Seq(u64::MAX);
        p.after.flushed = 1;
    }),
    ("claim_never_falls", bumps, |p| p.before.claim = 26),
    ("floor_never_falls", flushes, |p| p.after.floor.n = 19),
    ("floor_never_falls", compacts, |p| p.after.floor.n = 21),
    ("sealed_is_last", flushes, |p| {
        p.before.floor.sealed = true;
        p.after.floor.sealed = true;
    }),
    ("term_begins_with_a_bump", bumps, |p| p.after.claim = 4),
    ("term_begins_with_a_bump", bumps, |p| {
        p.after = flush(&p.after, 30, 5);
    }),
    ("term_begins_with_a_bump", bumps, |p| {
        p.after.files.pop();
    }),
    ("term_begins_with_a_bump", bumps, |p| {
        p.after.tablets.clear()
    }),
    ("term_begins_with_a_bump", bumps, |p| {
        batches(&mut p.after).clear();
    }),
    ("live_files_do_not_change", flushes, |p| {
        p.after.files[0].is_final = true;
    }),
    ("new_files_are_own", flushes, |p| {
        p.after.files[2].key = file(term(1, 9), 0xb, 30, (0, 0)).key;
    }),
    ("new_files_are_own", flushes, |p| {
        p.after.files[2].key = "7/elsewhere".into();
    }),
    ("compaction_adds_nothing", flushes, |p| {
        p.before.files.pop();
        p.after.files.remove(1);
        p.after.files[1].seq_min = Seq(19);
    }),
    ("compaction_adds_nothing", compacts, |p| {
        p.after.files[0].rows = 2001;
    }),
    ("compaction_adds_nothing", compacts, |p| {
        p.before.files.pop();
        p.after.retired.pop();
    }),
    ("compaction_adds_nothing", compacts, |p| {
        p.after.files[0].last_key = Bytes::from_static(b"\x03");
    }),
    ("compaction_adds_nothing", compacts, |p| {
        p.after.files[0].segment_start = 6 * HOUR_NS;
        p.after.files[0].t_min = 6 * HOUR_NS;
        p.after.files[0].t_max = 6 * HOUR_NS;
    }),
    ("compaction_adds_nothing", flushes, |p| {
        p.after.flushed = p.before.flushed;
        p.after.floor = p.before.floor;
    }),
    ("left_objects_retire", compacts, |p| {
        p.after.retired.pop();
    }),
    ("retired_never_returns", flushes, |p| {
        p.before.retired.push(Retired {
            key: p.after.files[2].key.clone(),
            length: 1,
            at_ms: 1,
        });
    }),
    ("parents_only_leave", flushes, |p| {
        p.after.base_seq = Seq(5_000);
        p.before.base_seq = Seq(5_000);
        p.after.parents = full().parents;
        p.after.files.iter_mut().for_each(|file| raise(file, 5_000));
        p.before
            .files
            .iter_mut()
            .for_each(|file| raise(file, 5_000));
    }),
    ("schemas_only_advance", flushes, |p| {
        let mut table = (*p.after.tablets[0].table).clone();
        let mut schema = (*table.schema).clone();
        schema.columns[2].name.push('x');
        table.schema = Arc::new(schema);
        p.after.tablets[0].table = Arc::new(table);
    }),
    ("low_water_never_falls", flushes, |p| {
        batches(&mut p.after)[0].low_water = None;
    }),
    ("low_water_never_falls", flushes, |p| {
        batches(&mut p.after).clear();
    }),
];

fn raise(file: &mut FileEntry, by: u64) {
    file.seq_min.0 += by;
    file.seq_max.0 += by;
}

#[test]
fn every_law_of_a_step_can_be_broken() {
    let mut seen = BTreeSet::new();
    for (index, (law, lawful, breach)) in UNLAWFUL.iter().enumerate() {
        let mut pair = lawful();
        breach(&mut pair);
        let broken = check::FOLLOWS
            .iter()
            .find_map(|(law, holds)| {
                holds(&pair.before, &pair.after)
                    .err()
                    .map(|why| (*law, why))
            })
            .unwrap_or_else(|| panic!("{index}: {law} does not break"));
        assert_eq!(broken.0, *law, "{index}: {}", broken.1);
        seen.insert(*law);
    }
    let laws: BTreeSet<_> = check::FOLLOWS.iter().map(|(law, _)| *law).collect();
    assert_eq!(seen, laws);
}
