//! The two files read back what was written, also what earlier versions wrote.

use auxo_proto::ids::ShardId;

use super::*;
use crate::session::verbs::ShardRole;

const NODE: &[u8] = include_bytes!("../../../testdata/node.version-1.json");
const TOPOLOGY: &[u8] = include_bytes!("../../../testdata/topology.version-1.json");

fn node() -> KeptNode {
    KeptNode {
        node: 7,
        cluster: "01932b1c-5f7e-7c3a-9d55-3b8f5e2a1c44".to_owned(),
        reign: (0, 12),
        meta: vec!["10.0.0.1:7001".to_owned()],
        opens: vec![OpenShard {
            shard: ShardId(1),
            epoch: 4_294_967_297,
            role: ShardRole::Leader,
            wal_service: "local".to_owned(),
            incarnation: 0x74ea_c8d4_d78c_d8a3,
            base_seq: 9,
        }],
    }
}

#[test]
fn golden_files_are_read_and_written_to_the_same_bytes() {
    let read: KeptNode = decode("node.json", "auxo-node", NODE).unwrap();
    assert_eq!(read, node());
    assert_eq!(
        String::from_utf8(encode("auxo-node", &node())).unwrap(),
        String::from_utf8_lossy(NODE)
    );
    let topology: Topology = decode("topology.json", "auxo-topology", TOPOLOGY).unwrap();
    assert_eq!(topology.tables[0].name, "cpu");
    assert_eq!(topology.tablets[1].range.hi, u32::MAX);
    assert_eq!(
        String::from_utf8(encode("auxo-topology", &topology)).unwrap(),
        String::from_utf8_lossy(TOPOLOGY)
    );
}

#[test]
fn what_is_damaged_foreign_or_newer_is_named() {
    let refused = |bytes: &[u8]| {
        let read: Result<KeptNode, KeptError> = decode("node.json", "auxo-node", bytes);
        read.unwrap_err().to_string()
    };
    for cut in 0..NODE.len() {
        refused(&NODE[..cut]);
    }
    let mut flipped = NODE.to_vec();
    let at = flipped.len() - 4;
    flipped[at] ^= 1;
    assert!(refused(&flipped).contains("checksum"));
    assert!(refused(TOPOLOGY).contains("auxo-topology, not auxo-node"));
    let newer = String::from_utf8_lossy(NODE).replace("\"version\":1", "\"version\":2");
    assert!(refused(newer.as_bytes()).contains("version 2"));
}

#[tokio::test]
async fn a_file_is_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = NodeFile::new(&directory.path().join("made"));
    assert_eq!(file.read().await.unwrap(), None);
    for node in [1, 2] {
        let kept = KeptNode {
            node,
            ..KeptNode::default()
        };
        file.write(&kept).await.unwrap();
        assert_eq!(file.read().await.unwrap(), Some(kept));
    }
}
