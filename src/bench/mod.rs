//! The benchmark's own data.
//!
//! Rooms: [`generate`] (writes a set as text), `sets` (what a host or truck looks like), `dice`
//! (numbers that never change). Never here: a server, a clock.

mod dice;
pub(crate) mod generate;
mod sets;

pub(crate) use generate::generate;
