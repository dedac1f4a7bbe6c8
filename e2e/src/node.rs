//! One agent with everything of its own, started and stopped as an operator would, or worse.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_cri_proto::v1::{ImageSpec, PodSandboxConfig, RemoveImageRequest, StatusRequest, VersionRequest};
use rustix::process::Signal;

use crate::cri::Cri;
use crate::disk::{Disk, DiskKind};
use crate::leftovers::{Scope, Snapshot, Spare, cgroup_roots, owns, spares};
use crate::pod::Pod;
use crate::processes;
use crate::requests;
use crate::site::Site;
use crate::tools::{Running, binary, eventually, poll, repository, run, spawn};

/// How long an agent may take to come up: it imports images in a build that is not optimised, maybe on an emulated machine.
const START: Duration = Duration::from_secs(180);
/// How long an agent may take to go.
const STOP: Duration = Duration::from_secs(20);
/// How long the kernel may take to forget what has been removed, and a step that a test holds up to be over.
const SETTLE: Duration = Duration::from_secs(10);
/// How long what has not settled is looked at once more.
const GLANCE: Duration = Duration::from_secs(1);

/// What [`Node::revive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revived {
    /// The agent had not ended.
    Lived,
    /// It had.
    Restarted,
}

/// Which program is the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Build {
    /// The one that is shipped.
    Ordinary,
    /// The one whose steps can be broken, which `hack/chaos` builds.
    Breakable,
    /// The same, which passes for a build that speaks these versions of the protocol between agent and monitors: `2-3`.
    Speaking(&'static str),
    /// Any other.
    At(PathBuf),
}

/// An agent, and what it needs.
#[derive(Debug)]
pub struct Node {
    site: Arc<Site>,
    dir: PathBuf,
    number: u32,
    cgroup: String,
    bridge: String,
    build: Mutex<Build>,
    agent: Mutex<Option<Running>>,
    fresh: Mutex<Snapshot>,
}

impl Node {
    /// A running agent with the test images imported, on a network of its own.
    #[track_caller]
    pub fn start() -> Self {
        Self::without_agent().started()
    }

    /// A running agent with the test images imported, and with these settings of images besides.
    #[track_caller]
    pub fn start_with_images(settings: &str) -> Self {
        Self::prepare(Arc::new(Site::make()), &format!("{}\n{settings}", import_images())).started()
    }

    /// One more agent, in the network namespace of this one.
    #[track_caller]
    pub fn start_beside(&self) -> Self {
        Self::prepare(self.site.clone(), &import_images()).started()
    }

    /// As [`Node::start`], with these settings besides, as TOML.
    #[track_caller]
    pub fn start_with(settings: &str) -> Self {
        Self::prepare(Arc::new(Site::make()), &format!("{settings}\n{}", import_images())).started()
    }

    /// A running agent without images, with these settings besides, as TOML.
    #[track_caller]
    pub fn start_empty(settings: &str) -> Self {
        Self::prepare(Arc::new(Site::make()), settings).started()
    }

    /// As [`Node::start_empty`], with small disks for its root and its state, in this order.
    #[track_caller]
    pub fn start_on_small_disks(settings: &str, kind: DiskKind) -> (Self, [Disk; 2]) {
        let node = Self::prepare(Arc::new(Site::make()), settings);
        let disks =
            [("root", 64), ("state", 16)].map(|(name, mib)| Disk::mount(&node.dir.join(name), kind, mib));
        (node.started(), disks)
    }

    /// As [`Node::start_empty`], with an agent whose steps can be broken: `hack/chaos` builds it.
    #[track_caller]
    pub fn start_breakable(settings: &str) -> Self {
        let node = Self::prepare(Arc::new(Site::make()), settings);
        node.replace_program(Build::Breakable);
        fs::write(node.fault(), "").unwrap();
        // For who has other users in its namespace, too.
        fs::set_permissions(node.fault(), fs::Permissions::from_mode(0o666)).unwrap();
        node.started()
    }

    /// Directories and settings as of [`Node::start`], and nothing that runs.
    #[track_caller]
    pub fn without_agent() -> Self {
        Self::prepare(Arc::new(Site::make()), &import_images())
    }

    fn started(self) -> Self {
        self.restart();
        *self.fresh.lock().unwrap() = self.baseline();
        self
    }

    fn prepare(site: Arc<Site>, more: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (number, process) = (MADE.fetch_add(1, Ordering::Relaxed), std::process::id());
        let node = Self {
            site,
            dir: format!("/tmp/be2e-{process}-{number}").into(),
            number,
            cgroup: format!("/berth-e2e-{process}-{number}"),
            bridge: format!("be2e{number}"),
            build: Mutex::new(Build::Ordinary),
            agent: Mutex::default(),
            fresh: Mutex::default(),
        };
        fs::create_dir(&node.dir).unwrap();
        fs::write(node.dir.join("crictl.yaml"), "").unwrap();
        fs::write(node.dir.join("config.toml"), node.settings(more)).unwrap();
        node
    }

    fn settings(&self, more: &str) -> String {
        let Self { number, cgroup, bridge, .. } = self;
        let dir = self.dir.display();
        // What waits for pods comes and goes by itself, and would be a leftover of whoever looks.
        let spare = if more.contains("[sandboxes]") { "" } else { "sandboxes.spare = 0" };
        format!(
            "root = '{dir}/root'\n\
             state = '{dir}/state'\n\
             log.level = 'info'\n\
             {spare}\n\
             cgroup.root = '{cgroup}'\n\
             [network]\n\
             bridge = '{bridge}'\n\
             nft_table = '{}'\n\
             subnets = ['10.200.{number}.0/24', 'fd62:e2e:{number}::/64']\n\
             {more}\n",
            self.table()
        )
    }

    fn table(&self) -> String {
        format!("be2e_{}", self.number)
    }

    /// The network that it lives on.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// A directory of the test's own, which goes with the node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parent of all cgroups of this node.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The bridge of its pods.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The socket that it answers on.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("state/berth.sock")
    }

    /// The file that tells a breakable agent which step is broken.
    pub fn fault(&self) -> PathBuf {
        self.dir.join("fault")
    }

    /// Its last words.
    pub fn journal(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// A new connection.
    #[track_caller]
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.socket()).expect("the agent answers")
    }

    /// Changes the agent's database behind its back, by SQL.
    #[track_caller]
    pub fn change_database(&self, statement: &str) {
        let script = "import sqlite3, sys\n\
                      database = sqlite3.connect(sys.argv[1])\n\
                      changed = database.execute(sys.argv[2]).rowcount\n\
                      database.commit()\n\
                      print(changed)\n";
        let path = self.dir.join("root/berth.db");
        let changed = run(Command::new("python3").args(["-c", script]).arg(path).arg(statement));
        assert_ne!(changed.trim(), "0", "{statement}");
    }

    /// What `berth check` finds that is not as it should be, as `STANDING KIND NAME`; `--leaks` or `--repair`, after which
    /// what it has removed is not told.
    #[track_caller]
    pub fn check(&self, how: &str) -> Vec<String> {
        let output = self.berth(&["check", how]).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.is_empty(), "{complaint}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with("ok: ") && !line.ends_with(" removed"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// One of the conditions in the agent's status: whether it is so, and if not, why.
    #[track_caller]
    pub fn condition(&self, name: &str) -> (bool, String) {
        let status = self.cri().status(StatusRequest::default()).unwrap().status.unwrap();
        let found = status.conditions.into_iter().find(|condition| condition.r#type == name).unwrap();
        (found.status, found.message)
    }

    /// Runs the simplest of sandboxes.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        Pod::run(self, self.sandbox(name))
    }

    /// The request for the simplest of sandboxes.
    pub fn sandbox(&self, name: &str) -> PodSandboxConfig {
        requests::sandbox(name, &self.dir.join("logs"))
    }

    /// Runs crictl to a success, and returns what it prints.
    #[track_caller]
    pub fn crictl(&self, args: &[&str]) -> String {
        run(self.crictl_command().args(args))
    }

    /// Runs crictl, which may fail.
    pub fn try_crictl(&self, args: &[&str]) -> Output {
        self.crictl_command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// crictl on the node's network, where it finds the streaming server, with the agent's socket.
    pub fn crictl_command(&self) -> Command {
        let socket = format!("unix://{}", self.socket().display());
        let mut command = self.site.command(repository().join("hack/tools/bin/crictl"));
        command.arg("--config").arg(self.dir.join("crictl.yaml"));
        command.args(["-r", &socket, "-i", &socket, "-t", "30s"]);
        command
    }

    /// A command of berth's that finds this agent.
    pub fn berth(&self, args: &[&str]) -> Command {
        let build = self.build.lock().unwrap().clone();
        let program = match &build {
            Build::Ordinary => binary("berth", "cargo build -p berth"),
            Build::Breakable | Build::Speaking(_) => binary("berth-faults", "hack/chaos"),
            Build::At(path) => path.clone(),
        };
        let mut command = self.site.command(program);
        if let Build::Speaking(versions) = build {
            command.env("BERTH_PROTOCOL", versions);
        }
        command.env("BERTH_FAULT", self.fault()).arg("--config").arg(self.dir.join("config.toml")).args(args);
        command
    }

    /// The agent that is started next is of this build, as after an upgrade or a downgrade.
    pub fn replace_program(&self, build: Build) {
        *self.build.lock().unwrap() = build;
    }

    /// Starts the agent, if it does not run.
    #[track_caller]
    pub fn launch(&self) {
        let spawn = || spawn(&mut self.berth(&["serve"]), &self.dir.join("agent.log"));
        self.agent.lock().unwrap().get_or_insert_with(spawn);
    }

    /// Starts the agent, if it does not run, and waits until it serves.
    #[track_caller]
    pub fn restart(&self) {
        assert!(self.try_restart(), "the agent does not come up:\n{}", self.journal());
    }

    /// Starts the agent, if it does not run, and waits until it serves; whether it does.
    fn try_restart(&self) -> bool {
        self.launch();
        // Without the lock: a test that fails here still has to clean up.
        let served = poll(START, || {
            let gone = self.ended();
            let answers = |cri: Cri| cri.version(VersionRequest::default()).is_ok();
            let served = Cri::connect(&self.socket()).is_some_and(answers);
            (served || gone).then_some(served)
        });
        served == Some(true)
    }

    /// After an error that may mean the agent's end: waits until it answers or has ended, and starts it again in that case.
    #[track_caller]
    pub fn revive(&self) -> Revived {
        let ended = eventually("the agent to answer or to end", START, || {
            let ended = self.ended();
            let answers = || Cri::connect(&self.socket())?.version(VersionRequest::default()).ok();
            (ended || answers().is_some()).then_some(ended)
        });
        if !ended {
            return Revived::Lived;
        }
        // One that is broken on its way up is started once more.
        drop(self.agent.lock().unwrap().take());
        if !self.try_restart() {
            drop(self.agent.lock().unwrap().take());
            self.restart();
        }
        Revived::Restarted
    }

    /// Whether no agent runs.
    fn ended(&self) -> bool {
        self.agent.lock().unwrap().as_mut().is_none_or(|agent| agent.ended().is_some())
    }

    /// Kills the agent without a warning.
    pub fn kill9(&self) {
        let mut agent = self.agent.lock().unwrap().take().expect("an agent runs");
        agent.signal(Signal::KILL);
        agent.wait(STOP).expect("nothing survives SIGKILL");
    }

    /// The agent's process.
    #[track_caller]
    pub fn agent_pid(&self) -> u32 {
        self.agent.lock().unwrap().as_ref().unwrap().pid()
    }

    /// Removes an image.
    #[track_caller]
    pub fn remove_image(&self, image: &str) {
        let image = Some(ImageSpec { image: image.into(), ..Default::default() });
        self.cri().remove_image(RemoveImageRequest { image }).unwrap();
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        self.agent.lock().unwrap().as_mut().expect("an agent runs").signal(signal);
    }

    /// Ends everything as a power failure would: what a disk holds stays, and the rest is gone.
    pub fn reboot(&self) {
        self.kill9();
        self.scope().kill_processes();
        self.scope().remove_cgroups();
        self.scope().remove_network();
        self.remove_table();
        fs::remove_dir_all(self.dir.join("state")).unwrap();
    }

    /// One of the agent's processes, by the end of its command line.
    pub fn process(&self, title: &str) -> Option<i32> {
        let found = processes::owned(|process| owns(&self.scope(), process));
        found.into_iter().find(|process| process.title.ends_with(title)).map(|process| process.pid)
    }

    /// The sandboxes that wait for pods. They are made one after the other; the last may not be ready yet.
    pub fn spares(&self) -> Vec<Spare> {
        spares(&self.scope())
    }

    /// Waits until so many sandboxes wait for pods.
    #[track_caller]
    pub fn await_spares(&self, number: usize) -> Vec<Spare> {
        let wanted = |spares: &Vec<Spare>| spares.len() == number;
        eventually("spare sandboxes", SETTLE, || Some(self.spares()).filter(wanted))
    }

    /// The directories of a cgroup, by its path below the parent of all of this node's, in all hierarchies.
    pub fn cgroup_directories(&self, path: &str) -> Vec<PathBuf> {
        cgroup_roots(&self.cgroup).into_iter().map(|root| root.join(path)).collect()
    }

    /// Asks the agent to stop, and waits for it.
    #[track_caller]
    pub fn stop(&self) {
        assert_eq!(self.try_stop(), None);
    }

    /// Says what was wrong with the agent's end, if anything.
    fn try_stop(&self) -> Option<String> {
        let mut agent = self.agent.lock().unwrap().take()?;
        agent.signal(Signal::TERM);
        match agent.wait(STOP) {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("the agent ended with {status}")),
            None => Some(format!("the agent did not stop within {STOP:?}")),
        }
    }

    /// What the kernel and the disk hold for this agent now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.scope())
    }

    /// A moment in which nothing is half gone, to compare later ones with.
    #[track_caller]
    pub fn baseline(&self) -> Snapshot {
        eventually("all that has ended to be gone", SETTLE, || {
            Some(self.snapshot()).filter(|snapshot| !snapshot.is_passing())
        })
    }

    /// Waits until all is as it was; what differs for good fails the test.
    #[track_caller]
    pub fn assert_as_before(&self, before: &Snapshot) {
        let changes = self.lasting_changes(before);
        assert!(changes.is_empty(), "left behind:\n{}", changes.join("\n"));
    }

    /// Waits until all is as it was; returns what differs for good.
    pub fn lasting_changes(&self, before: &Snapshot) -> Vec<String> {
        let changes = || before.changes(&self.snapshot());
        if poll(SETTLE, || changes().is_empty().then_some(())).is_some() {
            return Vec::new();
        }
        // What is gone in the next look was somebody at work.
        let mut lasting = changes();
        poll(GLANCE, || {
            let still = changes();
            lasting.retain(|change| still.contains(change));
            lasting.is_empty().then_some(())
        });
        lasting
    }

    /// Waits until nothing of the node is left but files outside of its state; for agents that ended by themselves.
    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        let left = self.lasting_remains();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    fn lasting_remains(&self) -> Vec<String> {
        // Disks of a test's own stay as long as the node's directory.
        let is_disk = |line: &String| {
            line.split(' ').nth(2).is_some_and(|point| Path::new(point).parent() == Some(self.dir()))
        };
        let remains = || -> Vec<String> {
            let all = self.snapshot().only(&["process", "mount", "cgroup"]);
            all.into_iter().filter(|line| !(line.starts_with("mount ") && is_disk(line))).collect()
        };
        match poll(SETTLE, || remains().is_empty().then_some(())) {
            Some(()) => Vec::new(),
            None => remains(),
        }
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            site: &self.site,
            alone: Arc::strong_count(&self.site) == 1,
            dir: &self.dir,
            cgroup: &self.cgroup,
            bridge: &self.bridge,
            agent: self.agent.lock().unwrap().as_ref().map(Running::pid),
        }
    }

    /// Removes all pods and stops the agent; returns what went wrong and what is left.
    fn take_down(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.agent.lock().unwrap().is_some() {
            match Cri::connect(&self.socket()) {
                None => problems.push("the agent does not answer any more".into()),
                Some(cri) => {
                    for pod in cri.sandboxes() {
                        problems.extend(cri.take_down(&pod.id).err().map(|status| status.to_string()));
                    }
                }
            }
            let fresh = self.fresh.lock().unwrap().with_agent_of(&self.snapshot());
            problems.extend(self.lasting_changes(&fresh));
            // Another eye, which also sees what is missing and what can't be read.
            problems.extend(self.check("--leaks"));
        }
        problems.extend(self.try_stop());
        problems.extend(self.lasting_remains());
        problems
    }

    /// Whatever happened, the machine is as before.
    fn clean(&self) {
        drop(self.agent.lock().unwrap().take());
        self.remove_table();
        self.scope().wipe();
    }

    /// Where others live in the same namespace, it does not go with that.
    fn remove_table(&self) {
        let _ = self.site.command("nft").args(["delete", "table", "inet", &self.table()]).output();
    }
}

fn import_images() -> String {
    let images = repository().join("hack/images/out");
    assert!(images.is_dir(), "no images: run hack/images/build");
    format!("[images]\nimport = '{}'", images.display())
}

impl Drop for Node {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let problems = if failed { Vec::new() } else { self.take_down() };
        if failed || !problems.is_empty() {
            let journal = self.journal();
            let lines: Vec<_> = journal.lines().collect();
            eprintln!("the agent's last words:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        self.clean();
        assert!(problems.is_empty(), "after the test:\n{}", problems.join("\n"));
    }
}
