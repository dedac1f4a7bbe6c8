//! All that a runtime under test is given: a directory, a network namespace, and a cgroup, in which it runs itself and
//! below which its pods do.
//!
//! ```text
//! GROUND/NAME                  settings, root, the pods' logs; `state` is in memory, as what is below /run on a node
//! /berth-bench-PID-NAME        the cgroup of both parts, so that its CPU time is that of both
//! ├─ runtime                   the runtime's own processes; in the hierarchy that counts CPU time
//! └─ pods                      what it makes for pods
//! ```
//! When a home goes, so does everything in it, whatever state it is in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::VersionRequest;
use berth_e2e::{Cri, Running, Scope, Site, Snapshot, eventually, poll, spawn};
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;

use crate::ground::Ground;
use crate::measure::cpu_hierarchy;

/// How long a runtime may take to answer for the first time, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the kernel may take to forget what has been removed.
const SETTLE: Duration = Duration::from_secs(10);

/// The bridge of the pods, in the namespace of the home.
pub(crate) const BRIDGE: &str = "bench0";

/// What one runtime was given.
#[derive(Debug)]
pub(crate) struct Home {
    site: Site,
    dir: PathBuf,
    cgroup: String,
    watched: &'static [&'static str],
    command: Vec<String>,
    running: Mutex<Option<Running>>,
    fresh: Mutex<Snapshot>,
}

impl Home {
    /// Makes one in which nothing runs yet.
    pub(crate) fn new(ground: &Ground, name: &str) -> Result<Self> {
        let home = Self {
            site: Site::make(),
            dir: ground.dir().join(name),
            cgroup: format!("/berth-bench-{}-{name}", std::process::id()),
            watched: &["process", "mount", "cgroup"],
            command: Vec::new(),
            running: Mutex::default(),
            fresh: Mutex::default(),
        };
        let state = home.dir.join("state");
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        mount("berth-bench", &state, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
            .with_context(|| format!("mount {}", state.display()))?;
        let own = home.runtime_cgroup();
        fs::create_dir_all(&own).with_context(|| format!("make {}", own.display()))?;
        Ok(home)
    }

    /// Only these kinds of things count as left behind, by the first word of their line in a [`Snapshot`].
    pub(crate) fn watch(&mut self, kinds: &'static [&'static str]) {
        self.watched = kinds;
    }

    /// A directory that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The network that the runtime lives on.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The cgroup of all that runs here.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The cgroup of the pods.
    pub(crate) fn pods_cgroup(&self) -> String {
        format!("{}/pods", self.cgroup)
    }

    fn runtime_cgroup(&self) -> PathBuf {
        cpu_hierarchy().join(&self.cgroup[1..]).join("runtime")
    }

    /// What the runtime has printed.
    pub(crate) fn journal(&self) -> String {
        let text = fs::read(self.dir.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Starts the runtime with this command, and waits until it answers. It is started by the same one again.
    pub(crate) fn start(&mut self, command: Vec<String>, socket: &Path) -> Result<()> {
        self.command = command;
        self.restart(socket)
    }

    /// Starts the runtime, which does not run, and waits until it answers.
    pub(crate) fn restart(&self, socket: &Path) -> Result<()> {
        self.launch()?;
        let answer = poll(PATIENCE, || {
            let answers = |cri: Cri| cri.version(VersionRequest::default()).is_ok();
            let served = Cri::connect(socket).is_some_and(answers);
            (served || self.has_ended()).then_some(served)
        });
        match answer {
            Some(true) => Ok(()),
            Some(false) => bail!("{} has ended:\n{}", self.command[0], self.journal()),
            None => bail!("{} does not answer on {}:\n{}", self.command[0], socket.display(), self.journal()),
        }
    }

    /// Starts the runtime, which does not run.
    pub(crate) fn launch(&self) -> Result<()> {
        let mut command = self.site.command(&self.command[0]);
        let running = spawn(command.args(&self.command[1..]), &self.dir.join("log"));
        let procs = self.runtime_cgroup().join("cgroup.procs");
        fs::write(&procs, running.pid().to_string()).with_context(|| format!("write {}", procs.display()))?;
        *self.lock() = Some(running);
        Ok(())
    }

    /// Kills the runtime without a warning.
    pub(crate) fn kill(&self) {
        drop(self.lock().take());
    }

    /// The runtime's own process, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Running::pid)
    }

    fn has_ended(&self) -> bool {
        self.lock().as_mut().is_none_or(|running| running.ended().is_some())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes things as they are now for those that a runtime has with no pod.
    pub(crate) fn remember(&self) {
        let settled = || Some(self.snapshot()).filter(|snapshot| !snapshot.is_passing());
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) =
            eventually("all that has ended to be gone", SETTLE, settled);
    }

    /// Waits until all is as it was remembered; returns what differs for good.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = || {
            let all = fresh.changes(&self.snapshot());
            let watched = |line: &String| self.watched.iter().any(|kind| line[2..].starts_with(kind));
            without_restarts(all.into_iter().filter(watched).collect())
        };
        poll(SETTLE, || changes().is_empty().then_some(())).map_or_else(changes, |()| Vec::new())
    }

    /// Stops the runtime, which has no pods any more; returns what was wrong, and what is left.
    pub(crate) fn end(self) -> Vec<String> {
        let mut problems = self.leftovers();
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.signal(Signal::TERM);
            match running.wait(PATIENCE) {
                Some(status) if status.success() => {}
                Some(status) => problems.push(format!("ended with {status}")),
                None => problems.push(format!("did not end within {PATIENCE:?}")),
            }
        }
        problems
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.scope(self.pid()))
    }

    fn scope(&self, agent: Option<u32>) -> Scope<'_> {
        Scope { site: &self.site, alone: true, dir: &self.dir, cgroup: &self.cgroup, bridge: BRIDGE, agent }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill();
        self.scope(None).wipe();
    }
}

/// A process that was there as another one, before the runtime was killed and started again, is no change.
fn without_restarts(changes: Vec<String>) -> Vec<String> {
    let title =
        |line: &str| line[2..].strip_prefix("process ")?.split_once(' ').map(|(_, title)| title.to_owned());
    let is = |sign: &str, of: &str| {
        changes.iter().any(|line| line.starts_with(sign) && title(line).as_deref() == Some(of))
    };
    let came_back = |line: &String| title(line).is_some_and(|of| is("+", &of) && is("-", &of));
    changes.iter().filter(|line| !came_back(line)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::without_restarts;

    #[test]
    fn what_was_started_again_is_no_change() {
        let changes =
            ["+ process 20 berth serve", "- process 10 berth serve", "+ process 21 shim", "- file a"];
        let left = without_restarts(changes.map(str::to_owned).to_vec());
        assert_eq!(left, ["+ process 21 shim", "- file a"]);
    }
}
