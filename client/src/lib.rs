//! Client of a node over HTTP: statements whose replies are checked for completeness, and batches
//! of line protocol that are sent again until they are durable or certainly refused.
//!
//! Rooms: [`endpoint`] (where, as whom; plain JSON requests), [`statement`] (what is asked) and
//! [`reply`] (what comes back, as a stream or as a table), [`ending`] (is a body whole?),
//! [`lines`] (cutting line protocol into batches), [`write`](mod@write) (sending them), [`retry`]
//! (when to try again), [`error`] and [`refusal`] (what can go wrong).
//!
//! Never here: a clock or dice of its own, a task it spawned, an environment variable, or a
//! statement sent twice: only batches carry an id that makes sending again harmless.

pub mod ending;
pub mod endpoint;
pub mod error;
pub mod lines;
pub mod refusal;
pub mod reply;
pub mod retry;
pub mod statement;
pub mod write;

pub use endpoint::{Client, Settings, Token};
pub use error::Error;
pub use refusal::{Refusal, RejectedLine};
pub use reply::{Answer, Column, Reply};
pub use statement::{Format, Params, Statement};
