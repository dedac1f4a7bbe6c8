//! Reading a cgroup's files, again and again.
//!
//! Opening a file of the kernel's costs more than reading it, so a meter keeps descriptors: `pread` from the start
//! makes the kernel write the text anew. How many all meters of a process may keep together is an [`Allowance`], so
//! that a node with many containers does not use up the descriptors that pods need; beyond it files are opened for each
//! reading.
//!
//! A descriptor of a cgroup that has been removed answers ENODEV: it is dropped, and the path is tried once more. A
//! meter can be used from several threads, one at a time. It blocks for as long as the kernel adds up its counters,
//! which is some microseconds for each file: for many cgroups, use a thread where that does no harm.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::parse::{self, MemoryTexts};
use super::{Detail, HugePages, MemoryDetail, MemoryUsage, PressureUsage, Usage};
use crate::files::keyed_number;
use crate::{Cgroup, Layout};

/// More than any file that is read here holds; what comes after is not looked at.
const MOST_BYTES: usize = 64 << 10;

/// How many descriptors meters may keep open together; clones share it.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicUsize>);

/// Reads what one cgroup has used.
#[derive(Debug)]
pub struct Meter {
    cgroup: Cgroup,
    allowance: Allowance,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<Kept>,
    /// By page size, for kernels that keep none themselves.
    huge_page_peaks: BTreeMap<String, u64>,
}

/// A descriptor that stays open, and its part of the allowance.
#[derive(Debug)]
struct Kept {
    /// Of a cgroup's files in all hierarchies, no two that are read here have the same name.
    name: String,
    file: File,
    allowance: Allowance,
}

impl Allowance {
    /// For so many descriptors.
    pub fn new(descriptors: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(descriptors)))
    }

    /// Half of what this process may have open.
    pub fn of_process() -> Self {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::new(most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)) / 2)
    }

    fn keep(&self, name: &str, file: File) -> Option<Kept> {
        let take = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Kept { name: name.to_owned(), file, allowance: self.clone() })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.allowance.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Meter {
    /// For a cgroup, which may not exist; opens nothing yet.
    pub fn new(cgroup: Cgroup, allowance: Allowance) -> Self {
        Self { cgroup, allowance, state: Mutex::default() }
    }

    /// What is asked for all the time. Blocks for some ten microseconds.
    pub fn usage(&self) -> Usage {
        self.read(|files| {
            let (cpu_ns, memory, tasks) = match files.cgroup.layout() {
                Layout::Unified => (
                    files.text("cpu", "cpu.stat").and_then(|text| parse::v2_cpu_ns(&text)),
                    v2_memory(files),
                    files.text("pids", "pids.current"),
                ),
                Layout::Hybrid | Layout::Legacy => (
                    files.text("cpuacct", "cpuacct.usage").and_then(|text| parse::number(&text)),
                    v1_memory(files),
                    files.text("pids", "pids.current"),
                ),
            };
            let mut pressure = |file| parse::pressure(&files.unified_text(file)?);
            let pressure = PressureUsage {
                cpu: pressure("cpu.pressure"),
                memory: pressure("memory.pressure"),
                io: pressure("io.pressure"),
            };
            Usage { cpu_ns, memory, tasks: tasks.and_then(|text| parse::number(&text)), pressure }
        })
    }

    /// CPU time alone: a cgroup in which it has not changed has done nothing.
    pub fn cpu_ns(&self) -> Option<u64> {
        self.read(|files| match files.cgroup.layout() {
            Layout::Unified => parse::v2_cpu_ns(&files.text("cpu", "cpu.stat")?),
            Layout::Hybrid | Layout::Legacy => parse::number(&files.text("cpuacct", "cpuacct.usage")?),
        })
    }

    /// What only a monitoring system asks for. Blocks somewhat longer.
    pub fn detail(&self) -> Detail {
        self.read(|files| {
            let cpu_stat = files.text("cpu", "cpu.stat");
            let throttling = cpu_stat.as_deref().and_then(parse::throttling);
            let (cpu, memory, devices) = match files.cgroup.layout() {
                Layout::Unified => (
                    cpu_stat.as_deref().and_then(parse::v2_cpu),
                    v2_memory_detail(files),
                    files.text("io", "io.stat").map(|text| parse::v2_devices(&text)),
                ),
                Layout::Hybrid | Layout::Legacy => {
                    let ticks = rustix::param::clock_ticks_per_second();
                    let cpuacct_stat = files.text("cpuacct", "cpuacct.stat");
                    let bytes = files.text("blkio", "blkio.throttle.io_service_bytes_recursive");
                    let operations = files.text("blkio", "blkio.throttle.io_serviced_recursive");
                    (
                        cpuacct_stat.and_then(|text| parse::v1_cpu(&text, ticks)),
                        v1_memory_detail(files),
                        bytes.zip(operations).map(|(bytes, count)| parse::v1_devices(&bytes, &count)),
                    )
                }
            };
            let tasks_refused = files.text("pids", "pids.events").and_then(|text| keyed_number(&text, "max"));
            let tasks_limit = files.text("pids", "pids.max").and_then(|text| parse::limit(&text));
            let huge_pages = files.huge_pages();
            Detail {
                cpu,
                throttling,
                memory,
                tasks_limit,
                tasks_refused,
                devices: devices.unwrap_or_default(),
                huge_pages,
            }
        })
    }

    fn read<T>(&self, reading: impl FnOnce(&mut Files<'_>) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        reading(&mut Files { cgroup: &self.cgroup, allowance: &self.allowance, state: &mut state })
    }
}

/// A cgroup's files during one reading.
struct Files<'a> {
    cgroup: &'a Cgroup,
    allowance: &'a Allowance,
    state: &'a mut State,
}

impl Files<'_> {
    /// A file of the hierarchy that has the controller.
    fn text(&mut self, controller: &str, name: &str) -> Option<String> {
        match self.cgroup.layout() {
            // Some files, like `cpu.stat`, are there also without their controller.
            Layout::Unified => self.unified_text(name),
            Layout::Hybrid | Layout::Legacy => self.text_in(name, |cgroup| cgroup.directory_of(controller)),
        }
    }

    /// A file of the version 2 hierarchy, which may have no controllers.
    fn unified_text(&mut self, name: &str) -> Option<String> {
        self.text_in(name, Cgroup::unified_directory)
    }

    fn text_in(&mut self, name: &str, directory: impl FnOnce(&Cgroup) -> Option<PathBuf>) -> Option<String> {
        let known = self.state.kept.iter().position(|kept| kept.name == name);
        if let Some(index) = known {
            match read_from_start(&self.state.kept[index].file) {
                Some(text) => return Some(text),
                None => drop(self.state.kept.swap_remove(index)),
            }
        }
        let file = File::open(directory(self.cgroup)?.join(name)).ok()?;
        let text = read_from_start(&file)?;
        self.state.kept.extend(self.allowance.keep(name, file));
        Some(text)
    }

    /// Huge pages of all sizes. The version 2 hierarchy has the controller in some hybrid layouts.
    fn huge_pages(&mut self) -> Vec<HugePages> {
        let v1 = match self.cgroup.layout() {
            Layout::Unified => None,
            Layout::Hybrid | Layout::Legacy => self.cgroup.directory_of("hugetlb"),
        };
        let (directory, usage) = match v1 {
            Some(directory) => (Some(directory), ".usage_in_bytes"),
            None => (self.cgroup.unified_directory(), ".current"),
        };
        let Some(directory) = directory else { return Vec::new() };
        let mut sizes = page_sizes(&directory, usage);
        sizes.sort();
        let read = |page_size: String| {
            let prefix = format!("hugetlb.{page_size}");
            let usage_bytes = self.number_in(&directory, &format!("{prefix}{usage}"))?;
            let peak_bytes = match self.number_in(&directory, &format!("{prefix}.max_usage_in_bytes")) {
                Some(peak_bytes) => peak_bytes,
                None => {
                    let peak = self.state.huge_page_peaks.entry(page_size.clone()).or_default();
                    *peak = (*peak).max(usage_bytes);
                    *peak
                }
            };
            Some(HugePages { page_size, usage_bytes, peak_bytes })
        };
        sizes.into_iter().filter_map(read).collect()
    }

    fn number_in(&mut self, directory: &Path, name: &str) -> Option<u64> {
        parse::number(&self.text_in(name, |_| Some(directory.to_owned()))?)
    }
}

fn v2_memory(files: &mut Files<'_>) -> Option<MemoryUsage> {
    let (usage, stat) = (files.text("memory", "memory.current")?, files.text("memory", "memory.stat")?);
    let (limit, swap) = (files.text("memory", "memory.max"), files.text("memory", "memory.swap.current"));
    let swap_limit = files.text("memory", "memory.swap.max");
    parse::v2_memory(&texts(&usage, &stat, &limit, &swap, &swap_limit))
}

fn v1_memory(files: &mut Files<'_>) -> Option<MemoryUsage> {
    let (usage, stat) =
        (files.text("memory", "memory.usage_in_bytes")?, files.text("memory", "memory.stat")?);
    let limit = files.text("memory", "memory.limit_in_bytes");
    let both = files.text("memory", "memory.memsw.limit_in_bytes");
    parse::v1_memory(&texts(&usage, &stat, &limit, &None, &both))
}

fn texts<'a>(
    usage: &'a str,
    stat: &'a str,
    limit: &'a Option<String>,
    swap: &'a Option<String>,
    swap_limit: &'a Option<String>,
) -> MemoryTexts<'a> {
    MemoryTexts {
        usage,
        stat,
        limit: limit.as_deref(),
        swap: swap.as_deref(),
        swap_limit: swap_limit.as_deref(),
    }
}

fn v2_memory_detail(files: &mut Files<'_>) -> Option<MemoryDetail> {
    let (stat, events) = (files.text("memory", "memory.stat")?, files.text("memory", "memory.events")?);
    let peak = files.text("memory", "memory.peak");
    Some(parse::v2_memory_detail(&stat, &events, peak.as_deref()))
}

fn v1_memory_detail(files: &mut Files<'_>) -> Option<MemoryDetail> {
    let mut number = |file| parse::number(&files.text("memory", file)?);
    let peak_bytes = number("memory.max_usage_in_bytes");
    let limit_hits = number("memory.failcnt").unwrap_or_default();
    let kernel_bytes = number("memory.kmem.usage_in_bytes").unwrap_or_default();
    let oom_kills =
        keyed_number(&files.text("memory", "memory.oom_control")?, "oom_kill").unwrap_or_default();
    Some(MemoryDetail { peak_bytes, kernel_bytes, limit_hits, oom_kills })
}

/// The page sizes of which a directory has a file `hugetlb.SIZE` with this ending.
fn page_sizes(directory: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let size = name.to_str()?.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
        // `rsvd` is about reservations.
        (!size.contains('.')).then(|| size.to_owned())
    };
    entries.filter_map(size).collect()
}

/// The whole text, as the kernel writes it now; `None` where it can't be read.
fn read_from_start(file: &File) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        if length == bytes.len() {
            if length >= MOST_BYTES {
                break;
            }
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CgroupPath, Cgroups};

    /// A cgroup of version 2 made of plain files.
    fn unified(directory: &Path) -> Cgroup {
        fs::write(directory.join("cgroup.controllers"), "cpu memory pids io hugetlb").unwrap();
        let text = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", directory.display());
        Cgroups::from_mountinfo(&text).unwrap().create(&CgroupPath::new("/web").unwrap()).unwrap()
    }

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            fs::write(directory.join("web").join(name), content).unwrap();
        }
    }

    #[test]
    fn a_cgroup_without_files_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meter::new(unified(dir.path()), Allowance::new(100));
        assert!(meter.usage().is_empty());
        assert_eq!(meter.detail(), Detail::default());
    }

    #[test]
    fn each_reading_is_a_new_one_with_and_without_descriptors() {
        for allowed in [0, 1, 100] {
            let dir = tempfile::tempdir().unwrap();
            let meter = Meter::new(unified(dir.path()), Allowance::new(allowed));
            write(dir.path(), &[("cpu.stat", "usage_usec 1\n"), ("pids.current", "7\n")]);
            assert_eq!((meter.usage().cpu_ns, meter.usage().tasks), (Some(1000), Some(7)));
            write(dir.path(), &[("cpu.stat", "usage_usec 2\n"), ("pids.current", "8\n")]);
            assert_eq!((meter.usage().cpu_ns, meter.usage().tasks), (Some(2000), Some(8)), "{allowed}");
            assert_eq!(meter.cpu_ns(), Some(2000));
        }
    }

    #[test]
    fn meters_share_an_allowance_and_give_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let allowance = Allowance::new(1);
        let [first, second] = [(); 2].map(|()| Meter::new(unified(dir.path()), allowance.clone()));
        write(dir.path(), &[("cpu.stat", "usage_usec 1\n")]);
        let kept = |meter: &Meter| meter.state.lock().unwrap().kept.len();
        assert_eq!((first.cpu_ns(), second.cpu_ns()), (Some(1000), Some(1000)));
        assert_eq!((kept(&first), kept(&second)), (1, 0));
        drop(first);
        assert_eq!((second.cpu_ns(), kept(&second)), (Some(1000), 1));
    }

    #[test]
    fn huge_pages_are_told_by_size_with_the_highest_that_was_seen() {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meter::new(unified(dir.path()), Allowance::new(100));
        let files = [("hugetlb.2MB.current", "4194304\n"), ("hugetlb.2MB.rsvd.current", "1\n")];
        write(dir.path(), &files);
        let pages =
            |usage_bytes| vec![HugePages { page_size: "2MB".into(), usage_bytes, peak_bytes: 4_194_304 }];
        assert_eq!(meter.detail().huge_pages, pages(4_194_304));
        write(dir.path(), &[("hugetlb.2MB.current", "0\n")]);
        assert_eq!(meter.detail().huge_pages, pages(0));
    }

    #[test]
    fn version_1_is_read_in_the_hierarchy_of_each_controller() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for controller in ["cpuacct", "memory", "pids", "freezer"] {
            fs::create_dir(dir.path().join(controller)).unwrap();
            let mount = dir.path().join(controller);
            text += &format!("1 2 0:3 / {} rw - cgroup cgroup rw,{controller}\n", mount.display());
        }
        let cgroup = Cgroups::from_mountinfo(&text).unwrap().create(&CgroupPath::new("/a").unwrap()).unwrap();
        for (file, content) in [
            ("cpuacct/a/cpuacct.usage", "123\n"),
            ("memory/a/memory.usage_in_bytes", "4096\n"),
            ("memory/a/memory.stat", "total_rss 1024\n"),
            ("memory/a/memory.oom_control", "oom_kill 2\n"),
            ("pids/a/pids.current", "3\n"),
            ("pids/a/pids.max", "max\n"),
        ] {
            fs::write(dir.path().join(file), content).unwrap();
        }
        let meter = Meter::new(cgroup, Allowance::new(100));
        let usage = meter.usage();
        let memory = usage.memory.unwrap();
        assert_eq!((usage.cpu_ns, usage.tasks), (Some(123), Some(3)));
        assert_eq!((memory.usage_bytes, memory.anonymous_bytes, memory.limit_bytes), (4096, 1024, None));
        let detail = meter.detail();
        assert_eq!((detail.memory.unwrap().oom_kills, detail.tasks_limit), (2, None));
    }
}
