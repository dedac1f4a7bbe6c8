//! ExecSync: a command in a container and its output, for probes and hooks. Past its timeout it is killed with all of
//! its children, and the call fails with DeadlineExceeded.

use std::time::Duration;

use berth_cri_proto::v1::{ExecSyncRequest, ExecSyncResponse};

use crate::call::record_container;
use crate::convert::{Refusal, check};
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge, request: ExecSyncRequest) -> Result<ExecSyncResponse, Failure> {
    let id = check::name("container_id", request.container_id)?;
    record_container(&id);
    let command = check::words("cmd", request.cmd)?;
    if command.is_empty() {
        return Err(Refusal::missing("cmd").into());
    }
    let timeout = match check::seconds("timeout", request.timeout)? {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    };
    let output = edge.pods.exec_sync(&id, command, timeout).await?;
    Ok(ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
