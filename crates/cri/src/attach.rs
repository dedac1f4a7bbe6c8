//! Attach: a URL at which a client can join a running container, once and soon.

use berth_cri_proto::v1::{AttachRequest, AttachResponse};
use berth_stream::Request;

use crate::call::record_container;
use crate::convert::Refusal;
use crate::joiner::check_streams;
use crate::{Edge, Failure};

pub(crate) fn handle(edge: &Edge, request: AttachRequest) -> Result<AttachResponse, Failure> {
    let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    record_container(&container_id);
    check_streams(tty, [stdin, stdout, stderr])?;
    let container = edge.pods.running_container(&container_id)?;
    // The other way round loses nothing: output and errors of a terminal come in one stream.
    if tty && !container.spec.tty {
        return Err(Refusal::invalid("tty", tty, "asks for a terminal, which the container has not").into());
    }
    let container = container.id.to_string();
    let request = berth_stream::AttachRequest { container, tty, stdin, stdout, stderr };
    Ok(AttachResponse { url: edge.streams.register(Request::Attach(request))? })
}
