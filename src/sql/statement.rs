//! One statement: asked, shown while it comes, cancelled on the node when the user says so.
//!
//! The first Ctrl-C stops the statement on every node and waits for its answer; the second one
//! waits for nothing.

use std::time::Duration;

use auxo_client::{Answer, Client, Error, Format, Statement};
use tokio::time::{Instant, timeout};

use super::{Asking, Layout, print};
use crate::exit::Cancelled;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// Rows of a reply that is made into a table, unless the user says how many.
const TABLE_ROWS: u64 = 10_000;

/// How long a node may take to confirm that it stopped.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Runs one statement; returns lines for the standard error stream.
pub(crate) async fn run(
    client: &Client,
    sql: &str,
    asking: &Asking,
    interrupts: &mut Interrupts,
    output: &mut Output,
) -> anyhow::Result<Vec<String>> {
    let statement = asking.statement(client, sql);
    let work = async {
        let shown = show(client, &statement, asking, output).await;
        match shown {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Cut { .. })) => {
                // The body has no room for the reason in every format; the node remembers it.
                let why = client.failure_of(statement.query_id).await;
                Err(why.map_or(error, |refusal| Error::Refused(Box::new(refusal)).into()))
            }
            shown => shown,
        }
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        shown = &mut work => return shown,
        () = interrupts.next() => {}
    }
    let cancelled = async {
        let told = timeout(CANCEL_LIMIT, client.cancel(statement.query_id)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(query_id = %statement.query_id, ?told, "the node was not told to stop");
            return;
        }
        // The node ends the reply now. What it says no longer matters, only that it was heard.
        let _ = timeout(CANCEL_LIMIT, &mut work).await;
    };
    let confirmed = tokio::select! {
        () = cancelled => true,
        () = interrupts.next() => false,
    };
    Err(Cancelled { confirmed }.into())
}

impl Asking {
    fn statement(&self, client: &Client, sql: &str) -> Statement {
        let mut statement = client.statement(sql);
        statement.params.clone_from(&self.params);
        statement.timeout = self.timeout.0;
        statement.read_mode.clone_from(&self.read_mode);
        statement.format = match self.layout {
            Layout::Table | Layout::Vertical | Layout::Json => Format::Json,
            Layout::Ndjson => Format::Ndjson,
            Layout::Csv => Format::Csv,
            Layout::Tsv => Format::Tsv,
        };
        statement.row_limit = match (self.limit, self.layout) {
            (Some(0), _) => None,
            (None, Layout::Table | Layout::Vertical) => Some(TABLE_ROWS),
            (limit, _) => limit,
        };
        statement
    }
}

async fn show(
    client: &Client,
    statement: &Statement,
    asking: &Asking,
    output: &mut Output,
) -> anyhow::Result<Vec<String>> {
    let began = Instant::now();
    let mut reply = client.sql(statement).await?;
    let mut told = Vec::new();
    let in_memory = reply.format() == Format::Json && asking.layout != Layout::Json;
    if in_memory {
        let answer = reply.answer().await?;
        match asking.layout {
            _ if answer.columns.is_empty() => {}
            Layout::Vertical => print::vertical(&answer, output)?,
            _ => print::table(&answer, output)?,
        }
        tell(&answer, asking, &mut told);
    } else {
        while let Some(rows) = reply.chunk().await? {
            output.write(&rows)?;
        }
        if reply.format() == Format::Json {
            output.write(b"\n")?;
        }
        if reply.summary().truncated {
            told.push(stopped_early(asking));
        }
    }
    if asking.timing {
        told.push(format!("{:.1} ms", began.elapsed().as_secs_f64() * 1e3));
    }
    Ok(told)
}

fn tell(answer: &Answer, asking: &Asking, told: &mut Vec<String>) {
    told.extend(
        answer
            .warning_texts()
            .map(|warning| format!("warning: {warning}")),
    );
    if answer.truncated {
        told.push(stopped_early(asking));
    }
    if asking.saying.quiet {
        return;
    }
    match (answer.affected_rows, answer.columns.is_empty()) {
        (Some(rows), _) => told.push(format!("{rows} rows written")),
        (None, true) => told.push("done".to_owned()),
        (None, false) => told.push(format!("{} rows", answer.row_count())),
    }
}

fn stopped_early(asking: &Asking) -> String {
    let how = match asking.limit {
        Some(0) => "the node gives no more at once (limits.result_rows, limits.result_bytes)",
        _ => "see --limit, or write csv",
    };
    format!("note: there are more rows; {how}")
}
