//! Channels to the internal listeners of other nodes, one each, shared by everything that reads there.
//!
//! Never here: which node is asked what.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::session::doors::Dial;

/// Addresses that are remembered; nodes come and go, and with them their addresses.
const CHANNELS_MAX: usize = 256;

/// The channels of a node. Clones share them.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    dial: Dial,
    open: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    /// No channels yet.
    ///
    /// * dial: makes channels to internal listeners.
    pub fn new(dial: Dial) -> Self {
        Self(Arc::new(Inner {
            dial,
            open: Mutex::default(),
        }))
    }

    /// A channel to an address, `None` if it is no address. It connects when it is first used, and
    /// again after it broke.
    pub fn to(&self, address: &str) -> Option<Channel> {
        let mut open = self.0.open.lock();
        if let Some(channel) = open.get(address) {
            return Some(channel.clone());
        }
        let channel = (self.0.dial)(address)?;
        if open.len() >= CHANNELS_MAX {
            open.clear();
        }
        open.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
}
