//! What the agent does not decide: processes that end or hang, the monitor that sees it, and the clock on the wall.

use std::collections::{BTreeMap, VecDeque};

use berth_monitor::id::ContainerId;
use berth_monitor::protocol::{ContainerReport, Exit};

pub(super) type Id = usize;

/// How a pod's monitor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Monitor {
    Well,
    /// It sees nothing and says nothing until it goes on.
    HeldUp,
    /// It is well, but no agent understands it that calls it from now on.
    Foreign,
    Dead,
}

/// The first process of a container.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) lives: bool,
    /// It ends on the signal that asks it to.
    pub(super) obeys: bool,
    /// It waits in the kernel, where no signal reaches it.
    hangs: bool,
    /// What it ends with when it goes on.
    condemned: Option<i32>,
    pub(super) started_at_ns: Option<i64>,
    /// Written down by the monitor.
    pub(super) exit: Option<Exit>,
    /// What it ended with, whoever saw it.
    pub(super) code: Option<i32>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) processes: BTreeMap<Id, Process>,
    pub(super) monitor: Monitor,
    pub(super) has_pause: bool,
    /// What the monitor has said and the agent has not read.
    pub(super) news: VecDeque<(Id, Exit)>,
    pub(super) wall_ns: i64,
}

impl World {
    pub(super) fn new() -> Self {
        let (processes, news) = (BTreeMap::new(), VecDeque::new());
        Self { processes, monitor: Monitor::Dead, has_pause: false, news, wall_ns: 1_000_000_000_000_000_000 }
    }

    pub(super) fn launch(&mut self, id: Id, obeys: bool) {
        let process = Process {
            lives: true,
            obeys,
            hangs: false,
            condemned: None,
            started_at_ns: None,
            exit: None,
            code: None,
        };
        self.processes.insert(id, process);
    }

    pub(super) fn lives(&self, id: Id) -> bool {
        self.processes.get(&id).is_some_and(|process| process.lives)
    }

    pub(super) fn is_condemned(&self, id: Id) -> bool {
        self.processes.get(&id).is_some_and(|process| process.condemned.is_some())
    }

    pub(super) fn code(&self, id: Id) -> Option<i32> {
        self.processes.get(&id).and_then(|process| process.code)
    }

    /// Whether the monitor sees ends and carries out orders.
    pub(super) fn is_attended(&self) -> bool {
        matches!(self.monitor, Monitor::Well | Monitor::Foreign)
    }

    /// Ends a process, now or when it can.
    pub(super) fn end(&mut self, id: Id, code: i32) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| process.lives) else { return };
        if process.hangs {
            process.condemned.get_or_insert(code);
            return;
        }
        (process.lives, process.code) = (false, Some(code));
        self.see_ends();
    }

    pub(super) fn hang(&mut self, id: Id) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.hangs = process.lives;
        }
    }

    pub(super) fn go_on(&mut self, id: Id) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.hangs = false;
        if let Some(code) = process.condemned.take() {
            self.end(id, code);
        }
    }

    /// All that is the pod's ends with its monitor.
    pub(super) fn kill_monitor(&mut self) {
        (self.monitor, self.has_pause) = (Monitor::Dead, false);
        self.news.clear();
        let ids: Vec<Id> = self.processes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, 137));
    }

    /// The monitor writes down who has ended, and tells it.
    pub(super) fn see_ends(&mut self) {
        if !self.is_attended() {
            return;
        }
        for (id, process) in self.processes.iter_mut().filter(|(_, process)| process.exit.is_none()) {
            let Some(code) = process.code else { continue };
            let start_error = (process.started_at_ns.is_none() && code == 128).then(|| "execute".to_owned());
            let exit = Exit {
                code,
                at_ns: self.wall_ns,
                oom_killed: false,
                start_error,
                dropped_log_bytes: 0,
                log_error: None,
            };
            process.exit = Some(exit.clone());
            self.news.push_back((*id, exit));
        }
    }

    /// What the monitor says of a container at its greeting.
    pub(super) fn report(&self, id: Id) -> Option<ContainerReport> {
        let process = self.processes.get(&id)?;
        let container = ContainerId::from_random([7; 32]);
        let (started_at_ns, exit) = (process.started_at_ns, process.exit.clone());
        Some(ContainerReport { container, pid: 1, started_at_ns, exit })
    }
}
