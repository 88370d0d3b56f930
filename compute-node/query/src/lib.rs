//! SQL over shards: text in, streams of record batches out. The only crate that knows DataFusion.
//!
//! The way of a SELECT: [`Query::prepare`] (`statement`: text → plan, names looked up by `names`)
//! → [`Query::execute`] (`run`: limits, memory, stream; on `threads` of their own) → `table` (snapshots of the tablets,
//! predicates by `pushdown`) → `scan` (sorted batches from [`source`], made Arrow by `columns`).
//! Tablets of other nodes are read there, with as much of the plan as can go to them ([`fragment`]).
//! `failure` turns whatever went wrong into the catalogue's failures, with its place in the text.
//!
//! Never here: a socket, a token, a quota, a file of ours, a WAL. Rows come in through
//! [`source::Snapshots`]; what a statement changes is handed back as a value for others to do.

mod clauses;
mod column_types;
mod columns;
mod cursor;
mod ddl;
mod decimals;
mod delete;
mod duration;
mod exact_times;
mod explain;
mod failure;
pub mod fragment;
mod functions;
mod hints;
mod information_schema;
mod insert;
mod literals;
mod memory;
mod names;
mod number;
mod params;
mod places;
mod precedence;
mod pushdown;
mod rewriting;
mod run;
mod same_names;
mod scan;
mod semantics;
mod session;
mod show;
mod size;
pub mod source;
mod statement;
mod table;
mod threads;
mod tokens;
mod values;
mod verbs;
mod weight;
mod yielding;
mod zeros;

pub use delete::Delete;
pub use insert::{Insert, rows_of};
pub use params::{Param, Params};
pub use run::{Answer, Limits, QueryPlan, QueryStats};
pub use semantics::{AnswerColumn, type_name};
pub use session::{Query, QueryConfig};
pub use statement::{Asked, Scope, Statement};
pub use threads::{Slot, Threads};

#[cfg(test)]
mod tests;
