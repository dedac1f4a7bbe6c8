//! `berth ns`: which process shares which namespace with whom. The running agent is asked over CRI for its ready pods
//! and the process ids of pause and containers; the rest is read from `/proc/PID/ns`, so the table shows what the
//! kernel holds and not what somebody intended. Works with any CRI runtime that puts `"pid"` into its verbose info.

mod kernel;
mod table;

use crate::client;
use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_proto::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ContainerStatusRequest,
    ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState,
    PodSandboxStateValue, PodSandboxStatusRequest,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use tonic::transport::Channel;

/// A process that the runtime told of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    name: String,
    pid: u32,
}

/// Prints one table for each ready pod; with `wanted`, for those with that name or with an id that begins so.
pub(crate) async fn run(socket: &Path, wanted: Option<&str>) -> Result<()> {
    let channel = client::connect(socket).await?;
    client::attended(socket, show(channel, wanted)).await
}

async fn show(channel: Channel, wanted: Option<&str>) -> Result<()> {
    let mut client = RuntimeServiceClient::new(channel);
    let pods = ready_pods(&mut client, wanted).await?;
    if let (true, Some(wanted)) = (pods.is_empty(), wanted) {
        bail!("find pod {wanted:?}: no ready pod has that name or id");
    }
    let host = kernel::namespaces_of_host();
    for (index, pod) in pods.iter().enumerate() {
        let processes = processes(&mut client, pod).await?;
        let rows = processes.into_iter().map(|process| {
            let namespaces = kernel::namespaces_of(process.pid);
            table::Row { name: process.name, pid: process.pid, namespaces }
        });
        let separator = if index == 0 { "" } else { "\n" };
        let text = table::render(&rows.collect::<Vec<_>>(), &host);
        write!(io::stdout(), "{separator}pod {}\n{text}", title(pod))?;
    }
    if !pods.is_empty() {
        writeln!(io::stdout(), "\n{}", table::LEGEND)?;
    }
    Ok(())
}

async fn ready_pods(
    client: &mut RuntimeServiceClient<Channel>,
    wanted: Option<&str>,
) -> Result<Vec<PodSandbox>> {
    let state = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
    let filter = Some(PodSandboxFilter { state, ..PodSandboxFilter::default() });
    let reply = client.list_pod_sandbox(ListPodSandboxRequest { filter }).await.context("list pods")?;
    let mut pods = reply.into_inner().items;
    pods.retain(|pod| wanted.is_none_or(|wanted| pod.id.starts_with(wanted) || name(pod) == wanted));
    pods.sort_by_key(|pod| pod.created_at);
    Ok(pods)
}

/// Pause first, then the running containers in the order of their creation.
async fn processes(client: &mut RuntimeServiceClient<Channel>, pod: &PodSandbox) -> Result<Vec<Process>> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let status =
        client.pod_sandbox_status(request).await.with_context(|| format!("look at pod {}", pod.id))?;
    let mut processes = Vec::new();
    processes.extend(pid(&status.into_inner().info).map(|pid| Process { name: "pause".into(), pid }));
    for container in running_containers(client, pod).await? {
        let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        let status = client.container_status(request).await;
        let status = status.with_context(|| format!("look at container {}", container.id))?.into_inner();
        let name = container.metadata.map_or(container.id, |metadata| metadata.name);
        processes.extend(pid(&status.info).map(|pid| Process { name, pid }));
    }
    Ok(processes)
}

async fn running_containers(
    client: &mut RuntimeServiceClient<Channel>,
    pod: &PodSandbox,
) -> Result<Vec<Container>> {
    let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
    let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), state, ..ContainerFilter::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let reply = client.list_containers(request).await.context("list containers")?;
    let mut containers = reply.into_inner().containers;
    containers.sort_by_key(|container| container.created_at);
    Ok(containers)
}

/// The process id in a verbose answer: the JSON under the key `info`. None for a sandbox that has no process.
fn pid(info: &HashMap<String, String>) -> Option<u32> {
    #[derive(Deserialize)]
    struct Info {
        pid: u32,
    }
    let info: Info = serde_json::from_str(info.get("info")?).ok()?;
    Some(info.pid).filter(|pid| *pid != 0)
}

fn name(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

fn title(pod: &PodSandbox) -> String {
    let namespace = pod.metadata.as_ref().map_or("", |metadata| metadata.namespace.as_str());
    format!("{namespace}/{} {}", name(pod), pod.id.get(..13).unwrap_or(&pod.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_is_read_from_verbose_info() {
        let check = |key: &str, json: &str, found| {
            assert_eq!(pid(&HashMap::from([(key.into(), json.into())])), found, "{key} {json}");
        };
        check("info", r#"{"pid":42,"config":{}}"#, Some(42));
        check("info", r#"{"pid":0}"#, None);
        check("info", "{}", None);
        check("config", r#"{"pid":42}"#, None);
    }
}
