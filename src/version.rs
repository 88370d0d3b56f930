//! `auxo version`: what this binary is, and with `--server` what a node is.

use auxo_client::Client;
use clap::Args;

use crate::exit::Exit;
use crate::flags::ConnectionArgs;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Ask a node for its version too
    #[arg(long)]
    server: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// Runs the subcommand.
pub(crate) async fn run(
    args: &VersionArgs,
    client: impl FnOnce() -> anyhow::Result<Client>,
) -> anyhow::Result<Exit> {
    let mut output = Output::stdout();
    output.write(concat!("auxo ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())?;
    if args.server {
        let told = client()?.get(&["v1", "version"], &[]).await?;
        output.write(format!("node {told}\n").as_bytes())?;
    }
    output.finish()?;
    Ok(Exit::Done)
}
