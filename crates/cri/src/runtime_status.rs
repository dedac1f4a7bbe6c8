//! Status: whether pods can be run now, and what the runtime can do.
//!
//! An agent that answers has opened its database, images and cgroups. What may change meanwhile is looked at each time,
//! with a deadline: whether anything can be written, and whether somebody has taken the bridge or its rules away. The third
//! condition is for people: it says that records can't be read, which keeps no pod from being run.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use berth_cri_proto::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use berth_pod::OWN_HANDLER;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{Edge, Failure};

/// Long enough for a busy kernel, short enough for a client that asks every few seconds.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn handle(edge: &Edge, request: StatusRequest) -> Result<StatusResponse, Failure> {
    let (storage, network, records) = tokio::join!(
        checked("check storage", edge.pods.check_storage()),
        checked("check network", edge.pods.check_network()),
        checked("check records", edge.pods.check_records()),
    );
    let conditions = [
        condition("RuntimeReady", "RuntimeNotReady", storage),
        condition("NetworkReady", "NetworkNotReady", network),
        condition("RecordsReadable", "RecordsSetAside", records),
    ];
    edge.conditions.note(&conditions);
    let conditions = conditions.to_vec();
    let info = match request.verbose {
        true => HashMap::from([("config".to_owned(), edge.config_json.clone())]),
        false => HashMap::new(),
    };
    let user_namespaces = edge.pods.has_user_namespaces();
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        // Without the entry for the empty name, a kubelet sees no features for pods that name no handler.
        runtime_handlers: handlers(user_namespaces, edge.pods.foreign_handlers()),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: user_namespaces,
            mount_options: true,
        }),
    })
}

/// What was answered last, so that the log has one line for each time that a condition changes, and not for each answer.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Mutex<BTreeSet<String>>);

impl Conditions {
    fn note(&self, conditions: &[RuntimeCondition]) {
        let mut unmet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for condition in conditions {
            let name = condition.r#type.as_str();
            if condition.status && unmet.remove(name) {
                info!(condition = name, "condition met again");
            } else if !condition.status && unmet.insert(name.to_owned()) {
                warn!(condition = name, error = condition.message, "condition not met");
            }
        }
    }
}

async fn checked(what: &str, check: impl Future<Output = berth_pod::Result<()>>) -> Result<(), String> {
    match timeout(CHECK_LIMIT, check).await {
        Ok(checked) => checked.map_err(|error| Failure::from(error).to_string()),
        Err(_) => Err(format!("{what}: no answer within {} s", CHECK_LIMIT.as_secs())),
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

fn handlers<'a>(user_namespaces: bool, foreign: impl Iterator<Item = &'a str>) -> Vec<RuntimeHandler> {
    let handler = |name: &str, features| RuntimeHandler { name: name.to_owned(), features: Some(features) };
    let own = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
    // They get namespaces by path, which leaves them no say in a user namespace's mappings.
    let others = RuntimeHandlerFeatures { user_namespaces: false, ..own };
    let foreign = foreign.map(|name| handler(name, others));
    ["", OWN_HANDLER].into_iter().map(|name| handler(name, own)).chain(foreign).collect()
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
