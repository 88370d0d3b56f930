//! Ports for servers that are told where to listen.
//!
//! They lie below the range from which the kernel takes ports for outgoing connections: a client that
//! tries a stopped server again and again would otherwise one day get that server's own port and be
//! connected to itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// First port that is tried; below is where other people's servers live.
const FIRST: u16 = 17_000;

/// How many are tried.
const COUNT: u16 = 15_000;

/// Calls of this process begin behind each other, those of different processes somewhere.
static TAKEN: AtomicU16 = AtomicU16::new(0);

/// That many different ports, each free a moment ago.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let begin = std::process::id().wrapping_mul(97) as u16;
    let mut held = Vec::new();
    for _ in 0..COUNT {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(step) % COUNT;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == N {
            let mut ports = [0; N];
            for (port, (free, _)) in ports.iter_mut().zip(&held) {
                *port = *free;
            }
            return Ok(ports);
        }
    }
    bail!("no {N} free ports from {FIRST} on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_given_out_once() {
        let (one, two) = (free::<3>().unwrap(), free::<3>().unwrap());
        let mut all = [one, two].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
        for port in all {
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }
}
