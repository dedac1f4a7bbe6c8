//! The way of a command to the agent that runs, and how long a command waits for it.
//!
//! An agent that is stopped, or that hangs, takes connections all the same: the kernel does that for it. So a new
//! connection carries a small question first, and whoever waits longer than that has it asked again and again meanwhile.

use crate::listener::{Occupant, holder, occupant};
use anyhow::{Error, Result, anyhow, bail};
use berth_cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_proto::v1::{VersionRequest, VersionResponse};
use std::path::Path;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long an agent may be silent: more than it takes to explain when everything else hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// How often it is asked whether it still answers while it works.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Connects to the agent on `socket`, and has an answer from it; where nobody listens, or nobody answers, the error says
/// what to do about it.
pub(crate) async fn connect(socket: &Path) -> Result<Channel> {
    // One that answers with an error does answer: what it is asked next shows what it can.
    within(socket, LIMIT, async { Ok(greet(socket).await?.0) }).await
}

/// What the agent on `socket` says that it is.
pub(crate) async fn version(socket: &Path) -> Result<VersionResponse> {
    within(socket, LIMIT, async { Ok(greet(socket).await?.1?) }).await
}

/// Carries out what takes the agent no time to speak of; gives up after `limit`.
pub(crate) async fn within<T>(
    socket: &Path,
    limit: Duration,
    command: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(limit, command).await.unwrap_or_else(|_| Err(silent(socket, limit)))
}

/// Carries out what may take the agent as long as it likes; gives up when it answers nothing else meanwhile.
pub(crate) async fn attended<T>(socket: &Path, command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        done = command => done,
        () = silence(socket) => Err(silent(socket, LIMIT)),
    }
}

/// The error of a command that has no agent to talk to.
pub(crate) fn nobody<T>(socket: &Path) -> Result<T> {
    bail!("no agent answers on {}; start `berth serve`", socket.display())
}

async fn greet(socket: &Path) -> Result<(Channel, Result<VersionResponse, Status>)> {
    let channel = match (berth_cri_proto::connect(socket).await, occupant(socket)) {
        (Err(_), Ok(Occupant::Nobody | Occupant::Stale)) => return nobody(socket),
        (connected, _) => connected?,
    };
    let version = RuntimeServiceClient::new(channel.clone()).version(VersionRequest::default()).await;
    Ok((channel, version.map(Response::into_inner)))
}

/// Ends when the agent has been silent for too long. One that is gone is not silent: the command learns it first.
async fn silence(socket: &Path) {
    let mut due = interval(ASK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if timeout(LIMIT, greet(socket)).await.is_err() {
            return;
        }
    }
}

fn silent(socket: &Path, limit: Duration) -> Error {
    let process = holder(socket).map_or_else(|| "its process".to_owned(), |pid| format!("process {pid}"));
    anyhow!(
        "the agent on {} has not answered within {} s: see whether {process} is stopped, or short of CPU",
        socket.display(),
        limit.as_secs()
    )
}
