//! `auxo version`: what this binary is, and with `--server` what a node is.

use auxo_client::Client;
use clap::Args;

use crate::exit::Exit;
use crate::flags::ConnectionArgs;
use crate::output::Output;

/// What this binary calls itself. One without its fence says so wherever it says this.
pub(crate) const VERSION: &str = match auxo_engine::UNFENCED {
    true => concat!(env!("CARGO_PKG_VERSION"), "+unfenced"),
    false => env!("CARGO_PKG_VERSION"),
};

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
    output.write(format!("auxo {VERSION}\n").as_bytes())?;
    if args.server {
        let told = client()?.get(&["v1", "health"], &[]).await?;
        let member = |name: &str| told[name].as_str().unwrap_or("?").escape_debug();
        let line = format!("node {} {}\n", member("node"), member("version"));
        output.write(line.as_bytes())?;
    }
    output.finish()?;
    Ok(Exit::Done)
}
