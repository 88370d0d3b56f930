//! Doors: bytes of a protocol into rows or statements, and answers back into bytes.
//!
//! Rooms: [`influx`] (line protocol). Never here: the engine, a quota, a tenant's look-up.

pub mod influx;
