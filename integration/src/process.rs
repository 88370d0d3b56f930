//! What a process has used, and what waits for it, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of a processor's time in `/proc/PID/stat`, a second; 100 on every Linux the kernel's user
/// interface promises it for (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

/// Processor seconds that a process and its threads have used.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("/proc/PID/stat")?;
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .context("name of the process")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("ticks")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Most memory that was resident at once so far, in bytes.
pub fn memory_peak_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Memory that is resident now, in bytes.
pub fn memory_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("/proc/PID/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib = kib.with_context(|| name.to_owned())?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Connections to a port of this machine on which something was sent that nobody has read.
///
/// * source: proc(5), `/proc/net/tcp`: local address and port in hexadecimal, state (01 is
///   established), queues to be sent and to be read in bytes.
pub fn unread(port: u16) -> Result<usize> {
    let table = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let waits = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().take(5).collect();
        let [_, local, _, "01", queues] = fields[..] else {
            return false;
        };
        let to_read = queues.split_once(':').map(|(_, to_read)| to_read);
        local.ends_with(&format!(":{port:04X}"))
            && to_read.is_some_and(|bytes| bytes.bytes().any(|digit| digit != b'0'))
    };
    Ok(table.lines().filter(waits).count())
}

/// Load of the machine over the last minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("load")?.parse()?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_sent_and_not_read_is_seen_also_before_it_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut sender = TcpStream::connect(address).unwrap();
        assert_eq!(unread(address.port()).unwrap(), 0);
        sender.write_all(b"x").unwrap();
        assert_eq!(unread(address.port()).unwrap(), 1);
        listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
        assert_eq!(unread(address.port()).unwrap(), 0);
    }

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        let mut sum = 0_u64;
        while cpu_seconds(pid).unwrap() == 0.0 {
            sum = (0..1_000_000).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        let (now, peak) = (memory_bytes(pid).unwrap(), memory_peak_bytes(pid).unwrap());
        assert!(now > 1 << 20 && peak >= now, "{sum}");
        assert!(load_average().unwrap() >= 0.0);
    }
}
