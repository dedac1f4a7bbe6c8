//! Memory of a runtime: the proportional set size of its processes, in which each shared page counts once for all who
//! share it.

use std::fs;

use anyhow::{Context, Result};
use berth_e2e::Cri;

use super::RuntimeProcesses;
use crate::peer::Peer;

/// At one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Of the process that answers.
    pub(crate) server_kib: u64,
    /// Of all that are the runtime's.
    pub(crate) all_kib: u64,
    /// How many these are.
    pub(crate) processes: usize,
}

impl Memory {
    /// Looks at all of a runtime's processes.
    pub(crate) fn of(peer: &Peer, cri: &Cri) -> Result<Self> {
        let found = RuntimeProcesses::of(peer, cri)?;
        let all_kib = found.all.iter().map(|pid| pss_kib(*pid).unwrap_or_default()).sum();
        let server_kib = pss_kib(found.server).context("read the memory of the server")?;
        Ok(Self { server_kib, all_kib, processes: found.all.len() })
    }
}

/// None if it has ended. Source: proc(5), `smaps_rollup`.
fn pss_kib(pid: u32) -> Option<u64> {
    field_kib(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

/// What the kernel itself holds for everybody: only the difference of two says anything. Source: proc(5), `meminfo`.
pub(crate) fn slab_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    field_kib(&text, "Slab:").context("/proc/meminfo has no Slab")
}

/// `Name:   123 kB`
fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::field_kib;

    #[test]
    fn fields_are_read_by_name() {
        let text = "Rss:   12 kB\nPss:                 345 kB\nPss_Dirty:           6 kB\n";
        assert_eq!(field_kib(text, "Pss:"), Some(345));
        assert_eq!(field_kib(text, "Slab:"), None);
    }
}
