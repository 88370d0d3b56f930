//! Reading the history in the order it was made.

use std::sync::Arc;

use etcd_client::proto::PbEvent;
use prost::Message;
use redb::ReadableTable;

use super::Fault;
use super::range::event;
use super::tables::View;

/// A piece is closed once it holds this much.
const PIECE_BYTES: usize = 4 << 20;

/// All events of one revision, in the order they were made.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) revision: i64,
    pub(crate) events: Vec<PbEvent>,
    /// What they take when encoded.
    pub(crate) bytes: usize,
}

impl Changes {
    pub(crate) fn new(revision: i64, events: Vec<PbEvent>) -> Self {
        let bytes = events.iter().map(Message::encoded_len).sum();
        Self {
            revision,
            events,
            bytes,
        }
    }
}

/// A piece of the history.
#[derive(Debug)]
pub(crate) enum Piece {
    /// All changes from the revision asked for up to and with `upto`.
    Changes {
        changes: Vec<Arc<Changes>>,
        upto: i64,
    },
    /// The revision asked for is behind this boundary.
    Compacted(i64),
}

/// All changes from `from` on, at most `revisions_max` revisions, each whole.
pub(crate) fn history(view: &impl View, from: i64, revisions_max: usize) -> Result<Piece, Fault> {
    if from < view.compacted() {
        return Ok(Piece::Compacted(view.compacted()));
    }
    let mut changes: Vec<Arc<Changes>> = Vec::new();
    let mut events = Vec::new();
    let mut revision = from;
    let mut bytes = 0;
    for item in view.rev().range::<(i64, u32)>((from, 0)..)? {
        let (place, row) = item?;
        let (main, _) = place.value();
        if main != revision && !events.is_empty() {
            changes.push(Arc::new(Changes::new(
                revision,
                std::mem::take(&mut events),
            )));
            if changes.len() == revisions_max || bytes >= PIECE_BYTES {
                return Ok(Piece::Changes {
                    changes,
                    upto: revision,
                });
            }
        }
        revision = main;
        bytes += row.value().len();
        events.push(event(row.value())?);
    }
    if !events.is_empty() {
        changes.push(Arc::new(Changes::new(revision, events)));
    }
    Ok(Piece::Changes {
        changes,
        upto: view.revision(),
    })
}
