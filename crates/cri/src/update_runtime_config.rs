//! UpdateRuntimeConfig: the pod CIDR of the node, from which pods get their addresses from now on.
//!
//! A kubelet sends it once the node has one: a subnet, or one of each family with a comma between.

use berth_cri_proto::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use ipnet::IpNet;

use crate::convert::Refusal;
use crate::{Edge, Failure};

const FIELD: &str = "runtime_config.network_config.pod_cidr";

pub(crate) async fn handle(
    edge: &Edge,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse, Failure> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let subnets = subnets_from(&network.unwrap_or_default().pod_cidr)?;
    // Nothing is said about it.
    if !subnets.is_empty() {
        edge.pods.set_pod_cidr(subnets).await?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}

fn subnets_from(list: &str) -> Result<Vec<IpNet>, Refusal> {
    let subnet = |text: &str| {
        text.trim().parse().map_err(|_| Refusal::invalid(FIELD, text, "is no subnet such as 10.1.2.0/24"))
    };
    if list.trim().is_empty() { Ok(Vec::new()) } else { list.split(',').map(subnet).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_separated_by_commas() {
        let check = |list: &str, want: Result<&[&str], &str>| {
            let found = subnets_from(list).map_err(|refusal| refusal.to_string());
            let found = found.map(|subnets| subnets.iter().map(ToString::to_string).collect::<Vec<_>>());
            let want = want.map(|texts| texts.iter().map(ToString::to_string).collect());
            assert_eq!(found, want.map_err(|problem| format!("{FIELD}: {problem}")), "{list}");
        };
        check("", Ok(&[]));
        check("10.1.2.0/24", Ok(&["10.1.2.0/24"]));
        check("10.1.2.0/24, fd00::/64", Ok(&["10.1.2.0/24", "fd00::/64"]));
        check("10.1.2.0/24,", Err("\"\" is no subnet such as 10.1.2.0/24"));
        check("10.1.2.3", Err("\"10.1.2.3\" is no subnet such as 10.1.2.0/24"));
    }
}
