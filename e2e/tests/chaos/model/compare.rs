//! Everything that the API shows, beside what the model says.

use std::collections::BTreeMap;

use berth_cri_proto::v1::*;

use super::calls::state_of;
use super::play::{Player, Result};
use super::steps::{CONTAINERS, IMAGES};
use super::world::{Container as Place, ContainerLife, End, State, image_of};

/// By id.
type All<T> = BTreeMap<String, T>;

impl Player<'_> {
    /// Looks at all pods and containers of this client, and at each of them.
    pub(super) fn compare(&self) -> Result<()> {
        self.compare_pods()?;
        self.compare_containers()?;
        for Place { id, life } in self.world.pods.iter().flat_map(|pod| &pod.containers) {
            let Some(life) = life else { continue };
            let status =
                self.cri.container(id).map_err(|status| format!("ContainerStatus of {id}: {status}"))?;
            compare_status(&status, life).map_err(|wrong| format!("{wrong}: {status:?}"))?;
        }
        Ok(())
    }

    fn compare_pods(&self) -> Result<()> {
        let pods = self.world.pods.iter().enumerate();
        let want: All<_> = pods
            .filter_map(|(at, pod)| {
                let state = match pod.life.as_ref()?.ready {
                    true => PodSandboxState::SandboxReady,
                    false => PodSandboxState::SandboxNotready,
                };
                Some((pod.id.clone(), (self.pod_name(at), state)))
            })
            .collect();
        let filter = Some(PodSandboxFilter { label_selector: self.labels("", None), ..Default::default() });
        let listed = self.cri.list_pod_sandbox(ListPodSandboxRequest { filter });
        let listed = listed.map_err(|status| format!("ListPodSandbox: {status}"))?.items;
        let in_order = listed.is_sorted_by_key(|pod| pod.created_at);
        let name = |pod: &PodSandbox| pod.metadata.as_ref().map(|metadata| metadata.name.clone());
        let found: All<_> = (listed.iter())
            .map(|pod| (pod.id.clone(), (name(pod).unwrap_or_default(), pod.state())))
            .collect();
        same("pods", &found, &want)?;
        in_order.then_some(()).ok_or_else(|| "the oldest pod is not the first".to_owned())
    }

    fn compare_containers(&self) -> Result<()> {
        let mut want = All::new();
        for pod in &self.world.pods {
            for (place, container) in pod.containers.iter().enumerate() {
                let Some(life) = &container.life else { continue };
                let (name, attempt) = CONTAINERS[place];
                let facts = (pod.id.clone(), name.to_owned(), attempt, IMAGES[image_of(place)].to_owned());
                want.insert(container.id.clone(), (facts, state_of(life.kind())));
            }
        }
        let filter = Some(ContainerFilter { label_selector: self.labels("", None), ..Default::default() });
        let listed = self.cri.list_containers(ListContainersRequest { filter });
        let listed = listed.map_err(|status| format!("ListContainers: {status}"))?.containers;
        let facts = |container: &Container| {
            let ContainerMetadata { name, attempt } = container.metadata.clone().unwrap_or_default();
            (
                container.pod_sandbox_id.clone(),
                name,
                attempt,
                container.image.clone().unwrap_or_default().image,
            )
        };
        let found: All<_> = (listed.iter())
            .map(|container| (container.id.clone(), (facts(container), container.state())))
            .collect();
        same("containers", &found, &want)
    }
}

fn same<T: std::fmt::Debug + PartialEq>(what: &str, found: &All<T>, want: &All<T>) -> Result<()> {
    if found == want { Ok(()) } else { Err(format!("{what} are {found:#?} and should be {want:#?}")) }
}

/// State, end, times and limits.
fn compare_status(status: &ContainerStatus, life: &ContainerLife) -> Result<()> {
    let told = (status.state(), status.exit_code, status.reason.as_str());
    let want = match &life.state {
        State::Created | State::Running => (state_of(life.kind()), 0, ""),
        State::Exited(End { code, reason }) => (state_of(life.kind()), *code, *reason),
    };
    if told != want {
        return Err(format!("state, exit code and reason should be {want:?}"));
    }
    let (created, started, finished) = (status.created_at, status.started_at, status.finished_at);
    let has_begun = started > 0;
    let is_in_order = match life.state {
        State::Created => !has_begun && finished == 0,
        State::Running => created <= started && finished == 0,
        State::Exited(_) => (!has_begun || created <= started) && started.max(created) <= finished,
    };
    if !is_in_order {
        return Err("the times make no sense".to_owned());
    }
    let linux = status.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    match life.shares {
        Some(shares) if linux.is_none_or(|linux| linux.cpu_shares != shares) => {
            Err(format!("the shares should be {shares}"))
        }
        _ => Ok(()),
    }
}
