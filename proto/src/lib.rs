//! Floor 0: what crosses a process, and nothing else.
//!
//! Rooms: [`ids`] (newtypes of every number that names something), [`schema`] (columns, tables,
//! options), [`key`] (canonical bytes of a series and its partition hash), [`rows`] (typed column
//! vectors of one table), [`topology`] and [`ddl`] (what meta tells and is asked), [`pb`] (generated
//! messages and services), [`error`] (the kinds of failure every door translates), [`clock`] and
//! [`random`] (wall time and dice, handed in so that a test can hold them).
//!
//! Never here: a socket, a file, a schedule, Arrow, or a decision.

pub mod clock;
pub mod ddl;
pub mod error;
pub mod ids;
pub mod key;
pub mod pb;
pub mod random;
pub mod rows;
pub mod schema;
pub mod topology;
