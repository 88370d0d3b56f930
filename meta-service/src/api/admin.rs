//! What an operator is shown, as JSON, and the few things one can do to a procedure or a shard.
//!
//! Never here: a table layout; the command line makes one of the JSON.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{NodeId, ProcedureId, ShardId, TableId};
use auxo_proto::pb::meta::{self, ShardPhase};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::{Seen, View};
use crate::keys::Key;
use crate::lead::Lead;
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{Life, Node, NodeState, Role, Shard, Table, Verdict};
use crate::procedure::{Kind, NotYet};
use crate::reign::WriteError;

/// Every verb, with what its target is.
pub const VERBS: &[(&str, &str)] = &[
    ("status", ""),
    ("node list", ""),
    ("node show", "ID or name"),
    ("node drain", "ID or name"),
    ("node undrain", "ID or name"),
    ("shard list", ""),
    ("shard show", "ID"),
    ("shard open", "SHARD/NODE"),
    ("shard close", "SHARD/NODE"),
    ("shard move", "SHARD/NODE by id or name"),
    ("table list", ""),
    ("table show", "ID, name, or database.name"),
    ("table route", "ID, name, or database.name"),
    ("procedure list", ""),
    ("procedure show", "ID"),
    ("procedure history", ""),
    ("procedure retry", "ID"),
    ("meta check", ""),
];

/// Answers a verb.
///
/// * errors: `NOT_FOUND` for an unknown thing, `BAD_REQUEST` for an unknown verb or target.
pub async fn answer(lead: &Lead, verb: &str, target: &str) -> Result<Value, Failure> {
    let reign = &lead.reign;
    let read = |look: &dyn Fn(&Model, &View) -> Result<Value, Failure>| {
        lead.sessions
            .view(|view, _| reign.mirror.read(|model| look(model, view)))
    };
    match verb {
        "status" => read(&|model, view| Ok(status(model, view, &reign.number.to_string()))),
        "node list" => read(&|model, view| {
            let nodes = model.nodes.iter();
            Ok(nodes
                .map(|(id, node)| node_json(*id, node, model, view))
                .collect())
        }),
        "node show" => read(&|model, view| {
            let (id, node) = node_named(model, target).ok_or_else(|| missing("node", target))?;
            let mut shown = node_json(*id, node, model, view);
            if let Some(seen) = view.node(*id) {
                shown["reported"] = seen.shards.values().map(reported).collect();
            }
            Ok(shown)
        }),
        "shard list" => read(&|model, view| {
            let shards = model.shards.iter();
            Ok(shards
                .map(|(id, shard)| shard_json(*id, shard, model, view))
                .collect())
        }),
        "shard show" => read(&|model, view| {
            let id = ShardId(number(target)?);
            let shard = model
                .shards
                .get(&id)
                .ok_or_else(|| missing("shard", target))?;
            let mut shown = shard_json(id, shard, model, view);
            let tablets = model.tablets.iter();
            let tablets = tablets.filter(|(_, tablet)| tablet.shard == id);
            shown["tablets"] = tablets
                .map(|((table, tablet), value)| {
                    json!({"table": table, "tablet": tablet, "lo": value.lo, "hi": value.hi})
                })
                .collect();
            Ok(shown)
        }),
        "shard open" => {
            let (shard, node) = pair(target)?;
            begin(
                lead,
                Kind::OpenShard {
                    shard: Some(shard),
                    node,
                    role: Role::Leader,
                    service: String::new(),
                    fewer_than: 0,
                },
            )
            .await
        }
        "shard close" => {
            let (shard, node) = pair(target)?;
            begin(lead, Kind::CloseShard { shard, node }).await
        }
        "shard move" => {
            let (shard, to) = target.split_once('/').unwrap_or((target, ""));
            let shard = ShardId(number(shard)?);
            let found = reign.mirror.read(|model| {
                let known = model.shards.get(&shard).map(|shard| shard.leader);
                (known, node_named(model, to).map(|(id, _)| *id))
            });
            let leader = found.0.ok_or_else(|| missing("shard", target))?;
            let node = found.1.ok_or_else(|| missing("node", to))?;
            let Some(from) = leader else {
                let detail = format!("shard {shard} has no leader; open it on node {node}");
                return Err(Failure::new(ErrorCode::NotAllowed, detail));
            };
            begin(lead, Kind::MoveShard { shard, from, node }).await
        }
        "node drain" => set_state(lead, target, NodeState::Draining).await,
        "node undrain" => set_state(lead, target, NodeState::Up).await,
        "table list" => read(&|model, _| {
            let tables = model.tables.iter();
            Ok(tables
                .map(|(id, table)| {
                    let database = model.databases.get(&table.database);
                    json!({
                        "id": id,
                        "database": database.map(|database| database.name.clone()),
                        "name": table.name,
                        "schema": table.schema,
                        "state": value(&table.state),
                        "tablets": model.tablets_of(*id).count(),
                    })
                })
                .collect())
        }),
        "table show" => read(&|model, _| {
            let found = table_named(model, target);
            let id = found.ok_or_else(|| missing("table", target))?;
            let info = model
                .table_info(id)
                .ok_or_else(|| missing("table", target))?;
            let mut shown = value(info);
            shown["state"] = value(&model.tables.get(&id).map(|table| table.state));
            Ok(shown)
        }),
        "table route" => read(&|model, _| {
            let found = table_named(model, target);
            route(found.ok_or_else(|| missing("table", target))?, model)
        }),
        "procedure list" => read(&|model, _| {
            let procedures = model.procedures.iter();
            Ok(procedures
                .map(|(id, record)| with_id(*id, record))
                .collect())
        }),
        "procedure show" => read(&|model, _| {
            let id = ProcedureId(number(target)?);
            let running = model.procedures.get(&id).map(|record| with_id(id, record));
            let past = || model.past.get(&id).map(|past| with_id(id, past));
            running
                .or_else(past)
                .ok_or_else(|| missing("procedure", target))
        }),
        "procedure history" => read(&|model, _| {
            let past = model.past.iter().rev();
            Ok(past.map(|(id, past)| with_id(*id, past)).collect())
        }),
        "procedure retry" => {
            let id = ProcedureId(number(target)?);
            lead.runner.retry(id).await?;
            Ok(json!({"procedure": id}))
        }
        "meta check" => {
            let view = lead.sessions.view(|view, _| view.clone());
            let checked = reign.check(&view).await;
            let violations = checked
                .map_err(|error| Failure::new(ErrorCode::MetaUnavailable, error.to_string()))?;
            Ok(json!({"whole": violations.is_empty(), "violations": value(&violations)}))
        }
        other => {
            let detail = format!("there is no verb {other}");
            Err(Failure::new(ErrorCode::BadRequest, detail))
        }
    }
}

/// Sets what a node is for, by its id or its name; the scheduler does what follows from it.
async fn set_state(lead: &Lead, target: &str, state: NodeState) -> Result<Value, Failure> {
    let written = lead.reign.write(|model| {
        let (id, node) = node_named(model, target).ok_or_else(|| missing("node", target))?;
        if node.state == NodeState::Removed {
            let detail = format!("node {target} was removed");
            return Err(Failure::new(ErrorCode::NotAllowed, detail));
        }
        let mut change = Change::new();
        let mut node = node.clone();
        node.state = match (node.state, state) {
            (NodeState::Drained, NodeState::Draining) => NodeState::Drained,
            (_, wanted) => wanted,
        };
        let shown = json!({"node": id, "state": value(&node.state)});
        change.put(Key::Node(*id), &node);
        Ok((change, shown))
    });
    match written.await {
        Ok(shown) => Ok(shown),
        Err(WriteError::Refused(failure)) => Err(failure),
        Err(other) => Err(Failure::new(ErrorCode::MetaUnavailable, other.to_string())),
    }
}

async fn begin(lead: &Lead, kind: Kind) -> Result<Value, Failure> {
    match lead.runner.begin(&kind, None).await {
        Ok(id) => Ok(json!({"procedure": id})),
        Err(NotYet::Never(failure)) => Err(failure),
        Err(NotYet::Later(what)) => {
            let detail = format!("waits for {what}");
            Err(Failure::new(ErrorCode::Busy, detail))
        }
        Err(NotYet::Satisfied(_)) => Ok(json!({"procedure": null})),
    }
}

fn status(model: &Model, view: &View, reign: &str) -> Value {
    let stuck: Vec<_> = model
        .procedures
        .iter()
        .filter(|(_, record)| record.failure.is_some())
        .map(|(id, _)| *id)
        .collect();
    let leaderless: Vec<_> = model
        .shards
        .iter()
        .filter(|(id, shard)| !served(**id, shard, view))
        .map(|(id, _)| *id)
        .collect();
    json!({
        "cluster": model.identity.as_ref().map(|identity| identity.cluster_uuid.clone()),
        "leader": model.leader().map(|(_, _, member)| member.name.clone()),
        "reign": reign,
        "revision": model.revision,
        "topology": model.topology_number(),
        "meta": model.metas.values().map(value).collect::<Value>(),
        "nodes": {"known": model.nodes.len(), "online": view.online().count()},
        "shards": {"all": model.shards.len(), "not_served": leaderless},
        "databases": model.databases.len(),
        "tables": model.tables.values().filter(|table| table.state == Life::Live).count(),
        "procedures": {"running": model.procedures.len(), "failed": stuck},
        "unreadable": model.unreadable.keys().map(|key| format!("{key:?}")).collect::<Vec<_>>(),
    })
}

fn node_json(id: NodeId, node: &Node, model: &Model, view: &View) -> Value {
    let liveness = model.liveness.get(&id);
    let seen = view.node(id);
    let led = model.shards.values();
    let led = led.filter(|shard| shard.leader == Some(id)).count();
    json!({
        "id": id,
        "name": node.name,
        "public": node.public,
        "internal": node.internal,
        "zone": node.zone,
        "labels": node.labels,
        "state": value(&node.state),
        "online": liveness.is_some_and(|known| known.verdict == Verdict::Online),
        "since_ms": liveness.map(|known| known.since_ms),
        "connected": seen.is_some_and(|seen| !seen.boot.is_empty() && !seen.dead),
        "leads": led,
        "memory_bytes": seen.map(|seen| seen.load.memory_bytes),
        "memory_bytes_max": seen.map(|seen| seen.load.memory_bytes_max),
    })
}

fn shard_json(id: ShardId, shard: &Shard, model: &Model, view: &View) -> Value {
    let mut shown = value(shard);
    shown["id"] = value(&id);
    shown["tablet_count"] = value(&model.tablets.values().filter(|one| one.shard == id).count());
    shown["served"] = value(&served(id, shard, view));
    let seen = shard.leader.and_then(|leader| view.node(leader));
    shown["reported"] = match seen.and_then(|seen: &Seen| seen.shards.get(&id)) {
        Some(state) => reported(state),
        None => Value::Null,
    };
    shown
}

fn served(id: ShardId, shard: &Shard, view: &View) -> bool {
    let seen = shard.leader.and_then(|leader| view.node(leader));
    let state = seen.and_then(|seen| seen.shards.get(&id));
    state.is_some_and(|state| {
        state.phase() == ShardPhase::Serving && state.role() == meta::Role::Leader
    })
}

fn reported(state: &meta::ShardState) -> Value {
    json!({
        "shard": state.shard,
        "role": state.role().as_str_name().trim_start_matches("ROLE_").to_lowercase(),
        "phase": state.phase().as_str_name().trim_start_matches("SHARD_PHASE_").to_lowercase(),
        "term": format!("{}.{}", state.epoch, state.inc),
        "manifest": state.manifest,
        "flushed": state.flushed,
        "applied": state.applied,
        "unflushed_bytes": state.unflushed_bytes,
        "rows_written": state.rows_written,
        "bytes_written": state.bytes_written,
        "rows_read": state.rows_read,
        "bytes_read": state.bytes_read,
        "why": state.why,
    })
}

fn route(table: TableId, model: &Model) -> Result<Value, Failure> {
    if !model.tables.contains_key(&table) {
        return Err(missing("table", &table.to_string()));
    }
    let tablets = model.tablets_of(table).map(|(id, tablet)| {
        let leader = model
            .shards
            .get(&tablet.shard)
            .and_then(|shard| shard.leader);
        let node = leader.and_then(|leader| model.nodes.get(&leader));
        json!({
            "tablet": id,
            "lo": tablet.lo,
            "hi": tablet.hi,
            "shard": tablet.shard,
            "node": leader,
            "write": node.map(|node| node.public.clone()),
        })
    });
    Ok(tablets.collect())
}

fn with_id(id: ProcedureId, record: &impl Serialize) -> Value {
    let mut shown = json!({"id": id});
    if let (Value::Object(shown), Value::Object(record)) = (&mut shown, value(record)) {
        shown.extend(record);
    }
    shown
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

fn number(target: &str) -> Result<u64, Failure> {
    target.parse().map_err(|_| {
        let detail = format!("{target:?} is not an id");
        Failure::new(ErrorCode::BadRequest, detail)
    })
}

fn pair(target: &str) -> Result<(ShardId, NodeId), Failure> {
    let (shard, node) = target.split_once('/').unwrap_or((target, ""));
    Ok((ShardId(number(shard)?), NodeId(number(node)?)))
}

/// A node by its id or its name.
fn node_named<'a>(model: &'a Model, target: &str) -> Option<(&'a NodeId, &'a Node)> {
    let named = |(id, node): &(&NodeId, &Node)| node.name == target || id.to_string() == target;
    model.nodes.iter().find(named)
}

/// A table by its id, its name in the database `main`, or its name behind that of its database and a
/// point.
fn table_named(model: &Model, target: &str) -> Option<TableId> {
    let (database, name) = target.split_once('.').unwrap_or(("main", target));
    let named = |id: &TableId, table: &Table| {
        let known = model.databases.get(&table.database);
        let known = known.is_some_and(|known| known.name == database);
        let live = table.state == Life::Live;
        id.to_string() == target || (live && known && table.name == name)
    };
    let mut tables = model.tables.iter();
    tables
        .find(|(id, table)| named(id, table))
        .map(|(id, _)| *id)
}

fn missing(what: &str, target: &str) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no {what} {target}"))
}
