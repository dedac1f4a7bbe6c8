//! Status: whether pods can be run now, and what the runtime can do.
//!
//! The runtime is ready by answering: it does not serve before its database, images and cgroups are open. The network
//! is looked at each time, with a deadline, since somebody else may have taken the bridge away.

use std::collections::HashMap;
use std::time::Duration;

use berth_cri_proto::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use tokio::time::timeout;

use crate::{Edge, Failure, RUNTIME_NAME};

/// Long enough for a busy kernel, short enough for a client that asks every few seconds.
const NETWORK_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn handle(edge: &Edge, request: StatusRequest) -> Result<StatusResponse, Failure> {
    let conditions = vec![
        condition("RuntimeReady", "RuntimeNotReady", Ok(())),
        condition("NetworkReady", "NetworkNotReady", check_network(edge).await),
    ];
    let info = match request.verbose {
        true => HashMap::from([("config".to_owned(), edge.config_json.clone())]),
        false => HashMap::new(),
    };
    let user_namespaces = edge.pods.has_user_namespaces();
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        // Without the entry for the empty name, a kubelet sees no features for pods that name no handler.
        runtime_handlers: ["", RUNTIME_NAME].map(|name| handler(name, user_namespaces)).into(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: user_namespaces,
            mount_options: true,
        }),
    })
}

async fn check_network(edge: &Edge) -> Result<(), String> {
    match timeout(NETWORK_LIMIT, edge.pods.check_network()).await {
        Ok(checked) => checked.map_err(|error| Failure::from(error).to_string()),
        Err(_) => Err(format!("check network: no answer within {} s", NETWORK_LIMIT.as_secs())),
    }
}

fn condition(name: &str, reason: &str, state: Result<(), String>) -> RuntimeCondition {
    let ready = state.is_ok();
    let reason = if ready { String::new() } else { reason.to_owned() };
    RuntimeCondition {
        r#type: name.to_owned(),
        status: ready,
        reason,
        message: state.err().unwrap_or_default(),
    }
}

fn handler(name: &str, user_namespaces: bool) -> RuntimeHandler {
    let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
    RuntimeHandler { name: name.to_owned(), features: Some(features) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_fails_says_why() {
        let ready = condition("NetworkReady", "NetworkNotReady", Ok(()));
        assert!(ready.status && ready.reason.is_empty() && ready.message.is_empty());
        let broken = condition("NetworkReady", "NetworkNotReady", Err("no bridge".into()));
        assert_eq!(
            (broken.status, broken.reason.as_str(), broken.message.as_str()),
            (false, "NetworkNotReady", "no bridge")
        );
    }
}
