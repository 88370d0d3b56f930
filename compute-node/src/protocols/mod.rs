//! Doors: bytes of a protocol into rows or statements, and answers back into bytes.
//!
//! Rooms: [`http_sql`] (`/v1/sql`). Never here: the engine, a quota, a tenant's look-up.

pub mod http_sql;
