//! PortForward: a URL at which a client can connect to ports on a pod's loopback, once and soon.

use berth_cri_proto::v1::{PortForwardRequest, PortForwardResponse};
use berth_stream::Request;

use crate::call::record_pod;
use crate::convert::Refusal;
use crate::{Edge, Failure};

pub(crate) fn handle(edge: &Edge, request: PortForwardRequest) -> Result<PortForwardResponse, Failure> {
    let PortForwardRequest { pod_sandbox_id, port } = request;
    record_pod(&pod_sandbox_id);
    let ports = port.into_iter().enumerate().map(|(index, port)| port_number(index, port));
    let ports = ports.collect::<Result<_, _>>()?;
    let pod = edge.pods.ready_pod(&pod_sandbox_id)?.id.to_string();
    let request = berth_stream::PortForwardRequest { pod, ports };
    Ok(PortForwardResponse { url: edge.streams.register(Request::PortForward(request))? })
}

fn port_number(index: usize, port: i32) -> Result<u16, Refusal> {
    let number = u16::try_from(port).ok().filter(|port| *port > 0);
    number.ok_or_else(|| Refusal::invalid(format!("port[{index}]"), port, "is no port: those are 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_tcp() {
        let check = |port, want: Option<u16>| assert_eq!(port_number(0, port).ok(), want, "{port}");
        check(1, Some(1));
        check(65535, Some(65535));
        for bad in [0, -1, 65536, i32::MIN, i32::MAX] {
            check(bad, None);
        }
        assert_eq!(
            port_number(2, 70000).unwrap_err().to_string(),
            "port[2]: 70000 is no port: those are 1 to 65535"
        );
    }
}
