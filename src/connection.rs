//! How a subcommand that is a client reaches a node.

use std::time::Duration;

use anyhow::Context as _;
use auxo_client::{Client, Error, Settings, Token};
use auxo_proto::{clock::Clock, random::Random};
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::environment::Environment;

/// How long a node may take to come up, and how often it is looked for.
const START_LIMIT: Duration = Duration::from_secs(5);
const START_STEP: Duration = Duration::from_millis(50);

/// A client as it is configured; nothing is sent yet.
pub(crate) fn client(config: &ClientConfig, environment: &Environment) -> anyhow::Result<Client> {
    let mut settings = Settings::new(&config.url, Clock::system(), Random::from_system());
    settings.token = config.token.resolve(environment)?.map(Token::new);
    settings.database.clone_from(&config.database);
    settings.connect_timeout = config.connect_timeout.0;
    settings.request_timeout = config.request_timeout.0;
    Client::new(settings).context("client.url")
}

/// Waits until somebody takes connections: a node that was started together with this command
/// needs a moment.
///
/// * errors: `Unreachable` once that takes too long; whatever a node answers is good enough.
pub(crate) async fn reach(client: &Client) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        match client.get(&["v1", "health"], &[]).await {
            Err(error @ Error::Unreachable { .. }) if began.elapsed() >= START_LIMIT => {
                return Err(error);
            }
            Err(Error::Unreachable { .. }) => tokio::time::sleep(START_STEP).await,
            _ => return Ok(()),
        }
    }
}
