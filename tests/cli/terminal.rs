//! Runs the binary on a terminal of its own, with a person at the keys.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, mpsc};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::{Auxo, DEADLINE};

/// What the editor asks a terminal before it draws, and what one answers.
const WHERE_IS_THE_CURSOR: &[u8] = b"\x1b[6n";
const AT_THE_TOP: &[u8] = b"\x1b[1;1R";

/// A terminal and the command that runs on it.
pub(crate) struct Terminal {
    keys: File,
    screen: Arc<Screen>,
    child: Child,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Screen {
    written: Mutex<String>,
    more: Condvar,
}

impl Terminal {
    /// Starts the command on a terminal of 120 columns.
    pub(crate) fn start(auxo: Auxo) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 50,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let mut how = OpenOptions::new();
            how.read(true)
                .write(true)
                .open(name.to_str().unwrap())
                .unwrap()
        };
        let (child, directory) = auxo.env("TERM", "xterm").start_on([open(), open(), open()]);
        let keys = File::from(master);
        let screen = Arc::new(Screen::default());
        let (mut from, mut answers) = (keys.try_clone().unwrap(), keys.try_clone().unwrap());
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // Reading fails once the command has closed its side.
            while let Ok(length @ 1..) = from.read(&mut piece) {
                let asked = piece[..length].windows(WHERE_IS_THE_CURSOR.len());
                for _ in asked.filter(|&bytes| bytes == WHERE_IS_THE_CURSOR) {
                    answers.write_all(AT_THE_TOP).unwrap();
                }
                let text = String::from_utf8_lossy(&piece[..length]).into_owned();
                shown.written.lock().unwrap().push_str(&text);
                shown.more.notify_all();
            }
        });
        Self {
            keys,
            screen,
            child,
            _directory: directory,
        }
    }

    /// Types.
    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen; what came before it is forgotten.
    pub(crate) fn wait_for(&self, text: &str) {
        let written = self.screen.written.lock().unwrap();
        let absent = |written: &mut String| !written.contains(text);
        let waited = self
            .screen
            .more
            .wait_timeout_while(written, DEADLINE, absent);
        let (mut written, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "no {text:?} in {written:?}");
        let end = written.find(text).unwrap() + text.len();
        written.drain(..end);
    }

    /// Sends what Ctrl-C sends while a statement runs.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end of the command.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || done.send(self.child.wait()));
        match ended.recv_timeout(DEADLINE) {
            Ok(status) => status.unwrap().code(),
            Err(_) => {
                kill_process(pid, Signal::KILL).unwrap();
                panic!("the command did not end");
            }
        }
    }
}
