//! The two streams of a command: data on the standard output, everything else on the standard error.
//!
//! Only here is either of them written to, apart from the log and the line editor.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// The standard output, buffered; data only.
pub(crate) struct Output(BufWriter<Stdout>);

impl Output {
    /// The standard output of this process.
    pub(crate) fn stdout() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Whether a person is probably looking.
    pub(crate) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// Adds data.
    ///
    /// * errors: `BrokenPipe` once nobody reads, which ends a command quietly.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    /// Hands everything to the system.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether the standard error stream is a terminal, which bars are drawn on and prompts are not.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Writes one line for people to the standard error stream; nobody reading it is no error.
pub(crate) fn notice(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
