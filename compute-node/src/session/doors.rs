//! Where meta is: the addresses that are tried, the one that led last first.
//!
//! Never here: what is said through a door.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;

/// Makes a channel to an address; lazily, it does not wait for the connection.
pub type Dial = Arc<dyn Fn(&str) -> Option<Channel> + Send + Sync>;

/// The addresses of the meta nodes. Clones share what they learn.
#[derive(Clone)]
pub struct Doors {
    dial: Dial,
    state: Arc<Mutex<State>>,
}

struct State {
    /// In the order in which they are tried; the first is the last known leader.
    addresses: Vec<String>,
    channels: HashMap<String, Channel>,
}

impl Doors {
    /// One channel, whoever is behind it.
    pub fn one(channel: Channel) -> Self {
        let name = String::new();
        Self {
            dial: Arc::new(|_| None),
            state: Arc::new(Mutex::new(State {
                addresses: vec![name.clone()],
                channels: HashMap::from([(name, channel)]),
            })),
        }
    }

    /// Addresses of meta nodes, at least one of which can be dialled.
    ///
    /// * errors: the first address that cannot, if none can.
    pub fn dialled(addresses: &[String], dial: Dial) -> Result<Self, String> {
        let doors = Self {
            dial,
            state: Arc::new(Mutex::new(State {
                addresses: Vec::new(),
                channels: HashMap::new(),
            })),
        };
        doors.learn(addresses);
        let none = doors.state.lock().addresses.is_empty();
        match none {
            true => Err(addresses.first().cloned().unwrap_or_default()),
            false => Ok(doors),
        }
    }

    /// Takes up addresses that are not known yet, behind those that are.
    pub fn learn(&self, addresses: &[String]) {
        let mut state = self.state.lock();
        for address in addresses {
            if state.addresses.contains(address) {
                continue;
            }
            if let Some(channel) = (self.dial)(address) {
                state.channels.insert(address.clone(), channel);
                state.addresses.push(address.clone());
            }
        }
    }

    /// The address to try next, and a channel to it.
    pub fn next(&self) -> (String, Channel) {
        let state = self.state.lock();
        let found = state
            .addresses
            .first()
            .and_then(|address| Some((address.clone(), state.channels.get(address)?.clone())));
        found.unwrap_or_else(|| unreachable!("doors are made with one channel at least"))
    }

    /// Puts an address behind the others: it did not answer.
    pub fn failed(&self, address: &str) {
        let mut state = self.state.lock();
        if state
            .addresses
            .first()
            .is_some_and(|first| first == address)
        {
            state.addresses.rotate_left(1);
        }
    }

    /// Puts an address before the others: it is said to lead.
    pub fn leads(&self, address: &str) {
        self.learn(&[address.to_owned()]);
        let mut state = self.state.lock();
        if let Some(at) = state.addresses.iter().position(|one| one == address) {
            let leader = state.addresses.remove(at);
            state.addresses.insert(0, leader);
        } else if state.addresses.len() > 1 {
            state.addresses.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn doors(addresses: &[&str]) -> Doors {
        let addresses: Vec<String> = addresses.iter().map(|&one| one.to_owned()).collect();
        let dial: Dial = Arc::new(|address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
            Some(endpoint.connect_lazy())
        });
        Doors::dialled(&addresses, dial).unwrap()
    }

    #[tokio::test]
    async fn the_leader_is_tried_first_and_a_silent_one_last() {
        let doors = doors(&["a:1", "b:1", "c:1"]);
        assert_eq!(doors.next().0, "a:1");
        doors.failed("a:1");
        assert_eq!(doors.next().0, "b:1");
        doors.failed("a:1");
        assert_eq!(doors.next().0, "b:1", "only the one that was tried moves");
        doors.leads("c:1");
        assert_eq!(doors.next().0, "c:1");
        doors.leads("d:1");
        assert_eq!(doors.next().0, "d:1", "a new address is learnt");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_left_out() {
        let dial: Dial = Arc::new(|_| None);
        let refused = Doors::dialled(&["\u{0}".to_owned()], dial);
        assert_eq!(refused.err(), Some("\u{0}".to_owned()));
    }
}
