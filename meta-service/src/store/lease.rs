//! A lease that is kept alive, with a deadline of its own.
//!
//! The holder stops acting at the send time of its last answered keep-alive plus four fifths of the
//! TTL, whatever the server may think: etcd starts its clock later than that, so nobody else has
//! got the lease's keys by then.
//!
//! Never here: what the lease is for.

use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tokio::time::Instant;

use super::classify::{Class, classify};
use super::{ATTEMPT, CommitError, Store};

/// A granted lease.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Its id.
    pub id: i64,
    ttl: Duration,
    good_until: Instant,
}

impl Store {
    /// Asks for a lease.
    ///
    /// * errors: `Unavailable`: may be tried again; a lease that was granted without our knowing
    ///   ends by itself.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, CommitError> {
        let sent = Instant::now();
        let mut client = self.client.lease_client();
        let granted = client.grant(ttl.as_secs().max(1) as i64, None);
        match tokio::time::timeout(ATTEMPT, granted).await {
            Ok(Ok(answer)) => {
                let ttl = Duration::from_secs(answer.ttl().max(1) as u64);
                Ok(Lease {
                    id: answer.id(),
                    ttl,
                    good_until: sent + own_share(ttl),
                })
            }
            Ok(Err(error)) => Err(CommitError::Unavailable(error.to_string())),
            Err(_) => Err(CommitError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// Keeps a lease alive; returns why it is no longer held.
    ///
    /// * effects: cancel-safe; a lease no longer kept alive ends after its TTL.
    pub async fn hold(&self, lease: Lease) -> String {
        let every = lease.ttl * 3 / 10;
        let mut good_until = lease.good_until;
        let mut stream = None;
        loop {
            let sent = Instant::now();
            let patience = good_until.min(sent + every);
            let round = tokio::time::timeout_at(patience, self.keep_alive(lease.id, &mut stream));
            let error = match round.await {
                Ok(Ok(true)) => {
                    good_until = sent + own_share(lease.ttl);
                    tokio::time::sleep_until(sent + every).await;
                    continue;
                }
                Ok(Ok(false)) => return "the lease has ended".to_owned(),
                Ok(Err(error)) if classify(&error) == Class::LeaseGone => return error.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            stream = None;
            if Instant::now() >= good_until {
                return error;
            }
            tokio::time::sleep(every / 10).await;
        }
    }

    /// One keep-alive and its answer; says whether the lease still exists.
    async fn keep_alive(
        &self,
        id: i64,
        stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
    ) -> Result<bool, etcd_client::Error> {
        match stream {
            None => {
                *stream = Some(self.client.lease_client().keep_alive(id).await?);
                Ok(true)
            }
            Some((keeper, answers)) => {
                keeper.keep_alive().await?;
                match answers.message().await? {
                    Some(answer) => Ok(answer.ttl() > 0),
                    None => Err(etcd_client::Error::LeaseKeepAliveError(
                        "stream ended".to_owned(),
                    )),
                }
            }
        }
    }

    /// Ends a lease, and with it its keys; a failure only means that it ends later by itself.
    pub async fn revoke(&self, lease: Lease) {
        let mut client = self.client.lease_client();
        let revoked = tokio::time::timeout(ATTEMPT, client.revoke(lease.id)).await;
        if !matches!(revoked, Ok(Ok(_))) {
            tracing::debug!(lease = lease.id, "lease not revoked, it will end by itself");
        }
    }
}

/// The part of a TTL in which the holder may act.
fn own_share(ttl: Duration) -> Duration {
    ttl * 4 / 5
}
