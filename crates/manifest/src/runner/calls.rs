//! The runtime's calls that the runner makes, each with its deadline and its error.
//!
//! Deadlines are the kubelet's: 2 minutes, 4 for a sandbox, the grace period besides for a stop, none for a pull (which
//! the runtime ends when it makes no progress).

use std::{collections::HashMap, net::IpAddr, time::Duration};

use berth_cri_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        ContainerConfig, ContainerStatus, ContainerStatusRequest, CreateContainerRequest, GetEventsRequest,
        Image, ImageSpec, ImageStatusRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxFilter,
        PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest, RemovePodSandboxRequest,
        RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
        image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
    },
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::RunError;
use crate::sandbox::POD_UID_LABEL;

const DEADLINE: Duration = Duration::from_secs(120);
const SANDBOX_DEADLINE: Duration = Duration::from_secs(240);

/// A runtime, as the runner needs it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// None when the image is not there.
    pub(crate) async fn image(&self, image: &str) -> Result<Option<Image>, RunError> {
        let spec = ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = request(ImageStatusRequest { image: Some(spec), verbose: false }, DEADLINE);
        let reply = self.images.clone().image_status(request).await;
        Ok(reply.map_err(failed("ImageStatus", image))?.into_inner().image)
    }

    pub(crate) async fn pull_image(&self, image: &str, sandbox: &PodSandboxConfig) -> Result<(), RunError> {
        let spec = ImageSpec { image: image.to_owned(), ..Default::default() };
        let request =
            PullImageRequest { image: Some(spec), auth: None, sandbox_config: Some(sandbox.clone()) };
        self.images.clone().pull_image(request).await.map_err(failed("PullImage", image)).map(drop)
    }

    /// The new sandbox's id.
    pub(crate) async fn run_sandbox(
        &self,
        name: &str,
        config: &PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RunError> {
        let message = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: runtime_handler.to_owned(),
        };
        let reply = self.runtime.clone().run_pod_sandbox(request(message, SANDBOX_DEADLINE)).await;
        Ok(reply.map_err(failed("RunPodSandbox", name))?.into_inner().pod_sandbox_id)
    }

    /// The sandbox's addresses, the main one first; none on the host's network.
    pub(crate) async fn sandbox_ips(&self, id: &str) -> Result<Vec<IpAddr>, RunError> {
        let message = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply = self.runtime.clone().pod_sandbox_status(request(message, DEADLINE)).await;
        let status = reply.map_err(failed("PodSandboxStatus", id))?.into_inner().status;
        let network = status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok([network.ip].into_iter().chain(more).filter_map(|ip| ip.parse().ok()).collect())
    }

    /// The ids of the sandboxes of the pod `uid`, whatever became of the call that made them.
    pub(crate) async fn sandboxes_of(&self, uid: &str) -> Result<Vec<String>, RunError> {
        let filter = PodSandboxFilter { label_selector: of_pod(uid), ..Default::default() };
        let message = ListPodSandboxRequest { filter: Some(filter) };
        let reply = self.runtime.clone().list_pod_sandbox(request(message, DEADLINE)).await;
        let sandboxes = reply.map_err(failed("ListPodSandbox", uid))?.into_inner().items;
        Ok(sandboxes.into_iter().map(|sandbox| sandbox.id).collect())
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), RunError> {
        let message = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let stopped = self.runtime.clone().stop_pod_sandbox(request(message, DEADLINE)).await;
        stopped.map_err(failed("StopPodSandbox", id))?;
        let message = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let removed = self.runtime.clone().remove_pod_sandbox(request(message, DEADLINE)).await;
        removed.map_err(failed("RemovePodSandbox", id)).map(drop)
    }

    /// The new container's id.
    pub(crate) async fn create_container(
        &self,
        sandbox_id: &str,
        sandbox: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, RunError> {
        let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
        let message = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.clone()),
        };
        let reply = self.runtime.clone().create_container(request(message, DEADLINE)).await;
        Ok(reply.map_err(failed("CreateContainer", name))?.into_inner().container_id)
    }

    pub(crate) async fn start_container(&self, id: &str, name: &str) -> Result<(), RunError> {
        let message = StartContainerRequest { container_id: id.to_owned() };
        let reply = self.runtime.clone().start_container(request(message, DEADLINE)).await;
        reply.map_err(failed("StartContainer", name)).map(drop)
    }

    /// Returns when the container has ended, of its own will within `grace` or by force.
    pub(crate) async fn stop_container(&self, id: &str, name: &str, grace: Duration) -> Result<(), RunError> {
        let timeout = grace.as_secs_f64().ceil() as i64;
        let message = StopContainerRequest { container_id: id.to_owned(), timeout };
        let reply = self.runtime.clone().stop_container(request(message, DEADLINE + grace)).await;
        reply.map_err(failed("StopContainer", name)).map(drop)
    }

    pub(crate) async fn remove_container(&self, id: &str, name: &str) -> Result<(), RunError> {
        let message = RemoveContainerRequest { container_id: id.to_owned() };
        let reply = self.runtime.clone().remove_container(request(message, DEADLINE)).await;
        reply.map_err(failed("RemoveContainer", name)).map(drop)
    }

    /// None while the runtime can't be reached (it may be restarting).
    pub(crate) async fn container_status(
        &self,
        id: &str,
        name: &str,
    ) -> Result<Option<ContainerStatus>, RunError> {
        let message = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match self.runtime.clone().container_status(request(message, DEADLINE)).await {
            Ok(reply) => Ok(reply.into_inner().status),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) if status.code() == Code::NotFound => {
                Err(RunError::Lost { container: name.to_owned() })
            }
            Err(status) => Err(failed("ContainerStatus", name)(status)),
        }
    }

    /// The event stream; not an error of a run yet, since it is asked for again.
    pub(crate) async fn events(
        &self,
    ) -> Result<Streaming<berth_cri_proto::v1::ContainerEventResponse>, Status> {
        Ok(self.runtime.clone().get_container_events(GetEventsRequest {}).await?.into_inner())
    }
}

fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn failed(call: &'static str, object: &str) -> impl FnOnce(Status) -> RunError {
    move |status| RunError::Call { call, object: object.to_owned(), source: Box::new(status) }
}

fn of_pod(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_owned())])
}
