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

/// Waits until a node is there and says that it is ready: one that was started together with this
/// command needs a moment.
///
/// * errors: `Unreachable` once that takes too long. A node that is not ready by then, or answers
///   anything else, is left to answer for itself.
pub(crate) async fn reach(client: &Client) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let late = began.elapsed() >= START_LIMIT;
        match client.ready().await {
            Err(error @ Error::Unreachable { .. }) if late => return Err(error),
            Err(Error::Unreachable { .. }) => {}
            Ok(report) if report["ready"] == false && !late => {}
            _ => return Ok(()),
        }
        tokio::time::sleep(START_STEP).await;
    }
}
