//! Flags that are keys of the configuration, and how they become assignments to it.

use clap::Args;

/// A flag's name, its key, its text.
pub(crate) type Assigned = (String, String, String);

/// Flags of every subcommand that is a client.
#[derive(Debug, Default, Args)]
pub(crate) struct ConnectionArgs {
    /// Any node of the cluster [key: client.url]
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// Database of what names none [key: client.database]
    #[arg(long = "db", value_name = "NAME", global = true)]
    database: Option<String>,
    /// Where the token is: env:NAME or file:PATH [key: client.token]
    #[arg(long, value_name = "REF", global = true)]
    token: Option<String>,
}

impl ConnectionArgs {
    /// Those that were given.
    pub(crate) fn assignments(&self) -> Vec<Assigned> {
        given([
            ("--url", "client.url", &self.url),
            ("--db", "client.database", &self.database),
            ("--token", "client.token", &self.token),
        ])
    }
}

/// Flags of every subcommand that is a node.
#[derive(Debug, Default, Args)]
pub(crate) struct NodeArgs {
    /// Directory of everything the node keeps on its disk [key: data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Addresses for clients, separated by commas [key: listen.public]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Name of the node [key: node]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Failure domain of the node [key: zone]
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Address for other nodes [key: listen.internal]
    #[arg(long, value_name = "ADDRESS")]
    internal: Option<String>,
    /// Meta nodes as HOST:PORT, separated by commas [key: meta.members]
    #[arg(long, value_name = "ADDRESS")]
    meta: Option<String>,
    /// A real etcd for a meta node, as URLs separated by commas [key: meta.etcd]
    #[arg(long, value_name = "URL")]
    etcd: Option<String>,
    /// The write-ahead log: kafka://BROKERS, local://DIR, memory:// [key: wal.url]
    #[arg(long, value_name = "URL")]
    wal: Option<String>,
    /// The object store: s3://BUCKET/PREFIX, local://DIR, memory:// [key: store.url]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Stop when the standard input ends: for programs that start a node and may die
    #[arg(long)]
    pub(crate) stop_with_stdin: bool,
}

impl NodeArgs {
    /// Those that were given.
    pub(crate) fn assignments(&self) -> Vec<Assigned> {
        given([
            ("--data-dir", "data_dir", &self.data_dir),
            ("--listen", "listen.public", &self.listen),
            ("--internal", "listen.internal", &self.internal),
            ("--meta", "meta.members", &self.meta),
            ("--etcd", "meta.etcd", &self.etcd),
            ("--node", "node", &self.node),
            ("--zone", "zone", &self.zone),
            ("--wal", "wal.url", &self.wal),
            ("--store", "store.url", &self.store),
        ])
    }
}

/// Keeps the flags that have a text.
fn given<const N: usize>(flags: [(&str, &str, &Option<String>); N]) -> Vec<Assigned> {
    let text = |(flag, key, text): (&str, &str, &Option<String>)| {
        Some((flag.to_owned(), key.to_owned(), text.clone()?))
    };
    flags.into_iter().filter_map(text).collect()
}
