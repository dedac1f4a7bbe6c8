//! The states of a container.

use berth_monitor::protocol::{ContainerReport, Exit};
use serde::{Deserialize, Serialize};

use super::Again;
use crate::error::{Error, Result};
use crate::view::{ContainerState, Ended, Reason};

/// The exit code of a container whose own could not be learned, as containerd gives it.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// How far a container has come; the state that readers see, or nothing while it is half made. It is recorded so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Life(Option<ContainerState>);

/// [`Life`] without what is known in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Never made, or removed.
    Gone,
    /// Intent: some of it may exist, and is only taken down. Nobody knows its id.
    HalfMade,
    /// It stands at its gate.
    Created,
    Running,
    Exited,
}

/// What can be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
    Remove,
    /// For a command, a client attached, or a container that shares its processes.
    Join,
    ReopenLog,
    Update,
    Stats,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is carried out.
    Do,
    /// It is so already.
    Done,
    /// There is no such container.
    NotFound,
    /// The state does not allow it; as a predicate.
    Refused(&'static str),
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It stands at its gate, and that is on record.
    Launched,
    /// The gate was opened, and the workload runs.
    Started { at_ns: i64 },
    /// Its first process has ended.
    Ended(Exit),
    /// It has been killed, and nobody can tell how it ended; what is known of it.
    Lost { at_ns: i64, how: &'static str },
}

/// What a container in this state answers to a request.
pub(crate) fn answer(request: Request, stage: Stage) -> Answer {
    use Answer::{Do, Done, NotFound, Refused};
    use Request::{Join, Remove, ReopenLog, Start, Stats, Stop, Update};
    use Stage::{Created, Exited, Gone, HalfMade, Running};
    match (request, stage) {
        (Start, Created) => Do,
        (Start, Running) => Refused("is running already"),
        (Start, Exited) => Refused("has exited"),

        (Stop, Created | Running) => Do,
        (Stop, Exited | HalfMade | Gone) => Done,

        // One that runs is ended first.
        (Remove, HalfMade | Created | Running | Exited) => Do,
        (Remove, Gone) => Done,

        (Join | ReopenLog | Stats, Running) => Do,
        (Join | ReopenLog | Stats, Created | Exited) => Refused("is not running"),

        (Update, Created | Running) => Do,
        (Update, Exited) => Refused("has exited"),

        (Start | Join | ReopenLog | Stats | Update, Gone | HalfMade) => NotFound,
    }
}

/// What a create comes to where there is one with its name and attempt. Whoever repeats it has not heard the answer, so
/// that he can't have started it.
pub(crate) fn create_again(has_same_spec: bool, stage: Stage) -> Again {
    match (has_same_spec, stage) {
        (true, Stage::Created) => Again::Same,
        (true, Stage::Gone | Stage::HalfMade | Stage::Running | Stage::Exited) => {
            Again::Differs("and has been started")
        }
        (false, _) => Again::Differs("with another configuration"),
    }
}

/// What has happened meanwhile, and perhaps before, as a monitor's greeting says.
pub(crate) fn events_of(report: &ContainerReport) -> impl Iterator<Item = Event> {
    let started = report.started_at_ns.map(|at_ns| Event::Started { at_ns });
    started.into_iter().chain(report.exit.clone().map(Event::Ended))
}

impl Answer {
    /// Whether there is something to do; `id` as the client gave it.
    ///
    /// # Errors
    /// `NoContainer`, `WrongState`.
    pub(crate) fn admits(self, id: &str) -> Result<bool> {
        match self {
            Self::Do => Ok(true),
            Self::Done => Ok(false),
            Self::NotFound => Err(Error::NoContainer { id: id.to_owned() }),
            Self::Refused(state) => Err(Error::WrongState { object: format!("container {id}"), state }),
        }
    }
}

impl Life {
    /// As readers see it; `None` until it has been made.
    pub(crate) fn seen(&self) -> Option<&ContainerState> {
        self.0.as_ref()
    }

    pub(crate) fn stage(&self) -> Stage {
        self.0.as_ref().map_or(Stage::HalfMade, ContainerState::stage)
    }

    /// Whether its first process lives.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.stage(), Stage::Created | Stage::Running)
    }

    /// Takes in what has happened. False if it is nothing new: an end is final, and comes once.
    #[must_use]
    pub(crate) fn take(&mut self, event: Event) -> bool {
        use Event::{Ended, Launched, Lost, Started};
        use Stage::{Created, Exited, Gone, HalfMade, Running};
        let next = match (self.stage(), event) {
            (HalfMade, Launched) => ContainerState::Created,
            (Created, Started { at_ns }) => ContainerState::Running { started_at_ns: at_ns },
            (Created | Running, Ended(exit)) => ContainerState::Exited(self.ended(exit)),
            (Created | Running, Lost { at_ns, how }) => ContainerState::Exited(self.lost(at_ns, how)),
            (Created, Launched) | (Running, Launched | Started { .. }) => return false,
            // Its launch is still under way, or has failed: it is taken down.
            (HalfMade, Started { .. } | Ended(_) | Lost { .. }) => return false,
            (Exited | Gone, _) => return false,
        };
        self.0 = Some(next);
        true
    }

    /// While it runs.
    fn started_at_ns(&self) -> Option<i64> {
        match self.0 {
            Some(ContainerState::Running { started_at_ns }) => Some(started_at_ns),
            None | Some(ContainerState::Created | ContainerState::Exited(_)) => None,
        }
    }

    /// What a monitor's word on an exit means to a client.
    fn ended(&self, exit: Exit) -> Ended {
        let Exit { code, at_ns, oom_killed, start_error, dropped_log_bytes, log_error: _ } = exit;
        let (reason, message) = match (start_error, oom_killed, code) {
            (Some(error), _, _) => (Reason::StartError, error),
            // Also where a child was the victim and the container ended well: as with containerd and CRI-O.
            (None, true, _) => (Reason::OomKilled, String::new()),
            (None, false, 0) => (Reason::Completed, String::new()),
            (None, false, _) => (Reason::Error, String::new()),
        };
        let ended = Ended { exit_code: code, reason, message, ..self.ended_at(at_ns) };
        Ended { lost_log_bytes: dropped_log_bytes, ..ended }
    }

    fn lost(&self, at_ns: i64, how: &str) -> Ended {
        Ended { message: how.to_owned(), ..self.ended_at(at_ns) }
    }

    /// An end of which no more is known than its time; not before the start, where the clock has been set back.
    fn ended_at(&self, at_ns: i64) -> Ended {
        let started_at_ns = self.started_at_ns();
        Ended {
            started_at_ns,
            finished_at_ns: started_at_ns.map_or(at_ns, |started_at_ns| at_ns.max(started_at_ns)),
            exit_code: UNKNOWN_EXIT_CODE,
            reason: Reason::Unknown,
            message: String::new(),
            lost_log_bytes: 0,
        }
    }
}

impl ContainerState {
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Created => Stage::Created,
            Self::Running { .. } => Stage::Running,
            Self::Exited(_) => Stage::Exited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_that_kubectl_describe_shows() {
        let exit = |code, oom_killed, start_error: Option<&str>| Exit {
            code,
            at_ns: 2,
            oom_killed,
            start_error: start_error.map(str::to_owned),
            dropped_log_bytes: 0,
            log_error: None,
        };
        for (exit, reason) in [
            (exit(0, false, None), "Completed"),
            // A child was killed for want of memory, and the container went on and ended well.
            (exit(0, true, None), "OOMKilled"),
            (exit(137, true, None), "OOMKilled"),
            (exit(1, false, None), "Error"),
            (exit(128, false, Some("execute: x")), "StartError"),
        ] {
            let life = Life(Some(ContainerState::Running { started_at_ns: 1 }));
            assert_eq!(life.ended(exit.clone()).reason.as_str(), reason, "{exit:?}");
        }
    }
}
