//! Runs the binary in a directory of its own with an environment of its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any command here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts the exit code, showing everything if it is another.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// A command that has not been started.
pub(crate) struct Auxo {
    command: Command,
    stdin: Vec<u8>,
    directory: tempfile::TempDir,
}

/// The binary with these arguments, no environment, an empty directory and no input.
pub(crate) fn auxo(arguments: &[&str]) -> Auxo {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_auxo"));
    command
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Auxo {
        command,
        stdin: Vec::new(),
        directory,
    }
}

impl Auxo {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.as_bytes().to_vec();
        self
    }

    /// Writes a file into the command's directory.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    /// Reads a file the command left in its directory, once it has ended.
    pub(crate) fn run_and_read(mut self, name: &str) -> (Ended, String) {
        let ended = self.start_in_place().wait();
        let text = std::fs::read_to_string(self.directory.path().join(name)).unwrap();
        (ended, text)
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Ended {
        self.start_in_place().wait()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> (Running, tempfile::TempDir) {
        (self.start_in_place(), self.directory)
    }

    /// Starts it with these as its input, output and error.
    pub(crate) fn start_on(mut self, streams: [File; 3]) -> (Child, tempfile::TempDir) {
        let [stdin, stdout, stderr] = streams;
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        (self.command.spawn().unwrap(), self.directory)
    }

    fn start_in_place(&mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = std::mem::take(&mut self.stdin);
        // A command that does not read its input may end before all of it is written.
        std::thread::spawn(move || input.write_all(&text));
        Running { child }
    }
}

/// A command that is running.
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Running {
    /// Sends what Ctrl-C sends.
    pub(crate) fn interrupt(&self) {
        kill_process(pid(&self.child), Signal::INT).unwrap();
    }

    /// The next line of its standard error, which is then no longer part of what [`Self::wait`]
    /// returns.
    pub(crate) fn stderr_line(&mut self) -> String {
        let stderr = self.child.stderr.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            stderr.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// Waits for its end; kills it and fails if that takes too long.
    pub(crate) fn wait(self) -> Ended {
        let pid = pid(&self.child);
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || done.send(self.child.wait_with_output()));
        match ended.recv_timeout(DEADLINE) {
            Ok(output) => {
                let output = output.unwrap();
                Ended {
                    code: ExitStatus::code(&output.status),
                    stdout: String::from_utf8(output.stdout).unwrap(),
                    stderr: String::from_utf8(output.stderr).unwrap(),
                }
            }
            Err(_) => {
                kill_process(pid, Signal::KILL).unwrap();
                panic!("the command did not end");
            }
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
