//! Doors: bytes of a protocol into rows or statements, and answers back into bytes.
//!
//! Rooms: [`router`] (every route), [`http_sql`] (`/v1/sql`), [`influx`] (line protocol), [`status`]
//! (health, readiness, metrics, what meta shows), [`body`] (bodies read and unpacked within limits),
//! [`problem`] (failures as HTTP), [`listen`] (connections).
//!
//! Never here: what a statement or a write does (`statements`, `write`), a tenant's look-up.

pub mod body;
pub mod http_sql;
pub mod influx;
pub mod listen;
pub mod problem;
pub mod router;
pub mod status;
