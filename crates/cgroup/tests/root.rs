//! The real kernel's cgroups, in whatever layout this machine has.
//!
//! Each test works in a cgroup of its own, `/berth-test-PID-NAME`, which goes with it, also after a failure.

// Clippy's exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_cgroup::{
    Cgroup, CgroupError, CgroupPath, Cgroups, DEFAULT_DEVICES, DeviceAccess, DeviceKind, DeviceRule, Entry,
    ExecCgroup, Layout, Limit, Limits, kill_all, read_oom_kills,
};

/// An emulated machine on a busy one takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cgroup for one test.
struct Scratch {
    cgroups: Cgroups,
    top: CgroupPath,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let top = CgroupPath::new(&format!("/berth-test-{}-{name}", std::process::id())).unwrap();
        Self { cgroups: Cgroups::detect().unwrap(), top }
    }

    fn create(&self, name: &str) -> Cgroup {
        self.cgroups.create(&self.top.join(name).unwrap()).unwrap()
    }

    /// What `find` sees of this test in all hierarchies.
    fn directories(&self) -> usize {
        let name = self.top.as_str().trim_start_matches('/');
        let output = Command::new("find").args(["/sys/fs/cgroup", "-name", name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = self.cgroups.open(&self.top).remove(PATIENCE);
        if !std::thread::panicking() {
            removed.unwrap();
            assert_eq!(self.directories(), 0, "a directory is left");
        }
    }
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn cgroups_are_born_with_their_parents_processors() {
    let scratch = Scratch::new("cpusets");
    let outer = scratch.top.join("outer").unwrap();
    let create = |name: &str| scratch.cgroups.create(&outer.join(name).unwrap()).unwrap();
    let inner = create("inner");
    let (outer, top) = (scratch.cgroups.open(&outer), scratch.cgroups.open(&scratch.top));
    let cpuset = |cgroup: &Cgroup, file: &str| {
        let mut entry =
            procs_files(&cgroup.entry()).into_iter().map(|file| file.with_file_name("cpuset.cpus"));
        let known = entry.find(|cpus| cpus.exists()).unwrap();
        fs::read_to_string(known.with_file_name(file)).unwrap().trim().to_owned()
    };
    let is_unified = scratch.cgroups.layout() == Layout::Unified;
    let cpus = if is_unified { "cpuset.cpus.effective" } else { "cpuset.cpus" };
    assert_ne!(cpuset(&inner, cpus), "");
    assert_eq!(cpuset(&inner, cpus), cpuset(&top, cpus));
    if !is_unified {
        assert_eq!(cpuset(&outer, "cgroup.clone_children"), "1");
        // And those that somebody else makes there.
        assert_eq!(cpuset(&create("next"), "cpuset.mems"), cpuset(&outer, "cpuset.mems"));
    }
}

fn procs_files(entry: &Entry) -> Vec<PathBuf> {
    let version_2 = entry.directory.iter().map(|directory| directory.join("cgroup.procs"));
    version_2.chain(entry.tasks.iter().cloned()).collect()
}

/// Runs a shell script in the cgroup, which the shell enters by itself as a launched container does.
fn spawn(entry: &Entry, script: &str) -> Child {
    let enter: String =
        procs_files(entry).iter().map(|file| format!("echo 0 > {} &&\n", file.display())).collect();
    Command::new("sh").arg("-c").arg(format!("{enter} {script}")).stdout(Stdio::null()).spawn().unwrap()
}

/// Reads a file of the cgroup with `cat`, in whichever hierarchy has it.
fn cat(cgroup: &Cgroup, file: &str) -> String {
    let files = procs_files(&cgroup.entry());
    let path = files.iter().map(|procs| procs.with_file_name(file)).find(|path| path.exists());
    let output = Command::new("cat").arg(path.unwrap_or_else(|| panic!("no {file}"))).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

fn is_unified(scratch: &Scratch) -> bool {
    scratch.cgroups.layout() == Layout::Unified
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn create_and_remove_are_idempotent_and_leave_nothing() {
    let scratch = Scratch::new("create");
    let cgroup = scratch.create("pod");
    scratch.create("pod");
    assert!(procs_files(&cgroup.entry()).iter().all(|file| file.exists()));
    assert_eq!(scratch.directories(), procs_files(&cgroup.entry()).len());
    assert!(scratch.cgroups.list_children(&scratch.top).unwrap().contains("pod"));
    cgroup.remove(PATIENCE).unwrap();
    cgroup.remove(PATIENCE).unwrap();
    assert!(scratch.cgroups.list_children(&scratch.top).unwrap().is_empty());
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn limits_are_what_the_kernel_says_afterwards() {
    let scratch = Scratch::new("limits");
    let cgroup = scratch.create("web");
    let mib = |mib: u64| Some(Limit::At(mib << 20));
    let both =
        |memory, both| Limits { memory_bytes: memory, memory_and_swap_bytes: both, ..Limits::default() };
    cgroup
        .apply(&Limits {
            cpu_shares: Some(512),
            cpu_quota_us: Some(Limit::At(20_000)),
            cpu_period_us: Some(50_000),
            cpuset_cpus: Some("0".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            pids: Some(Limit::At(33)),
            hugepages_bytes: [("2MB".to_owned(), 0)].into(),
            ..both(mib(64), mib(64))
        })
        .unwrap();
    let expected: &[(&str, &str)] = if is_unified(&scratch) {
        &[("cpu.weight", "59"), ("cpu.max", "20000 50000"), ("memory.max", "67108864")]
    } else {
        &[
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.cfs_period_us", "50000"),
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "67108864"),
        ]
    };
    for (file, value) in
        expected.iter().chain(&[("cpuset.cpus", "0"), ("cpuset.mems", "0"), ("pids.max", "33")])
    {
        assert_eq!(cat(&cgroup, file), *value, "{file}");
    }
    // Raising, lowering and lifting, each of which needs another order of the two on version 1.
    let file = if is_unified(&scratch) { "memory.max" } else { "memory.limit_in_bytes" };
    for bytes in [128 << 20, 32 << 20] {
        cgroup.apply(&both(Some(Limit::At(bytes)), Some(Limit::At(bytes)))).unwrap();
        assert_eq!(cat(&cgroup, file), bytes.to_string());
    }
    cgroup.apply(&both(Some(Limit::Max), None)).unwrap();
    assert!(["max", "9223372036854771712"].contains(&&*cat(&cgroup, file)));
    cgroup.apply(&Limits { cpu_period_us: Some(100_000), ..Limits::default() }).unwrap();
    let file = if is_unified(&scratch) { "cpu.max" } else { "cpu.cfs_quota_us" };
    assert!(cat(&cgroup, file).starts_with("20000"));
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_change_in_use_happens_whole_or_not_at_all() {
    let scratch = Scratch::new("update");
    let cgroup = scratch.create("web");
    let memory = |mib: u64| Limits { memory_bytes: Some(Limit::At(mib << 20)), ..Limits::default() };
    let now = memory(128).settled();
    cgroup.apply(&now).unwrap();
    // Holds 64 MiB that can't be reclaimed.
    let mut container = spawn(&cgroup.entry(), "head -c 67108864 /dev/zero | tail -c 67108864 | (sleep 60)");
    let usage = if is_unified(&scratch) { "memory.current" } else { "memory.usage_in_bytes" };
    wait_until("the use of memory", || cat(&cgroup, usage).parse::<u64>().unwrap() > 64 << 20);
    let (limit, swap, cpu) = if is_unified(&scratch) {
        ("memory.max", "memory.swap.max", ("cpu.max", "20000 100000"))
    } else {
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", ("cpu.cfs_quota_us", "20000"))
    };
    let before = [limit, swap, cpu.0].map(|file| cat(&cgroup, file));

    let change = Limits { cpu_quota_us: Some(Limit::At(20_000)), ..memory(16) };
    let error = cgroup.update(&now, &change).unwrap_err();
    assert!(matches!(error, CgroupError::BelowUsage { limit_bytes: 16_777_216, .. }), "{error}");
    assert_eq!([limit, swap, cpu.0].map(|file| cat(&cgroup, file)), before);
    assert!(
        container.try_wait().unwrap().is_none() && read_oom_kills(&cgroup.oom_file().unwrap()).unwrap() == 0
    );
    let bad_cpus = Limits { cpuset_cpus: Some("4095".to_owned()), ..change };
    assert!(cgroup.update(&now, &Limits { memory_bytes: None, ..bad_cpus }).unwrap_err().is_invalid());
    assert_eq!([limit, swap, cpu.0].map(|file| cat(&cgroup, file)), before);

    // Up, and down again.
    let mut now = now;
    for mib in [256, 96] {
        let change = Limits { cpu_quota_us: Some(Limit::At(20_000)), ..memory(mib) };
        now = cgroup.update(&now, &change).unwrap();
        assert_eq!(now.memory_and_swap_bytes, change.memory_bytes, "it still may not swap");
        assert_eq!((cat(&cgroup, limit), cat(&cgroup, cpu.0)), ((mib << 20).to_string(), cpu.1.to_owned()));
        assert_eq!(
            cat(&cgroup, swap),
            if is_unified(&scratch) { "0".to_owned() } else { (mib << 20).to_string() }
        );
    }
    now = cgroup.update(&now, &Limits { cpu_quota_us: Some(Limit::Max), ..Limits::default() }).unwrap();
    assert_eq!((now.cpu_quota_us, cat(&cgroup, cpu.0)), (Some(Limit::Max), before[2].clone()));
    kill_all(&cgroup.entry()).unwrap();
    container.wait().unwrap();
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_refused_value_names_its_field() {
    let scratch = Scratch::new("refused");
    let cgroup = scratch.create("web");
    let limits = Limits { cpuset_cpus: Some("4095".to_owned()), ..Limits::default() };
    let error = cgroup.apply(&limits).unwrap_err();
    assert!(error.to_string().starts_with("set cpuset cpus: write \"4095\" to /sys/fs/cgroup/"), "{error}");
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn killing_reaches_the_whole_tree() {
    let scratch = Scratch::new("kill");
    let cgroup = scratch.create("web");
    let exec = ExecCgroup::create(&cgroup.entry(), "exec").unwrap();
    let mut children =
        [&cgroup.entry(), exec.entry()].map(|entry| spawn(entry, "(setsid sleep 60 & sleep 60 & wait)"));
    wait_until("the start of eight processes", || cgroup.procs().unwrap().len() == 8);
    kill_all(&cgroup.entry()).unwrap();
    children.iter_mut().for_each(|child| assert!(!child.wait().unwrap().success()));
    wait_until("the end of all processes", || cgroup.procs().unwrap().is_empty());
    kill_all(&cgroup.entry()).unwrap();
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_tree_is_removed_if_nobody_is_inside() {
    let scratch = Scratch::new("empty");
    let pod = scratch.create("pod");
    let sandbox = scratch.cgroups.create(&pod.path().join("sandbox").unwrap()).unwrap();
    let mut child = spawn(&sandbox.entry(), "exec sleep 60");
    wait_until("the start of a process", || pod.procs().unwrap() == [child.id()]);
    assert!(!pod.remove_if_empty().unwrap());
    assert_eq!(sandbox.procs().unwrap(), [child.id()]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(pod.remove_if_empty().unwrap());
    assert!(scratch.cgroups.list_children(&scratch.top).unwrap().is_empty());
    assert!(pod.remove_if_empty().unwrap());
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn killing_an_exec_session_spares_its_container() {
    let scratch = Scratch::new("exec");
    let cgroup = scratch.create("web");
    let mut container = spawn(&cgroup.entry(), "exec sleep 60");
    wait_until("the container's start", || cgroup.procs().unwrap() == [container.id()]);
    let exec = ExecCgroup::create(&cgroup.entry(), "exec").unwrap();
    let mut session = spawn(exec.entry(), "(setsid sleep 60 & wait)");
    wait_until("the session's start", || cgroup.procs().unwrap().len() == 4);
    // Limits count the session although its directory has none.
    assert_eq!(cat(&cgroup, "pids.current"), "4");
    exec.remove(PATIENCE).unwrap();
    exec.remove(PATIENCE).unwrap();
    assert!(!session.wait().unwrap().success());
    assert_eq!(cgroup.procs().unwrap(), [container.id()]);
    cgroup.remove(PATIENCE).unwrap();
    assert!(!container.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn version_1_without_version_2_kills_through_the_freezer() {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let legacy: String = text
        .lines()
        .filter(|line| !line.contains(" - cgroup2 "))
        .fold(String::new(), |all, line| all + line + "\n");
    let Ok(cgroups) = Cgroups::from_mountinfo(&legacy) else {
        return;
    };
    assert_eq!(cgroups.layout(), Layout::Legacy);
    let mut scratch = Scratch::new("legacy");
    scratch.cgroups = cgroups;
    let cgroup = scratch.create("web");
    let exec = ExecCgroup::create(&cgroup.entry(), "exec").unwrap();
    let mut container = spawn(&cgroup.entry(), "exec sleep 60");
    let fork_storm = "while :; do sleep 60 & : ; sleep 0.01; done";
    let mut session = spawn(exec.entry(), fork_storm);
    wait_until("some forks", || cgroup.procs().unwrap().len() > 8);
    exec.remove(PATIENCE).unwrap();
    assert!(!session.wait().unwrap().success());
    assert_eq!(cgroup.procs().unwrap(), [container.id()]);
    cgroup.remove(PATIENCE).unwrap();
    assert!(!container.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn oom_kills_are_counted() {
    let scratch = Scratch::new("oom");
    let cgroup = scratch.create("web");
    let sixteen = Some(Limit::At(16 << 20));
    let limits = Limits { memory_bytes: sixteen, memory_and_swap_bytes: sixteen, ..Limits::default() };
    cgroup.apply(&limits).unwrap();
    let file = cgroup.oom_file().unwrap();
    assert_eq!(read_oom_kills(&file).unwrap(), 0);
    let status = spawn(&cgroup.entry(), "exec tail /dev/zero").wait().unwrap();
    assert!(!status.success());
    assert_eq!(read_oom_kills(&file).unwrap(), 1);
}

/// The rules of every container, and a device that may be read.
fn with_kmsg() -> Vec<DeviceRule> {
    let access = DeviceAccess { read: true, write: false, make: false };
    let kmsg = DeviceRule { kind: DeviceKind::Character, major: Some(1), minor: Some(11), access };
    [&DEFAULT_DEVICES[..], &[kmsg]].concat()
}

#[track_caller]
fn check_access(cgroup: &Cgroup, script: &str, allowed: bool) {
    let status = spawn(&cgroup.entry(), script).wait().unwrap();
    assert_eq!(status.success(), allowed, "{script}");
}

fn check_devices(cgroup: &Cgroup) {
    cgroup.allow_devices(&DEFAULT_DEVICES).unwrap();
    check_access(cgroup, "exec 3< /dev/null 4< /dev/urandom", true);
    check_access(cgroup, "exec 3< /dev/kmsg", false);
    // A node may be made, and a device that has no rule not be opened through it.
    let node = std::env::temp_dir().join(format!("berth-node-{}", std::process::id()));
    let node = node.display();
    check_access(
        cgroup,
        &format!("mknod {node} c 1 11 && ! (exec 3< {node}); S=$?; rm {node}; exit $S"),
        true,
    );
    // New rules take the place of the old, and old ones that of the new.
    cgroup.allow_devices(&with_kmsg()).unwrap();
    check_access(cgroup, "exec 3< /dev/kmsg", true);
    check_access(cgroup, "exec 3<> /dev/kmsg", false);
    check_access(cgroup, "exec 3< /dev/null", true);
    cgroup.allow_devices(&DEFAULT_DEVICES).unwrap();
    check_access(cgroup, "exec 3< /dev/kmsg", false);
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn only_devices_with_a_rule_can_be_opened() {
    let scratch = Scratch::new("devices");
    assert!(scratch.cgroups.controls_devices());
    check_devices(&scratch.create("web"));
}

#[test]
#[ignore = "needs root: makes cgroups and loads eBPF programs"]
fn version_2_controls_devices_by_a_program() {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let unified: String =
        text.lines().filter(|line| line.contains(" - cgroup2 ")).map(|line| format!("{line}\n")).collect();
    let cgroups = Cgroups::from_mountinfo(&unified).unwrap();
    assert!(cgroups.layout() == Layout::Unified && cgroups.controls_devices());
    let mut scratch = Scratch::new("program");
    scratch.cgroups = cgroups;
    check_devices(&scratch.create("web"));
    // What a nested cgroup allows does not reach beyond what its parent does.
    let pod = scratch.create("pod");
    pod.allow_devices(&DEFAULT_DEVICES).unwrap();
    let nested = scratch.create("pod").path().join("container").unwrap();
    let nested = scratch.cgroups.create(&nested).unwrap();
    nested.allow_devices(&with_kmsg()).unwrap();
    check_access(&nested, "exec 3< /dev/kmsg", false);
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_process_is_adopted_with_all_its_threads_and_one_that_has_ended_is_no_error() {
    let scratch = Scratch::new("adopt");
    let (from, to) = (scratch.create("from"), scratch.create("to"));
    let hierarchies = procs_files(&to.entry()).len();
    let script = "exec python3 -c 'import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
time.sleep(60)'";
    let mut child = spawn(&from.entry(), script);
    let pid = child.id();
    // In how many hierarchies each thread is in `cgroup`, by what the kernel says of the thread.
    let places = |cgroup: &Cgroup| -> Vec<usize> {
        let end = format!(":{}", cgroup.path().as_str());
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let cgroups = tasks.map(|task| fs::read_to_string(task.join("cgroup")).unwrap());
        cgroups.map(|text| text.lines().filter(|line| line.ends_with(&end)).count()).collect()
    };
    wait_until("the second thread", || places(&from) == [hierarchies; 2]);
    to.adopt(pid).unwrap();
    assert_eq!((places(&from), places(&to)), (vec![0; 2], vec![hierarchies; 2]));
    assert_eq!((from.procs().unwrap(), to.procs().unwrap()), (vec![], vec![pid]));
    // Again is the same.
    to.adopt(pid).unwrap();

    child.kill().unwrap();
    wait_until("its end", || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z "));
    from.adopt(pid).unwrap();
    child.wait().unwrap();
    from.adopt(pid).unwrap();

    // kthreadd, which nobody moves.
    let refused = to.adopt(2).unwrap_err();
    assert!(matches!(refused, CgroupError::Adopt { pid: 2, .. }), "{refused}");
}
