//! Exec: a URL at which a client can run a command in a container, once and soon.

use berth_cri_proto::v1::{ExecRequest, ExecResponse};
use berth_stream::Request;

use crate::call::record_container;
use crate::convert::{Refusal, check};
use crate::joiner::check_streams;
use crate::{Edge, Failure};

pub(crate) fn handle(edge: &Edge, request: ExecRequest) -> Result<ExecResponse, Failure> {
    let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    record_container(&container_id);
    let command = check::words("cmd", cmd)?;
    if command.is_empty() {
        return Err(Refusal::missing("cmd").into());
    }
    check_streams(tty, [stdin, stdout, stderr])?;
    let container = edge.pods.running_container(&container_id)?.id.to_string();
    let request = berth_stream::ExecRequest { container, command, tty, stdin, stdout, stderr };
    Ok(ExecResponse { url: edge.streams.register(Request::Exec(request))? })
}
