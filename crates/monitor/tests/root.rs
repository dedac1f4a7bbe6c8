//! The real thing: a zygote, its monitors, pause and containers on this kernel. No agent, no network, no cgroup limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names the one message that it wants")]

#[path = "root/connections.rs"]
mod connections;
#[path = "root/dying.rs"]
mod dying;
#[path = "root/memory.rs"]
mod memory;
#[path = "root/node_end.rs"]
mod node_end;
#[path = "root/spare.rs"]
mod spare;
#[path = "root/streams.rs"]
mod streams;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, CgroupPath, Cgroups, Entry};
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::plan::*;
use berth_monitor::protocol::*;
use berth_monitor::stage::Stage;
use berth_sys::packet::{self, Blocking};
use rustix::fs::{MemfdFlags, memfd_create};

/// A zygote and a directory for all its pods.
struct Host {
    zygote: Child,
    control: OwnedFd,
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (control, theirs) = packet::pair(Blocking::Yes).unwrap();
        let zygote = Command::new(env!("CARGO_BIN_EXE_berth-monitor"))
            .arg("room for the title that ps shows, as long as the name of a pod: 64 digits and a little")
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        Self { zygote, control, directory: tempfile::tempdir_in("/var/tmp").unwrap() }
    }

    fn pod(&self, number: u8, change: impl FnOnce(&mut SandboxPlan)) -> Pod {
        let pod = PodId::from_random([number; 32]);
        let directory = self.directory.path().join(pod.as_str());
        fs::create_dir(&directory).unwrap();
        let mut plan = SandboxPlan {
            pod,
            directory: directory.clone(),
            cgroup: Entry::default(),
            net: Sharing::Own,
            ipc: Sharing::Own,
            hostname: Some("the-pod".to_owned()),
            shared_pid: false,
            user_namespace: None,
            sysctls: vec![],
            ipv6: true,
            shm_bytes: 1 << 20,
            spare: false,
        };
        change(&mut plan);
        let (ours, theirs) = packet::pair(Blocking::Yes).unwrap();
        packet::send(&self.control, SPAWN, &[theirs.as_fd(), memfd(&plan).as_fd()]).unwrap();
        drop(theirs);
        Pod::greeted(ours, directory)
    }

    fn rootfs(&self, name: &str) -> Rootfs {
        let base = self.directory.path().join(name);
        let at = |part: &str| {
            let path = base.join(part);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let lower = at("lower");
        fs::create_dir_all(lower.join("bin")).unwrap();
        fs::create_dir_all(lower.join("etc")).unwrap();
        fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        for applet in
            ["sh", "id", "cat", "sleep", "hostname", "readlink", "touch", "kill", "seq", "ls", "stat", "stty"]
        {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        fs::write(lower.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:50::/srv:/bin/sh\n")
            .unwrap();
        Rootfs {
            staging: at("root"),
            lower: vec![lower],
            upper: at("upper"),
            work: at("work"),
            read_only: false,
        }
    }

    /// The lines of this machine's mount table that name the test's directory, whoever else mounts something.
    fn mounts(&self) -> Vec<String> {
        let directory = self.directory.path().to_str().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(directory)).map(str::to_owned).collect()
    }

    fn plan(&self, number: u8, script: &str) -> LaunchPlan {
        let name = format!("c{number}");
        let log = self.directory.path().join(format!("{name}.log"));
        let mount = |source, target: &str| Mount {
            source,
            target: target.into(),
            access: Access::ReadWrite,
            nosuid: true,
            nodev: false,
            noexec: false,
            propagation: MountPropagation::Private,
            follows_host: false,
            idmapped: false,
        };
        LaunchPlan {
            foreign: None,
            container: ContainerId::from_random([number; 32]),
            pid_namespace: PidNamespace::Own,
            cgroup_namespace: Sharing::Host,
            cgroup: Entry::default(),
            oom_file: None,
            rootfs: self.rootfs(&name),
            mounts: vec![
                mount(MountSource::Proc, "/proc"),
                mount(MountSource::Tmpfs { mode: 0o755, size_bytes: None }, "/dev"),
                mount(MountSource::Devpts, "/dev/pts"),
                mount(MountSource::PodShm, "/dev/shm"),
                mount(MountSource::Sysfs, "/sys"),
            ],
            fifos: vec![],
            devices: vec![Device {
                path: "/dev/null".into(),
                kind: DeviceKind::Character,
                major: 1,
                minor: 3,
                mode: 0o666,
                uid: 0,
                gid: 0,
                host_path: None,
            }],
            links: vec![("/dev/fd".into(), "/proc/self/fd".into())],
            masked_paths: vec!["/proc/kcore".into(), "/sys/firmware".into()],
            readonly_paths: vec!["/proc/sys".into()],
            file_label: None,
            hooks: Hooks::default(),
            process: ProcessPlan {
                args: vec!["sh".into(), "-c".into(), script.into()],
                env: vec!["PATH=/bin".into()],
                cwd: "/".into(),
                user: UserPlan {
                    user: NameOrId::Id(0),
                    group: None,
                    supplemental: vec![],
                    merge_image_groups: true,
                },
                capabilities: Capabilities {
                    bounding: 0xa80425fb,
                    effective: 0xa80425fb,
                    inheritable: 0,
                    ambient: 0,
                },
                no_new_privileges: true,
                seccomp: None,
                seccomp_flags: 0,
                apparmor: None,
                selinux: None,
                oom_score_adj: Some(500),
            },
            stdio: StdioPlan {
                stdin: false,
                stdin_once: false,
                tty: false,
                log: Some(log),
                log_directory: None,
                log_line_bytes: 16384,
            },
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (closed, _) = packet::pair(Blocking::Yes).unwrap();
        self.control = closed;
        self.zygote.wait().unwrap();
    }
}

/// A cgroup for one test; on a failure too it goes with all that is in it.
struct Scratch(Cgroup);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = format!("/berth-monitor-{name}-{}", std::process::id());
        Self(Cgroups::detect().unwrap().create(&CgroupPath::new(&path).unwrap()).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = self.0.remove(Duration::from_secs(10));
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

/// A pod as its agent holds it.
struct Pod {
    socket: OwnedFd,
    directory: PathBuf,
    hello: Hello,
    reports: Vec<ContainerReport>,
    handles: Vec<OwnedFd>,
    requests: u64,
    /// Exits that arrived while something else was awaited.
    exits: Vec<(ContainerId, Exit)>,
}

impl Pod {
    fn greeted(socket: OwnedFd, directory: PathBuf) -> Self {
        let packet = packet::receive(&socket).unwrap().unwrap();
        match serde_json::from_slice(&packet.bytes).unwrap() {
            Message::Hello(hello) => {
                let mut handles = packet.fds;
                let reports = serde_json::from_reader(File::from(handles.remove(0))).unwrap();
                Self { socket, directory, hello, reports, handles, requests: 0, exits: vec![] }
            }
            other => panic!("{other:?}"),
        }
    }

    fn reconnect(&mut self) {
        let socket = packet::connect_in(&self.directory, SOCKET_NAME, Blocking::Yes).unwrap();
        *self = Self::greeted(socket, self.directory.clone());
    }

    fn message(&self) -> Message {
        self.packet().0
    }

    fn packet(&self) -> (Message, Vec<OwnedFd>) {
        let packet = packet::receive(&self.socket).unwrap().expect("the monitor is there");
        (serde_json::from_slice(&packet.bytes).unwrap(), packet.fds)
    }

    fn ask(&mut self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        self.ask_for_fds(order, fds).0
    }

    fn ask_for_fds(
        &mut self,
        order: Order,
        fds: &[BorrowedFd<'_>],
    ) -> (Result<Answer, Failure>, Vec<OwnedFd>) {
        self.requests += 1;
        let request = serde_json::to_vec(&Request { id: self.requests, version: None, order }).unwrap();
        packet::send(&self.socket, &request, fds).unwrap();
        loop {
            match self.packet() {
                (Message::Reply { id, result }, fds) if id == self.requests => return (result, fds),
                (Message::Event(Event::ContainerExited { container, exit }), _) => {
                    self.exits.push((container, exit))
                }
                other => println!("meanwhile: {other:?}"),
            }
        }
    }

    fn launch(&mut self, plan: &LaunchPlan) -> Result<Answer, Failure> {
        self.ask(Order::Launch, &[memfd(plan).as_fd()])
    }

    fn start(&mut self, plan: &LaunchPlan) -> i32 {
        match self.ask(Order::Start { container: plan.container.clone() }, &[]) {
            Ok(Answer::Started { pid, .. }) => pid,
            other => panic!("{other:?}"),
        }
    }

    fn exit(&mut self, plan: &LaunchPlan) -> Exit {
        loop {
            if let Some(at) = self.exits.iter().position(|(container, _)| *container == plan.container) {
                return self.exits.swap_remove(at).1;
            }
            match self.message() {
                Message::Event(Event::ContainerExited { container, exit }) => {
                    self.exits.push((container, exit))
                }
                other => println!("meanwhile: {other:?}"),
            }
        }
    }

    /// Launches, starts and awaits; returns the exit and the texts of the log.
    fn run(&mut self, plan: &LaunchPlan) -> (Exit, String) {
        self.launch(plan).unwrap();
        self.start(plan);
        let exit = self.exit(plan);
        (exit, log_text(plan))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let request = serde_json::to_vec(&Request { id: 0, version: None, order: Order::Shutdown }).unwrap();
        let _ = packet::send(&self.socket, &request, &[]);
        // The end of the stream is the end of the monitor.
        while let Ok(Some(_)) = packet::receive(&self.socket) {}
    }
}

fn memfd(value: &impl serde::Serialize) -> OwnedFd {
    let mut file = File::from(memfd_create("plan", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&serde_json::to_vec(value).unwrap()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

fn log_text(plan: &LaunchPlan) -> String {
    let log = fs::read_to_string(plan.stdio.log.as_ref().unwrap()).unwrap();
    log.lines().map(|line| line.splitn(4, ' ').last().unwrap().to_owned() + "\n").collect()
}

fn namespace(pid: i32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn containers_share_the_pods_namespaces_and_have_their_own_pid_and_mounts() {
    let host = Host::new();
    let mut pod = host.pod(1, |_| {});
    let pause = pod.hello.pause_pid.unwrap();
    assert_eq!(pod.handles.len(), 2);
    let plans = [host.plan(1, "echo $$; sleep 100"), host.plan(2, "hostname; touch /dev/shm/x; sleep 100")];
    let pids: Vec<i32> = plans
        .iter()
        .map(|plan| {
            pod.launch(plan).unwrap();
            pod.start(plan)
        })
        .collect();
    for name in ["net", "ipc", "uts"] {
        assert!(pids.iter().all(|&pid| namespace(pid, name) == namespace(pause, name)), "{name}");
        assert_ne!(namespace(pause, name), fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
    }
    for name in ["pid", "mnt"] {
        assert_ne!(namespace(pids[0], name), namespace(pids[1], name));
        assert_ne!(namespace(pids[0], name), namespace(pause, name));
    }
    wait_until("shared memory is shared", || {
        Path::new(&format!("/proc/{}/root/dev/shm/x", pids[0])).exists()
    });
    wait_until("output is logged", || log_text(&plans[1]) == "the-pod\n");
    assert_eq!(log_text(&plans[0]), "1\n");
    assert_eq!(host.mounts(), Vec::<String>::new());
    drop(pod);
    wait_until("all is gone", || {
        pids.iter().chain([&pause]).all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_workload_has_the_plans_user_rights_and_limits() {
    let host = Host::new();
    let mut pod = host.pod(2, |_| {});
    let mut plan = host.plan(3, "id; cat /proc/self/oom_score_adj; readlink /proc/self/cwd; echo $HOME; \
        grep() { while read a b; do [ $a = $1: ] && echo $a $b; done < /proc/self/status; }; \
        grep CapEff; grep CapBnd; grep NoNewPrivs; while read line; do case \"$line\" in *' /proc/sys ro'*) echo protected;; esac; done < /proc/self/mountinfo; ls /proc/self/fd | while read f; do echo fd $f; done");
    plan.process.user.user = NameOrId::Name("web".to_owned());
    plan.process.user.supplemental = vec![77];
    plan.process.cwd = "/made/here".into();
    let (exit, text) = pod.run(&plan);
    println!("{text}");
    assert_eq!((exit.code, exit.oom_killed, exit.start_error), (0, false, None));
    for want in [
        "uid=1000(web) gid=50 groups=50,77",
        "500",
        "/made/here",
        "/srv",
        "CapEff: 0000000000000000",
        "CapBnd: 00000000a80425fb",
        "NoNewPrivs: 1",
        "protected",
    ] {
        assert!(text.contains(want), "{want}");
    }
    // Standard streams, the pipe's read side of the loop, and the directory being listed.
    assert!(!text.contains("fd 5"), "a descriptor of the runtime has leaked");
}

/// What has been written to by one launch is used by no other: see `volatile` in `mount_layers`.
fn renew(rootfs: &Rootfs) {
    for directory in [&rootfs.upper, &rootfs.work] {
        fs::remove_dir_all(directory).unwrap();
        fs::create_dir(directory).unwrap();
    }
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_failed_step_is_named_and_leaves_nothing() {
    let host = Host::new();
    let mut pod = host.pod(3, |_| {});
    let mut plan = host.plan(4, "true");
    plan.process.user.user = NameOrId::Name("nobody-knows".to_owned());
    match pod.launch(&plan) {
        Err(Failure::Launch { stage: Stage::FindUser, detail, .. }) => {
            assert!(detail.contains("nobody-knows"))
        }
        other => panic!("{other:?}"),
    }
    plan.process.user.user = NameOrId::Id(0);
    plan.process.args = vec!["/no/such/program".into()];
    renew(&plan.rootfs);
    pod.launch(&plan).expect("the same identifier again, since the first has left nothing");
    match pod.ask(Order::Start { container: plan.container.clone() }, &[]) {
        Err(Failure::Launch { stage: Stage::Execute, errno, .. }) => assert_eq!(errno, Some(2)),
        other => panic!("{other:?}"),
    }
    let exit = pod.exit(&plan);
    assert_eq!(exit.code, 128);
    assert!(exit.start_error.unwrap().contains("/no/such/program"));
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn an_agent_that_comes_back_is_told_what_it_missed() {
    let host = Host::new();
    let mut pod = host.pod(4, |_| {});
    let (ended, running) = (host.plan(5, "seq 1 20000; exit 7"), host.plan(6, "sleep 100"));
    for plan in [&ended, &running] {
        pod.launch(plan).unwrap();
        pod.start(plan);
    }
    let record = exit_record_path(&pod.directory, &ended.container);
    // The connection breaks as that of a killed agent does.
    let (broken, _) = packet::pair(Blocking::Yes).unwrap();
    pod.socket = broken;
    wait_until("the exit is recorded", || record.exists());
    pod.reconnect();
    let report = |plan: &LaunchPlan| pod.reports.iter().find(|c| c.container == plan.container).unwrap();
    assert_eq!(report(&ended).exit.as_ref().unwrap().code, 7);
    assert_eq!(report(&running).exit, None);
    let numbers: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert_eq!(log_text(&ended), numbers);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_shared_pid_namespace_has_pause_as_its_init() {
    let host = Host::new();
    let mut pod = host.pod(5, |plan| plan.shared_pid = true);
    let mut plan = host.plan(7, "echo me $$; cat /proc/1/comm; (sleep 0.1 & ) ; sleep 100");
    plan.pid_namespace = PidNamespace::Pod;
    pod.launch(&plan).unwrap();
    let pid = pod.start(&plan);
    let pause = pod.hello.pause_pid.unwrap();
    wait_until("pause is process 1", || log_text(&plan).contains("pause"));
    assert!(!log_text(&plan).contains("me 1\n"));
    assert_eq!(namespace(pid, "pid"), namespace(pause, "pid"));
    // And the next container does not land in it by mistake.
    let own = host.plan(8, "echo me $$");
    assert_eq!(pod.run(&own).1, "me 1\n");
    pod.ask(Order::Signal { container: plan.container.clone(), signal: 9 }, &[]).unwrap();
    assert_eq!(pod.exit(&plan).code, 137);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_killed_monitor_takes_its_pod_with_it() {
    let host = Host::new();
    let mut pod = host.pod(6, |_| {});
    let plan = host.plan(9, "sleep 100");
    pod.launch(&plan).unwrap();
    let pid = pod.start(&plan);
    let monitor = rustix::process::Pid::from_raw(pod.hello.pid).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    let pause = pod.hello.pause_pid.unwrap();
    wait_until("pause and container are gone", || {
        [pause, pid].iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}
