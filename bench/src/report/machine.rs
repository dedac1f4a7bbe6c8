//! What the machine is, as the kernel tells it.

use std::path::Path;
use std::{fmt, fs};

use super::Machine;

impl Machine {
    /// Looks now; the load at the end is still to come. What can't be read is empty or 0.
    pub(crate) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            model: value(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib / 1024,
            cgroups: if unified { "v2" } else { "v1" }.into(),
            load_before: load(),
            load_after: 0.0,
        }
    }

    /// Notes how it is at the end.
    pub(crate) fn look_again(&mut self) {
        self.load_after = load();
    }
}

/// The load average over the last minute. Source: proc(5), `loadavg`.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cgroups, cores, model, memory_mib, load_before, load_after } = self;
        write!(
            f,
            "{cores} cores ({model}), {memory_mib} MiB; Linux {kernel}, cgroup {cgroups}; \
             load {load_before:.1} to {load_after:.1}"
        )
    }
}
