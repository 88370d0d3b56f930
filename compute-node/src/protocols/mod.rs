//! Doors: bytes of a protocol into rows or statements, and answers back into bytes.
//!
//! Rooms: [`http_sql`] (`/v1/sql`), [`body`] (bodies read and unpacked within limits), [`problem`]
//! (failures as HTTP), [`listen`] (connections). Never here: the engine, a quota, a tenant's look-up.

pub mod body;
pub mod http_sql;
pub mod listen;
pub mod problem;
