//! The side index of a sorted file: which series lie where, without a column per row.
//!
//! Rooms: [`blocks`] (key, rows and times of every series, in order), `heads` (directories, and
//! what is known of each field), `build` (collects all of it while rows are written).
//!
//! An *ordinal* is the place of a series in the file's key order, counted from 0. Nothing here
//! touches the store.

pub(crate) mod blocks;
pub(crate) mod build;
pub(crate) mod heads;
