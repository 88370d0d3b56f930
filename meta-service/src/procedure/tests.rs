//! Procedures played in memory: what each writes and orders, step by step, and that a leader that
//! crashes anywhere changes nothing in the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use auxo_proto::ddl::NewColumn;
use auxo_proto::ids::{ColumnId, ProcedureId};
use auxo_proto::schema::{ColumnKind, ColumnType, TimeUnit};

use super::*;
use crate::keys::Key;
use crate::model::change::Write;
use crate::model::tests::first_start;
use crate::model::values::{Node, NodeState, ReignNumber, Unknown};

/// Plays procedures on a model in memory.
struct Stage {
    model: Model,
    trace: String,
    /// Verbs that nodes refuse for ever.
    refused: Vec<&'static str>,
    /// What nodes have done, by target.
    nodes: BTreeMap<String, String>,
    /// Moves so far, and the one before which the leader crashes.
    moves: usize,
    crash_at: Option<usize>,
    reign: ReignNumber,
}

impl Stage {
    /// A cluster with one node and two shards.
    fn new() -> Self {
        let mut model = first_start();
        let mut change = Change::new();
        let node = Node {
            name: "node-1".to_owned(),
            public: String::new(),
            internal: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            state: NodeState::Up,
            unknown: Unknown::default(),
        };
        change.put(Key::Node(NodeId(1)), &node);
        model = change.applied_to(&model);
        let mut stage = Self {
            model,
            trace: String::new(),
            refused: Vec::new(),
            nodes: BTreeMap::new(),
            moves: 0,
            crash_at: None,
            reign: ReignNumber {
                restored: 0,
                revision: 7,
            },
        };
        for fewer_than in [1, 2] {
            stage.play(&open_new(fewer_than)).unwrap();
        }
        stage.trace.clear();
        stage.moves = 0;
        stage
    }

    fn around(&self) -> Around {
        Around {
            now_ms: 100_000,
            random: Random::seeded(self.model.revision as u64),
            scores: BTreeMap::new(),
        }
    }

    fn write(&mut self, change: &Change) {
        for (key, write) in change.writes() {
            let sign = match write {
                Write::Put { .. } if self.model.revisions(key).is_some() => '~',
                Write::Put { .. } => '+',
                Write::Delete => '-',
            };
            let _ = write!(self.trace, " {sign}{key:?}");
        }
        self.trace.push('\n');
        self.model = change.applied_to(&self.model);
    }

    /// Whether the leader crashes now.
    fn crashes(&mut self) -> bool {
        self.moves += 1;
        self.crash_at == Some(self.moves)
    }

    /// Begins a procedure and plays all there are to their ends, through crashes.
    fn play(&mut self, kind: &Kind) -> Result<(), NotYet> {
        let around = self.around();
        let (change, _) = record::first(kind, None, None, self.reign, &self.model, &around)?;
        let _ = write!(self.trace, "{}:", kind.name());
        self.write(&change);
        while let Some(id) = self.next_running() {
            self.drive(id);
        }
        Ok(())
    }

    fn next_running(&self) -> Option<ProcedureId> {
        let running = self.model.procedures.iter().rev();
        let mut running = running.filter(|(_, record)| record.state != ProcedureState::Stuck);
        running.next().map(|(id, _)| *id)
    }

    /// Plays one procedure until it ends, waits for another, or the leader crashes.
    fn drive(&mut self, id: ProcedureId) {
        let mut progress = Progress::Entered;
        while let Some(record) = self.model.procedures.get(&id).cloned() {
            let around = self.around();
            let decided = decide(&record, &progress, &self.model, &around);
            if self.crashes() {
                self.reign.revision += 1;
                return;
            }
            match &decided {
                Move::Order { tasks, .. } => progress = self.act(id, &record, tasks),
                Move::Await { start } => {
                    let mut begun = false;
                    for kind in start {
                        let around = self.around();
                        let first =
                            record::first(kind, Some(id), None, self.reign, &self.model, &around);
                        if let Ok((change, child)) = first {
                            let _ = write!(self.trace, "{} of {id}:", kind.name());
                            self.write(&change);
                            self.drive(child);
                            begun = true;
                        }
                    }
                    if !begun {
                        return;
                    }
                }
                _ => {
                    let name = match &decided {
                        Move::Write { step, .. } => step.name(),
                        Move::Stick(_) => "stuck",
                        _ => "commit",
                    };
                    let _ = write!(self.trace, "{name}:");
                    let (reign, model) = (self.reign, self.model.clone());
                    let change = record::next(id, &record, decided.clone(), reign, &model, &around);
                    self.write(&change.unwrap());
                    progress = Progress::Entered;
                    if matches!(decided, Move::Stick(_)) {
                        return;
                    }
                }
            }
        }
    }

    fn act(&mut self, id: ProcedureId, record: &Procedure, tasks: &[Task]) -> Progress {
        for task in tasks {
            let (verb, what) = match &task.verb {
                Verb::Open(_) => ("open", format!("at {}", task.epoch)),
                Verb::Close(_) => ("close", String::new()),
                Verb::Flush(_) => ("flush", String::new()),
                Verb::CreateTablets(create) => ("create", tablets(&create.tablets)),
                Verb::DropTablets(drop) => ("drop", tablets(&drop.tablets)),
                other => panic!("{other:?}"),
            };
            let target = format!("{id}.{}.{}", record.step.name(), task.target);
            let _ = writeln!(self.trace, "  {target} {verb} {what}");
            if self.refused.contains(&verb) {
                return Progress::Failed(KeptFailure {
                    code: "BUSY".to_owned(),
                    detail: "refused".to_owned(),
                });
            }
            let (shard, done) = (task.shard.to_string(), format!("{verb} {what}"));
            match verb {
                "close" => self.nodes.retain(|key, _| !key.starts_with(&shard)),
                _ => {
                    self.nodes.insert(format!("{shard} {done}"), String::new());
                }
            }
        }
        Progress::Acted
    }
}

fn tablets(all: &[auxo_proto::pb::meta::Tablet]) -> String {
    let ids: Vec<String> = all.iter().map(|tablet| tablet.id.to_string()).collect();
    ids.join(",")
}

fn open_new(fewer_than: u32) -> Kind {
    Kind::OpenShard {
        shard: None,
        node: NodeId(1),
        role: Role::Leader,
        service: "local".to_owned(),
        fewer_than,
    }
}

fn table(name: &str, count: u32) -> Kind {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    let column = |id, name: &str, kind, ty| Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    };
    Kind::CreateTable(NewTable {
        database: DatabaseId(1),
        name: name.to_owned(),
        columns: vec![
            column(1, "host", ColumnKind::Tag, ColumnType::String),
            column(2, "ts", ColumnKind::Time, time),
        ],
        partition: Partition {
            columns: vec![ColumnId(1)],
            count,
        },
        options: TableOptions::default(),
    })
}

fn idle() -> NewColumn {
    NewColumn {
        name: "idle".to_owned(),
        kind: ColumnKind::Field,
        ty: ColumnType::Float64,
        nullable: true,
    }
}

/// Plays and compares what was written and ordered.
fn check(stage: &mut Stage, kind: &Kind, expected: &str) {
    stage.trace.clear();
    stage.play(kind).unwrap();
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    let trace: Vec<&str> = stage.trace.lines().map(str::trim).collect();
    assert_eq!(trace.join("\n"), expected.join("\n").trim());
}

#[test]
fn a_table_is_made() {
    check(
        &mut Stage::new(),
        &table("cpu", 3),
        r#"create_table: +Next(Table) +Next(Tablet) ~Next(Procedure) +Table(TableId(1)) +TableName(DatabaseId(1), "cpu") +Schema(TableId(1), SchemaNumber(1)) +Tablet(TableId(1), TabletId(1)) +Tablet(TableId(1), TabletId(2)) +Tablet(TableId(1), TabletId(3)) +Lock(Table(TableId(1))) +Procedure(ProcedureId(3))
          3.assign.1 create 1,3
          3.assign.2 create 2
        commit: ~Topology ~Table(TableId(1)) -Lock(Table(TableId(1))) -Procedure(ProcedureId(3)) +Past(ProcedureId(3))
        "#,
    );
}

#[test]
fn a_table_that_cannot_be_made_is_undone() {
    let mut stage = Stage::new();
    stage.refused = vec!["create"];
    check(
        &mut stage,
        &table("cpu", 1),
        r#"create_table: +Next(Table) +Next(Tablet) ~Next(Procedure) +Table(TableId(1)) +TableName(DatabaseId(1), "cpu") +Schema(TableId(1), SchemaNumber(1)) +Tablet(TableId(1), TabletId(1)) +Lock(Table(TableId(1))) +Procedure(ProcedureId(3))
          3.assign.1 create 1
        undo: ~Table(TableId(1)) -TableName(DatabaseId(1), "cpu") ~Procedure(ProcedureId(3))
          3.undo.1 drop 1
        commit: -Table(TableId(1)) -Schema(TableId(1), SchemaNumber(1)) -Tablet(TableId(1), TabletId(1)) -Lock(Table(TableId(1))) -Procedure(ProcedureId(3)) +Past(ProcedureId(3))
        "#,
    );
    let past = &stage.model.past[&ProcedureId(3)];
    assert!(matches!(&past.outcome, Outcome::Failed(failure) if failure.code == "BUSY"));
    assert_eq!(
        stage.model.next_id(crate::keys::Counter::Table),
        2,
        "ids are burnt"
    );
}

#[test]
fn a_table_is_altered_and_dropped() {
    let mut stage = Stage::new();
    stage.play(&table("cpu", 2)).unwrap();
    let alter = Kind::AlterTable {
        table: TableId(1),
        columns: vec![idle()],
        options: None,
    };
    check(
        &mut stage,
        &alter,
        "alter_table: ~Next(Procedure) +Schema(TableId(1), SchemaNumber(2)) +Lock(Table(TableId(1))) +Procedure(ProcedureId(4))
          4.schema.1 create 1
          4.schema.2 create 2
        commit: ~Topology ~Table(TableId(1)) -Lock(Table(TableId(1))) -Procedure(ProcedureId(4)) +Past(ProcedureId(4))
        ",
    );
    let drop = Kind::DropTable { table: TableId(1) };
    check(
        &mut stage,
        &drop,
        r#"drop_table: ~Next(Procedure) ~Topology ~Table(TableId(1)) -TableName(DatabaseId(1), "cpu") +Lock(Table(TableId(1))) +Procedure(ProcedureId(5))
          5.drop.1 drop 1
          5.drop.2 drop 2
        commit: -Table(TableId(1)) -Schema(TableId(1), SchemaNumber(1)) -Schema(TableId(1), SchemaNumber(2)) -Tablet(TableId(1), TabletId(1)) -Tablet(TableId(1), TabletId(2)) -Lock(Table(TableId(1))) -Procedure(ProcedureId(5)) +Past(ProcedureId(5))
        "#,
    );
    assert!(matches!(stage.play(&drop), Err(NotYet::Never(_))));
}

#[test]
fn what_cannot_be_undone_is_tried_for_as_long_as_it_takes() {
    let mut stage = Stage::new();
    stage.play(&table("cpu", 1)).unwrap();
    let alter = Kind::AlterTable {
        table: TableId(1),
        columns: vec![idle()],
        options: None,
    };
    let tries = |stage: &mut Stage, kind: &Kind, step: Option<Step>| {
        let around = stage.around();
        let first = record::first(kind, None, None, stage.reign, &stage.model, &around);
        stage.write(&first.unwrap().0);
        let (_, record) = stage.model.procedures.iter().next_back().unwrap();
        let mut record = record.clone();
        if let Some(step) = step {
            (record.step, record.state) = (step, ProcedureState::Undoing);
        }
        match decide(&record, &Progress::Entered, &stage.model, &around) {
            Move::Order { tries, .. } => tries,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tries(&mut stage, &alter, None), None);
    assert_eq!(tries(&mut stage, &table("mem", 1), None), TRIES);
    assert_eq!(tries(&mut stage, &table("disk", 1), Some(Step::Undo)), None);
}

#[test]
fn an_alteration_that_a_leader_refuses_waits_for_an_operator_with_its_lock() {
    let mut stage = Stage::new();
    stage.play(&table("cpu", 1)).unwrap();
    stage.refused = vec!["create"];
    let alter = Kind::AlterTable {
        table: TableId(1),
        columns: vec![idle()],
        options: None,
    };
    stage.play(&alter).unwrap();
    let record = &stage.model.procedures[&ProcedureId(4)];
    assert_eq!(record.state, ProcedureState::Stuck);
    assert_eq!(record.failure.as_ref().unwrap().detail, "refused");
    let held = stage.play(&Kind::DropTable { table: TableId(1) });
    assert_eq!(held, Err(NotYet::Later("procedure 4 to end".to_owned())));
}

#[test]
fn a_shard_is_made_closed_and_opened() {
    let mut stage = Stage::new();
    check(
        &mut stage,
        &open_new(3),
        "open_shard: ~Next(Shard) ~Next(Procedure) +Shard(ShardId(3)) +Lock(Shard(ShardId(3))) +Procedure(ProcedureId(3))
          3.replica.3 open at 1
        commit: ~Topology ~Shard(ShardId(3)) -Lock(Shard(ShardId(3))) -Procedure(ProcedureId(3)) +Past(ProcedureId(3))
        ",
    );
    assert!(matches!(
        stage.play(&open_new(3)),
        Err(NotYet::Satisfied(_))
    ));
    let close = Kind::CloseShard {
        shard: ShardId(3),
        node: NodeId(1),
    };
    check(
        &mut stage,
        &close,
        "close_shard: ~Next(Procedure) ~Topology ~Shard(ShardId(3)) +Lock(Shard(ShardId(3))) +Procedure(ProcedureId(4))
          4.retire.3 close
        commit: ~Shard(ShardId(3)) -Lock(Shard(ShardId(3))) -Procedure(ProcedureId(4)) +Past(ProcedureId(4))
        ",
    );
    assert_eq!(stage.model.shards[&ShardId(3)].leader, None);
    let open = Kind::OpenShard {
        shard: Some(ShardId(3)),
        node: NodeId(1),
        role: Role::Leader,
        service: String::new(),
        fewer_than: 0,
    };
    stage.play(&open).unwrap();
    assert_eq!(stage.model.shards[&ShardId(3)].epoch.0, 2);
    stage.play(&open).unwrap();
    assert_eq!(
        stage.model.shards[&ShardId(3)].epoch.0,
        2,
        "the same node leads on"
    );
}

#[test]
fn a_new_shard_that_cannot_be_opened_leaves_nothing_and_an_old_one_stays() {
    let mut stage = Stage::new();
    stage.refused = vec!["open"];
    stage.play(&open_new(3)).unwrap();
    assert!(!stage.model.shards.contains_key(&ShardId(3)));
    let open = Kind::OpenShard {
        shard: Some(ShardId(1)),
        node: NodeId(1),
        role: Role::Leader,
        service: String::new(),
        fewer_than: 0,
    };
    stage.play(&open).unwrap();
    assert_eq!(stage.model.shards[&ShardId(1)].leader, Some(NodeId(1)));
    assert_eq!(stage.model.procedures.len(), 0);
    assert_eq!(stage.model.locks.len(), 0);
}

/// The stage with a second node.
fn two_nodes() -> Stage {
    let mut stage = Stage::new();
    let mut node = stage.model.nodes[&NodeId(1)].clone();
    node.name = "node-2".to_owned();
    let mut change = Change::new();
    change.put(Key::Node(NodeId(2)), &node);
    stage.model = change.applied_to(&stage.model);
    stage
}

const MOVE: Kind = Kind::MoveShard {
    shard: ShardId(1),
    from: NodeId(1),
    node: NodeId(2),
};

#[test]
fn a_shard_moves_to_another_node() {
    let mut stage = two_nodes();
    check(
        &mut stage,
        &MOVE,
        "move_shard: ~Next(Procedure) +Lock(Shard(ShardId(1))) +Procedure(ProcedureId(3))
          3.warm.1 flush
        hand_over: ~Shard(ShardId(1)) ~Procedure(ProcedureId(3))
          3.hand_over.1 open at 2
        retire: ~Topology ~Shard(ShardId(1)) ~Procedure(ProcedureId(3))
          3.retire.1 close
        commit: ~Shard(ShardId(1)) -Lock(Shard(ShardId(1))) -Procedure(ProcedureId(3)) +Past(ProcedureId(3))
        ",
    );
    let shard = &stage.model.shards[&ShardId(1)];
    assert_eq!((shard.leader, shard.epoch.0), (Some(NodeId(2)), 2));
    assert_eq!(shard.replicas.len(), 1);
    assert!(matches!(stage.play(&MOVE), Err(NotYet::Satisfied(_))));
    let away = Kind::MoveShard {
        shard: ShardId(1),
        from: NodeId(1),
        node: NodeId(3),
    };
    assert!(matches!(stage.play(&away), Err(NotYet::Never(_))));
}

#[test]
fn a_shard_that_the_other_node_cannot_open_goes_back() {
    let mut stage = two_nodes();
    stage.refused = vec!["open"];
    stage.play(&MOVE).unwrap();
    let shard = &stage.model.shards[&ShardId(1)];
    assert_eq!((shard.leader, shard.epoch.0), (Some(NodeId(1)), 3));
    assert!(shard.replica(NodeId(2)).is_none());
    assert_eq!(stage.model.procedures.len(), 0);
    assert_eq!(stage.model.locks.len(), 0);
    let past = stage.model.past.values().next_back().unwrap();
    assert!(matches!(past.outcome, Outcome::Failed(_)));
}

#[test]
fn a_crash_in_the_middle_of_a_move_changes_nothing_in_the_end() {
    for refused in [vec![], vec!["open"], vec!["flush", "close"]] {
        let mut whole = two_nodes();
        whole.refused = refused.clone();
        whole.play(&MOVE).unwrap();
        for crash_at in 1..=whole.moves {
            let mut stage = two_nodes();
            stage.refused = refused.clone();
            stage.crash_at = Some(crash_at);
            stage.play(&MOVE).unwrap();
            assert_eq!(stage.reign.revision, 8, "it crashed once");
            assert_eq!(stage.model.shards, whole.model.shards, "crash {crash_at}");
            assert_eq!(stage.model.locks.len(), 0, "crash {crash_at}");
            assert_eq!(stage.nodes, whole.nodes, "crash {crash_at}");
        }
    }
}

/// Everything a user can ask for, one after the other.
fn play_all(stage: &mut Stage) {
    let all = [
        table("cpu", 250),
        Kind::AlterTable {
            table: TableId(1),
            columns: vec![idle()],
            options: Some(TableOptions {
                ttl_ms: Some(1),
                ..TableOptions::default()
            }),
        },
        table("mem", 2),
        Kind::DropTable { table: TableId(1) },
        open_new(3),
        Kind::DropDatabase {
            database: DatabaseId(1),
        },
    ];
    for kind in all {
        stage.play(&kind).unwrap();
    }
}

#[test]
fn a_crash_between_any_two_moves_changes_nothing_in_the_end() {
    let mut whole = Stage::new();
    play_all(&mut whole);
    assert_eq!(whole.model.tables.len(), 0);
    assert!(whole.moves >= 15, "{}", whole.moves);
    for crash_at in 1..=whole.moves {
        let mut stage = Stage::new();
        stage.crash_at = Some(crash_at);
        play_all(&mut stage);
        assert_eq!(stage.reign.revision, 8, "it crashed once");
        assert_eq!(stage.nodes, whole.nodes, "crash {crash_at}");
        assert_eq!(
            stage.model.topology(),
            whole.model.topology(),
            "crash {crash_at}"
        );
        assert_eq!(stage.model.next, whole.model.next, "crash {crash_at}");
        assert_eq!(stage.model.locks.len(), 0, "crash {crash_at}");
        assert_eq!(
            stage.model.past.len(),
            whole.model.past.len(),
            "crash {crash_at}"
        );
    }
}
