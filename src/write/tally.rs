//! What has been stored so far, the bar that shows it, and the exit code that follows from it.

use std::time::Duration;

use auxo_client::write::{Undelivered, Written};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::source::Batch;
use crate::exit::Exit;
use crate::output::{notice, stderr_is_terminal};

/// A bar that would be gone at once is not drawn.
const BAR_AFTER: Duration = Duration::from_millis(500);

/// Counts rows.
pub(super) struct Tally {
    began: Instant,
    bar: ProgressBar,
    bar_wanted: bool,
    quiet: bool,
    rows: u64,
    rejected_rows: u64,
    retries: u64,
    /// Why it stopped, and the earliest batch that is not known to be stored.
    failure: Option<anyhow::Error>,
    not_stored_from: Option<String>,
}

impl Tally {
    /// Nothing stored yet; `total_bytes` is what there is to read, if that is known.
    pub(super) fn new(total_bytes: Option<u64>, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::hidden());
        bar.set_style(style(total_bytes.is_some()));
        Self {
            began: Instant::now(),
            bar,
            bar_wanted: stderr_is_terminal() && !quiet,
            quiet,
            rows: 0,
            rejected_rows: 0,
            retries: 0,
            failure: None,
            not_stored_from: None,
        }
    }

    /// Counts a batch that was answered.
    pub(super) fn answered(&mut self, batch: &Batch, written: &Written) {
        self.rows += written.rows;
        self.rejected_rows += written.rejected_rows;
        self.retries += written.retries;
        self.bar.inc(batch.lines.text.len() as u64);
    }

    /// Counts a line that was not sent.
    pub(super) fn too_long(&mut self) {
        self.rejected_rows += 1;
    }

    /// Takes note of a batch that was given up.
    pub(super) fn failed(&mut self, batch: &Batch, undelivered: Undelivered) {
        self.answered(batch, &undelivered.written);
        let place = format!("{}:{}", batch.file, batch.lines.first_line);
        self.not_stored_from.get_or_insert(place);
        self.failure.get_or_insert(undelivered.into());
    }

    /// Takes note that the source cannot be read on.
    pub(super) fn unreadable(&mut self, error: anyhow::Error) {
        self.failure.get_or_insert(error);
    }

    /// Draws the bar, once it is worth it.
    pub(super) fn draw(&mut self) {
        if !self.bar_wanted || self.began.elapsed() < BAR_AFTER {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let rate = HumanCount(self.rows_per_s());
        self.bar
            .set_message(format!("{} rows, {rate} rows/s", HumanCount(self.rows)));
        self.bar.tick();
    }

    fn rows_per_s(&self) -> u64 {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        (self.rows as f64 / seconds) as u64
    }

    /// Tells what became of everything, and how the process ends.
    pub(super) fn finish(self, interrupted: bool) -> Exit {
        self.bar.finish_and_clear();
        if !self.quiet {
            notice(format_args!(
                "{} rows stored in {:.1} s ({} rows/s), {} refused, {} retries",
                self.rows,
                self.began.elapsed().as_secs_f64(),
                self.rows_per_s(),
                self.rejected_rows,
                self.retries
            ));
        }
        if let Some(error) = &self.failure {
            notice(format_args!("error: {error:#}"));
        }
        if let Some(place) = &self.not_stored_from {
            notice(format_args!(
                "note: not all rows are stored from {place} on"
            ));
        }
        match (&self.failure, interrupted) {
            (_, true) => Exit::Cancelled,
            (Some(_), _) if self.rows > 0 => Exit::Partly,
            (Some(error), _) => Exit::of(error),
            (None, _) if self.rejected_rows == 0 => Exit::Done,
            (None, _) if self.rows > 0 => Exit::Partly,
            (None, _) => Exit::Refused,
        }
    }
}

fn style(has_length: bool) -> ProgressStyle {
    let template = match has_length {
        true => "{bar:30} {percent:>3} % {msg}, {eta} left",
        false => "{spinner} {bytes} {msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
