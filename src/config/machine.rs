//! How much memory this process may use: the control group's limit where there is one, else what
//! the machine has.
//!
//! Linux only; elsewhere, or where nothing can be read, a fixed amount is assumed.

use std::path::Path;

/// Assumed where the system does not tell.
const ASSUMED_BYTES: u64 = 2 << 30;

/// Bytes of memory this process may use, and who says so.
pub(crate) fn memory() -> (u64, &'static str) {
    let machine = read("/proc/meminfo").and_then(|text| total_of(&text));
    let group = read("/proc/self/cgroup").and_then(|text| {
        let below = Path::new("/sys/fs/cgroup").join(group_of(&text)?);
        // A limit set further up holds here too.
        below
            .ancestors()
            .take_while(|directory| directory.starts_with("/sys/fs/cgroup"))
            .filter_map(|directory| {
                read(directory.join("memory.max"))?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .min()
    });
    match (group, machine) {
        (Some(limit), Some(total)) if limit >= total => (total, "machine"),
        (Some(limit), _) => (limit, "control group"),
        (None, Some(total)) => (total, "machine"),
        (None, None) => (ASSUMED_BYTES, "assumed"),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// `MemTotal:       24631588 kB`
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `0::/system.slice/auxo.service`, as a path below the mount.
fn group_of(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let meminfo = "MemTotal:       24631588 kB\nMemFree:         1 kB\n";
        assert_eq!(total_of(meminfo), Some(24_631_588 * 1024));
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
        assert_eq!(
            group_of("1:cpu:/x\n0::/system.slice/a\n"),
            Some("system.slice/a")
        );
        assert_eq!(group_of("0::/\n"), Some(""));
        assert_eq!(group_of("0::/../up\n"), None);
    }

    #[test]
    fn some_memory_is_always_found() {
        assert!(memory().0 > 1 << 20);
    }
}
