//! A container that is about to end, and does not yet.

use super::*;

/// A file system that can be frozen: who writes to it waits until it is thawed, and can't be killed meanwhile.
struct Freezable {
    image: PathBuf,
    directory: PathBuf,
}

impl Freezable {
    fn make(host: &Host) -> Self {
        let (image, directory) =
            (host.directory.path().join("image"), host.directory.path().join("freezable"));
        fs::create_dir(&directory).unwrap();
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let this = Self { image, directory };
        assert!(run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), this.image.as_ref()]));
        assert!(run(
            "mount",
            &["-o".as_ref(), "loop".as_ref(), this.image.as_ref(), this.directory.as_ref()]
        ));
        this
    }

    fn freeze(&self) -> Frozen<'_> {
        assert!(run("fsfreeze", &["-f".as_ref(), self.directory.as_ref()]));
        Frozen(&self.directory)
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        run("umount", &[self.directory.as_ref()]);
    }
}

/// Thaws.
struct Frozen<'a>(&'a Path);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["-u".as_ref(), self.0]);
    }
}

fn run(program: &str, args: &[&Path]) -> bool {
    Command::new(program).args(args).status().unwrap().success()
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

/// The number after a key of a process's status.
fn pending_signals(pid: i32, key: &str) -> u64 {
    let status = status(pid);
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(value.trim(), 16).unwrap()
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_command_is_refused_as_for_one_that_has_exited_when_the_containers_pid_namespace_ends() {
    let host = Host::new();
    let freezable = Freezable::make(&host);
    let mut pod = host.pod(40, |plan| plan.shared_pid = true);
    let mut plan = host.plan(40, "read go; : > /frozen/file");
    plan.stdio.stdin = true;
    plan.pid_namespace = PidNamespace::Pod;
    let mut mount = plan.mounts[0].clone();
    (mount.source, mount.target) = (MountSource::Bind(freezable.directory.clone()), "/frozen".into());
    plan.mounts.push(mount);
    let Scratch(cgroup) = &Scratch::new("dying");
    plan.cgroup = cgroup.entry();
    pod.launch(&plan).unwrap();
    let pid = pod.start(&plan);
    let attach =
        Order::Attach { container: plan.container.clone(), stdin: true, stdout: false, stderr: false };
    let (_, stdin) = pod.ask_for_fds(attach, &[]);
    let frozen = freezable.freeze();
    File::from(stdin.into_iter().next().unwrap()).write_all(b"go\n").unwrap();
    wait_until("the container waits for the file system", || status(pid).contains("disk sleep"));

    let pause = rustix::process::Pid::from_raw(pod.hello.pause_pid.unwrap()).unwrap();
    rustix::process::kill_process(pause, rustix::process::Signal::KILL).unwrap();
    // The kernel does so after it has closed the namespace to newcomers.
    let kill = 1 << (9 - 1);
    wait_until("the container is to be killed", || pending_signals(pid, "SigPnd") & kill != 0);
    let exec = ExecPlan { container: plan.container.clone(), args: vec!["ls".into()], tty: false };
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let plan_fd = memfd(&exec);
    let answer = pod.ask(Order::Exec, &[plan_fd.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()]);
    assert_eq!(answer, Err(Failure::WrongState { state: "has exited".to_owned() }));
    assert!(status(pid).contains("disk sleep"));

    drop(frozen);
    assert_eq!(pod.exit(&plan).code, 137);
}

/// The gate closes a moment before the monitor can hear of the end; a start in that moment is one of many here.
#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_start_is_refused_when_the_container_was_killed_at_its_gate() {
    use rustix::process::{Pid, Signal, kill_process};
    let host = Host::new();
    let mut pod = host.pod(41, |_| {});
    let plan = host.plan(41, "true");
    for _ in 0..100 {
        renew(&plan.rootfs);
        let Ok(Answer::Launched { pid, .. }) = pod.launch(&plan) else { panic!("it can be made") };
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        match pod.ask(Order::Start { container: plan.container.clone() }, &[]) {
            Err(Failure::WrongState { state }) => assert_eq!(state, "has exited"),
            // It came by the gate before the signal came to it.
            Ok(Answer::Started { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(pod.exit(&plan).code, 137);
        pod.ask(Order::Forget { container: plan.container.clone() }, &[]).unwrap();
    }
}
