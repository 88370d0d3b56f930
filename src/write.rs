//! `auxo write`: line protocol from files or the standard input to a node.
//!
//! Rooms: [`source`] (files to batches), [`rejected`] (where refused lines go), [`tally`] (what has
//! been stored so far, and the bar). Memory is bounded by the batches in flight. Nothing is sent
//! after a batch had to be given up; those in flight are waited for, since their rows may be stored.
//!
//! Never here: what a line means. A refused line is the node's judgement.

mod rejected;
pub(crate) mod source;
mod tally;

use std::path::PathBuf;
use std::time::Duration;

use auxo_client::Client;
use auxo_client::lines::CutAt;
use auxo_client::retry::Patience;
use auxo_client::write::{Precision, Sending, Undelivered, Written};
use clap::{Args, ValueEnum};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::config::units::{Period, Size};
use crate::connection::reach;
use crate::exit::Exit;
use crate::flags::ConnectionArgs;
use crate::interrupt::Interrupts;
use crate::output::notice;
use rejected::Rejected;
use source::{Batch, Piece, Source};
use tally::Tally;

/// How often the bar is looked after.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Files of line protocol; - or none for the standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Unit of the timestamps
    #[arg(long, value_enum, default_value = "ns")]
    precision: Unit,
    /// Rows in a batch
    #[arg(long, value_name = "ROWS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    batch_rows: u64,
    /// Bytes that close a batch; a line above them and above 4MiB is not sent
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    batch_bytes: Size,
    /// Batches in flight. With more than one, rows of the same key may be stored in another order
    /// than they stand in the file
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// File for refused lines, each below a comment that says why; without it both go to stderr
    #[arg(long, value_name = "FILE")]
    rejected: Option<PathBuf>,
    /// How long to go on with a batch the node cannot take at the moment
    #[arg(long, value_name = "TIME", default_value = "10m")]
    give_up: Period,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// Unit of timestamps on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Unit {
    Ns,
    Us,
    Ms,
    S,
}

impl From<Unit> for Precision {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Ns => Self::Nanoseconds,
            Unit::Us => Self::Microseconds,
            Unit::Ms => Self::Milliseconds,
            Unit::S => Self::Seconds,
        }
    }
}

/// What became of a piece of the source.
enum Outcome {
    /// The node answered: batch and answer.
    Answered(Batch, Written),
    /// It was given up.
    Failed(Batch, Undelivered),
    /// A line that was never sent.
    TooLong(source::LongLine),
}

/// Runs the subcommand.
pub(crate) async fn run(args: &WriteArgs, client: &Client, quiet: bool) -> anyhow::Result<Exit> {
    let source = Source::open(&args.files, args.cut_at()).await?;
    let mut rejected = Rejected::open(args.rejected.as_deref())?;
    let mut tally = Tally::new(source.total_bytes(), quiet);
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        reached = reach(client) => reached?,
        () = interrupts.next() => return Ok(Exit::Cancelled),
    }

    let stop = CancellationToken::new();
    let outcomes = send_all(source, client, args.sending(), args.workers.into(), &stop);
    let mut outcomes = std::pin::pin!(outcomes);
    let mut ticks = tokio::time::interval(TICK);
    let mut interrupted = 0;
    loop {
        let outcome = tokio::select! {
            biased;
            () = interrupts.next() => {
                interrupted += 1;
                stop.cancel();
                if interrupted > 1 {
                    break;
                }
                notice(format_args!("waiting for batches in flight; Ctrl-C again does not"));
                continue;
            }
            outcome = outcomes.next() => outcome,
            _ = ticks.tick() => {
                tally.draw();
                continue;
            }
        };
        match outcome {
            None => break,
            Some(Ok(Outcome::Answered(batch, written))) => {
                rejected.note_batch(&batch, &written)?;
                tally.answered(&batch, &written);
            }
            Some(Ok(Outcome::TooLong(line))) => {
                rejected.note_too_long(&line)?;
                tally.too_long();
            }
            Some(Ok(Outcome::Failed(batch, undelivered))) => {
                stop.cancel();
                rejected.note_batch(&batch, &undelivered.written)?;
                tally.failed(&batch, undelivered);
            }
            Some(Err(unreadable)) => {
                stop.cancel();
                tally.unreadable(unreadable);
            }
        }
    }
    rejected.finish()?;
    Ok(tally.finish(interrupted > 0))
}

impl WriteArgs {
    fn cut_at(&self) -> CutAt {
        CutAt {
            rows: self.batch_rows,
            bytes: self.batch_bytes.as_usize(),
            // The node says which line is too long; a small batch is no reason not to ask it.
            line_bytes: self.batch_bytes.as_usize().max(CutAt::default().line_bytes),
        }
    }

    fn sending(&self) -> Sending {
        Sending {
            precision: self.precision.into(),
            patience: Patience {
                give_up_after: self.give_up.0,
                ..Patience::default()
            },
        }
    }
}

/// Sends the pieces of a source, so many at once, until it ends or `stop` is cancelled; what is in
/// flight then is still answered for.
fn send_all(
    source: Source,
    client: &Client,
    sending: Sending,
    workers: usize,
    stop: &CancellationToken,
) -> impl Stream<Item = anyhow::Result<Outcome>> {
    let pieces = futures::stream::try_unfold(source, |mut source| async {
        let piece = source.next().await?;
        anyhow::Ok(piece.map(|piece| (piece, source)))
    });
    pieces
        .take_until(stop.clone().cancelled_owned())
        .map_ok(move |piece| async move {
            Ok(match piece {
                Piece::TooLong(line) => Outcome::TooLong(line),
                Piece::Batch(batch) => match client.write(&batch.lines, &sending).await {
                    Ok(written) => Outcome::Answered(batch, written),
                    Err(undelivered) => Outcome::Failed(batch, undelivered),
                },
            })
        })
        .try_buffer_unordered(workers)
}
