//! The side index of a sorted file: which series lie where, without a column per row.
//!
//! Rooms: `blocks` (key, rows and times of every series, in order), `postings` (which series have
//! which value of a tag), `select` (a tag filter over postings), `heads` (directories, and what is
//! known of each field), `build` (collects all of it while rows are written).
//!
//! An *ordinal* is the place of a series in the file's key order, counted from 0. A *sparse* file
//! has so few rows a series that entries and postings would outgrow the rows: it keeps only the
//! first key of each block, and its tags are read from their columns.
//!
//! Nothing here touches the store.

pub(crate) mod blocks;
pub(crate) mod build;
pub(crate) mod heads;
pub(crate) mod postings;
pub(crate) mod select;

pub use blocks::SeriesEntry;
pub use heads::FieldHead;
