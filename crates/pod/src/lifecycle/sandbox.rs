//! The states of a pod: how far it has come, and whether its monitor can be asked.

use std::time::Duration;

use super::Again;
use super::stopping::DYING_TIME;
use crate::record::SandboxPhase;
use crate::view::PodState;

/// Between two tries to take a half-made pod down, or to reach a monitor.
pub(crate) const RETRY_PERIOD: Duration = Duration::from_secs(10);

/// Whether a pod's monitor can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    Open,
    /// There is one, which hangs or can't be talked to. The containers may be well.
    Blocked,
    /// There is none.
    Gone,
}

/// What can be asked of a pod, or of a container with the help of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Stop,
    Remove,
    Update,
    CreateContainer,
    StartContainer,
    ReopenLog,
    /// A command, or a client attached.
    JoinContainer,
    PortForward,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is carried out.
    Do,
    /// It is so already.
    Done,
    /// There is no such pod.
    NotFound,
    /// The monitor would have to do it, and can't be asked.
    OutOfReach,
    /// What it needs is no more.
    Refused,
}

/// What moves a pod on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// All of it is there, and that is on record.
    Made,
    /// It was stopped, or what held it together has died, or can't be understood.
    Lost,
    /// Nothing of it is left but what the kernel has yet to let go of.
    Removed,
}

/// Why a monitor could not be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nobody listens where it should.
    Dead,
    /// It speaks no version of the protocol that the agent does.
    OtherProtocol,
    /// It hangs, and has for a while: too many wait for it.
    Hangs,
    /// It has hung up, for it is dying, or the agent lacks something.
    HungUp,
}

/// What is done about a monitor that could not be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The pod is lost, and what is left of it is killed.
    Kill,
    /// The pod is lost: it runs on, but nothing can be done to it but to stop and remove it. The monitor is called
    /// again after this time, if only to see whether it is there.
    WriteOff(Duration),
    /// The pod is as it was, and the monitor is called again after this time.
    CallAgain(Duration),
}

/// What a pod answers to a request; `state` is as clients see it.
pub(crate) fn answer(request: Request, state: Option<PodState>, contact: Contact) -> Answer {
    use Answer::{Do, Done, NotFound, OutOfReach, Refused};
    use Contact::{Blocked, Gone, Open};
    use PodState::{NotReady, Ready};
    use Request::{
        CreateContainer, JoinContainer, PortForward, Remove, ReopenLog, StartContainer, Stop, Update,
    };
    match (request, state, contact) {
        (Stop | Remove, None, _) => Done,
        // Also again: what could not be ended or removed the first time is tried once more.
        (Stop | Remove | Update, Some(Ready | NotReady), _) => Do,

        (CreateContainer | StartContainer | ReopenLog, Some(Ready), Open) => Do,
        // One that is not ready for want of an understanding with its monitor says that.
        (CreateContainer | StartContainer | ReopenLog, Some(Ready | NotReady), Blocked) => OutOfReach,
        (CreateContainer | StartContainer | ReopenLog, Some(NotReady), Open) => Refused,
        (CreateContainer | StartContainer | ReopenLog, Some(Ready | NotReady), Gone) => Refused,

        // What runs on after pause has died can be looked into.
        (JoinContainer, Some(Ready | NotReady), Open) => Do,
        (JoinContainer, Some(Ready | NotReady), Blocked) => OutOfReach,
        (JoinContainer, Some(Ready | NotReady), Gone) => Refused,

        (PortForward, Some(Ready), Open) => Do,
        (PortForward, Some(Ready), Blocked) => OutOfReach,
        (PortForward, Some(Ready), Gone) | (PortForward, Some(NotReady), _) => Refused,

        (Update | CreateContainer | StartContainer | ReopenLog | JoinContainer | PortForward, None, _) => {
            NotFound
        }
    }
}

/// What a run comes to where there is a pod of its identity; one that is being made is waited for first.
pub(crate) fn run_again(has_same_spec: bool, state: Option<PodState>) -> Again {
    match (has_same_spec, state) {
        (true, Some(PodState::Ready)) => Again::Same,
        (true, Some(PodState::NotReady) | None) => Again::Differs("and has been stopped"),
        (false, _) => Again::Differs("with another configuration"),
    }
}

/// What is done about a monitor that could not be talked to.
pub(crate) fn remedy(silence: Silence) -> Remedy {
    match silence {
        Silence::Dead => Remedy::Kill,
        Silence::OtherProtocol => Remedy::WriteOff(RETRY_PERIOD),
        Silence::Hangs => Remedy::CallAgain(RETRY_PERIOD),
        Silence::HungUp => Remedy::CallAgain(DYING_TIME),
    }
}

impl SandboxPhase {
    /// What becomes of it. No client sees it come back: what is half made is taken down, and what is left after the
    /// removal is the same to whoever finds it.
    #[must_use]
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Making, Event::Made) => Self::Ready,
            (Self::Making, Event::Lost) => Self::Making,
            (Self::Ready, Event::Made) => Self::Ready,
            (Self::Ready, Event::Lost) => Self::NotReady,
            (Self::NotReady, Event::Made | Event::Lost) => Self::NotReady,
            (Self::Making | Self::Ready | Self::NotReady, Event::Removed) => Self::Making,
        }
    }

    /// As clients see it: one that is being made has no id for them, and one that has been removed has none any more.
    pub(crate) fn seen(self) -> Option<PodState> {
        match self {
            Self::Making => None,
            Self::Ready => Some(PodState::Ready),
            Self::NotReady => Some(PodState::NotReady),
        }
    }
}
