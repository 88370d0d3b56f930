//! Parsers of line protocol that outlive a request, so that what they remember serves the next one.

use auxo_proto::random::Random;
use parking_lot::Mutex;

use super::{Limits, Parser};

/// Parsers kept while nobody uses them.
const KEPT_MAX: usize = 8;
/// Bytes that each may remember.
const MEMO_BYTES: usize = 16 << 20;

/// Idle parsers of one node.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    random: Random,
    idle: Mutex<Vec<Parser>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Limits, random: Random) -> Self {
        Self {
            limits,
            random,
            idle: Mutex::default(),
        }
    }

    /// The parser that was used last, or a new one.
    pub fn take(&self) -> Parser {
        let kept = self.idle.lock().pop();
        kept.unwrap_or_else(|| Parser::new(self.limits, MEMO_BYTES, &self.random))
    }

    /// Keeps a parser for the next request, if there are not enough of them.
    pub fn give_back(&self, parser: Parser) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT_MAX {
            idle.push(parser);
        }
    }
}
