//! The way of a command to the agent that runs.

use crate::listener::{Occupant, occupant};
use anyhow::{Result, bail};
use std::path::Path;
use tonic::transport::Channel;

/// Connects to the agent on `socket`; where nobody listens, the error says what to do about it.
pub(crate) async fn connect(socket: &Path) -> Result<Channel> {
    match (berth_cri_proto::connect(socket).await, occupant(socket)) {
        (Err(_), Ok(Occupant::Nobody | Occupant::Stale)) => nobody(socket),
        (connected, _) => Ok(connected?),
    }
}

/// The error of a command that has no agent to talk to.
pub(crate) fn nobody<T>(socket: &Path) -> Result<T> {
    bail!("no agent answers on {}; start `berth serve`", socket.display())
}
