//! The bytes of `state.redb`'s rows, fixed for ever: `testdata/state-format-1.txt` holds one line for each
//! row that a short life leaves behind, `table key value` in hexadecimal.

use std::fmt::Write;

use etcd_client::proto::{PbDeleteRequest, PbMember, PbPutRequest, PbRangeRequest};
use prost::Message;
use redb::{Durability, Key, ReadOnlyTable, ReadableTable, Value};

use super::tables::ReadTables;
use super::*;

const GOLDEN: &str = include_str!("../../testdata/state-format-1.txt");

fn new_store(dir: &tempfile::TempDir) -> Store {
    let identity = Identity {
        cluster: 0x1111,
        member: 0x2222,
    };
    Store::open(&dir.path().join("state.redb"), identity)
        .unwrap()
        .0
}

/// Two keys, one of them leased and written twice, the other deleted; then a compaction, barely begun.
fn live(store: &Store) {
    let put = |key: &str, value: &str, lease| PbPutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        ..Default::default()
    };
    let txn = store.begin_write(Durability::Immediate).unwrap();
    let mut tables = Tables::open(&txn).unwrap();
    Writer::new(&mut tables, 1, -1).grant(7, 60).unwrap();
    let mut writer = Writer::new(&mut tables, 1, -1);
    writer.put(&put("a", "1", 7)).unwrap();
    writer.put(&put("b", "2", 0)).unwrap();
    Writer::new(&mut tables, 2, -1)
        .put(&put("a", "3", 7))
        .unwrap();
    let delete = PbDeleteRequest {
        key: b"b".to_vec(),
        ..Default::default()
    };
    Writer::new(&mut tables, 3, -1).delete(&delete).unwrap();
    let removal = compact::begin(&mut tables, 3, -1, 4).unwrap();
    compact::step(&mut tables, removal, 1).unwrap();
    let member = PbMember {
        id: 0x2222,
        name: "m".to_owned(),
        ..Default::default()
    };
    tables
        .member
        .insert(member.id, member.encode_to_vec().as_slice())
        .unwrap();
    tables
        .set_meta(MetaKey::Revision, &4_i64.to_le_bytes())
        .unwrap();
    tables
        .set_meta(MetaKey::Applied, &[[5, 0, 0, 0, 0, 0, 0, 0]; 2].concat())
        .unwrap();
    tables
        .set_meta(
            MetaKey::Membership,
            &[[1; 16].as_slice(), b"voters"].concat(),
        )
        .unwrap();
    drop(tables);
    txn.commit().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn rows<K: Key + 'static, V: Value + 'static>(name: &str, table: &ReadOnlyTable<K, V>) -> String {
    table.iter().unwrap().fold(String::new(), |mut out, row| {
        let (key, value) = row.unwrap();
        let key = hex(K::as_bytes(&key.value()).as_ref());
        let value = hex(V::as_bytes(&value.value()).as_ref());
        writeln!(out, "{name} {key} {value}").unwrap();
        out
    })
}

fn dump(tables: &ReadTables) -> String {
    [
        rows("rev", &tables.rev),
        rows("key", &tables.key),
        rows("old", &tables.old),
        rows("lease", &tables.lease),
        rows("lease_key", &tables.lease_key),
        rows("member", &tables.member),
        rows("meta", &tables.meta),
    ]
    .concat()
}

#[test]
fn a_life_leaves_the_golden_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    live(&store);
    let found = dump(&store.view().unwrap().tables);
    assert_eq!(found, GOLDEN, "\n{found}");
}

#[test]
fn the_golden_rows_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    let txn = store.begin_write(Durability::Immediate).unwrap();
    let mut tables = Tables::open(&txn).unwrap();
    for line in GOLDEN.lines() {
        let mut words = line.split(' ');
        let (table, key, value) = (
            words.next().unwrap(),
            unhex(words.next().unwrap()),
            unhex(words.next().unwrap()),
        );
        macro_rules! insert {
            ($table:expr, $key:ty, $value:ty) => {
                $table
                    .insert(<$key>::from_bytes(&key), <$value>::from_bytes(&value))
                    .map(drop)
                    .unwrap()
            };
        }
        match table {
            "rev" => insert!(tables.rev, (i64, u32), &[u8]),
            "key" => insert!(tables.key, &[u8], (i64, i64, u32, i64, i64)),
            "old" => insert!(tables.old, (&[u8], i64, u32), (i64, i64, bool)),
            "lease" => insert!(tables.lease, i64, (i64, i64)),
            "lease_key" => insert!(tables.lease_key, (i64, &[u8]), ()),
            "member" => insert!(tables.member, u64, &[u8]),
            "meta" => insert!(tables.meta, &str, &[u8]),
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        compact::pending(&tables)
            .unwrap()
            .map(|removal| removal.upto),
        Some(3)
    );
    drop(tables);
    txn.commit().unwrap();

    let view = store.view().unwrap();
    assert_eq!((view.revision(), view.compacted()), (4, 3));
    assert_eq!(view.applied().unwrap(), Some((5, 5)));
    let (term, _, content) = view.membership().unwrap().unwrap();
    assert_eq!((term, content), (0x0101_0101_0101_0101, b"voters".to_vec()));
    assert_eq!(view.members().unwrap()[0].name, "m");
    assert_eq!(lease_keys(&view, 7).unwrap(), [b"a"]);
    let all = |revision| PbRangeRequest {
        key: b"a".to_vec(),
        range_end: b"\0".to_vec(),
        revision,
        ..Default::default()
    };
    let values = |revision| -> Vec<Vec<u8>> {
        let found = range(&view, &all(revision)).unwrap().kvs.into_iter();
        found.map(|kv| kv.value).collect()
    };
    assert_eq!(values(0), [b"3"]);
    assert_eq!(values(3), [b"3", b"2"]);
}
