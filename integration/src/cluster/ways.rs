//! The ways between the processes of a cluster, with a proxy on each: from every compute node to every
//! broker, to the bucket and to meta, from all nodes to each node's internal listener, and from meta to
//! each member of a real etcd.
//!
//! A node knows no other way: brokers tell whoever comes through a door to come back through it, and
//! the meta node advertises an address where nobody listens.
//!
//! Never here: an order; all pass.

use anyhow::{Context, Result};
use auxo_proto::random::Random;

use crate::proxy::{Cut, Order, Proxy, Speech};
use crate::servers::etcd::Etcd;
use crate::servers::kafka::Kafka;
use crate::servers::ports;

/// The proxies of a cluster; none where it was not planned with them.
#[derive(Default)]
pub struct Ways {
    /// To each broker, by compute node.
    pub kafka: Vec<Vec<Proxy>>,
    /// To the bucket, by compute node; none without one.
    pub s3: Vec<Proxy>,
    /// To meta, by compute node.
    pub meta: Vec<Proxy>,
    /// To each compute node's internal listener, for all others.
    pub peers: Vec<Proxy>,
    /// To each member of the real etcd, for meta; none without one.
    pub etcd: Vec<Proxy>,
    /// Port that the meta node advertises.
    pub(super) meta_advertised: Option<u16>,
}

impl Ways {
    /// Ways of so many nodes that lead nowhere yet.
    pub(super) async fn bind(nodes: usize, brokers: u16, seed: u64) -> Result<Self> {
        let [nowhere] = ports::free()?;
        let mut ways = Self {
            meta_advertised: Some(nowhere),
            ..Self::default()
        };
        for node in 0..nodes {
            let mut to_brokers = Vec::new();
            for _ in 0..brokers {
                to_brokers.push(Proxy::bind(Speech::Kafka).await?);
            }
            ways.kafka.push(to_brokers);
            let dice = Random::seeded(seed + node as u64);
            ways.s3.push(Proxy::bind(Speech::Http(dice)).await?);
            ways.meta.push(Proxy::bind(Speech::Bytes).await?);
            ways.peers.push(Proxy::bind(Speech::Bytes).await?);
        }
        Ok(ways)
    }

    /// Ports of the brokers' doors, one door a node.
    pub(super) fn doors(&self) -> Vec<Vec<u16>> {
        let ports = |brokers: &Vec<Proxy>| brokers.iter().map(Proxy::port).collect();
        self.kafka.iter().map(ports).collect()
    }

    /// Where a node finds the brokers.
    pub(super) fn bootstrap(&self, node: usize) -> Result<String> {
        let brokers = self.kafka.get(node).context("a way to the brokers")?;
        let addresses: Vec<String> = brokers.iter().map(Proxy::address).collect();
        Ok(addresses.join(","))
    }

    /// Lets the ways to the brokers lead there.
    pub(super) fn to_brokers(&self, kafka: &Kafka) {
        for (node, brokers) in self.kafka.iter().enumerate() {
            for (proxy, address) in brokers.iter().zip(kafka.behind(node)) {
                proxy.target(&address);
            }
        }
    }

    /// Ways to the members of an etcd; returns where meta finds them, as URLs.
    pub(super) async fn before_etcd(&mut self, etcd: &Etcd) -> Result<Vec<String>> {
        let mut endpoints = Vec::new();
        for endpoint in etcd.endpoints() {
            let address = endpoint.trim_start_matches("http://");
            let proxy = Proxy::before(address, Speech::Bytes).await?;
            endpoints.push(format!("http://{}", proxy.address()));
            self.etcd.push(proxy);
        }
        Ok(endpoints)
    }

    /// Every way to the log.
    pub fn all_kafka(&self) -> impl Iterator<Item = &Proxy> {
        self.kafka.iter().flatten()
    }
}

/// Gives several proxies one order, and ends what is open where it says that nobody is there.
pub fn order<'a>(proxies: impl IntoIterator<Item = &'a Proxy>, order: &Order) {
    for proxy in proxies {
        proxy.order(order.clone());
        if *order == Order::Refuse {
            proxy.cut(Cut::Reset);
        }
    }
}
