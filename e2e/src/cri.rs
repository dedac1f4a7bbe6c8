//! A client of the CRI that blocks, for tests that are plain threads. Each call has a deadline, as a kubelet's has.

use std::path::Path;
use std::time::Duration;

use berth_cri_proto::v1::image_service_client::ImageServiceClient;
use berth_cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_proto::v1::*;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

const DEADLINE: Duration = Duration::from_secs(60);

/// What a call gives.
pub type Answer<T> = Result<T, Status>;

/// One connection to an agent.
#[derive(Debug)]
pub struct Cri {
    thread: Runtime,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// Makes a method that sends a request of the runtime service as it is and returns the reply as it is.
macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$call:ident($request:ty) -> $reply:ty;)*) => {
        impl Cri {$(
            $(#[$doc])*
            #[allow(clippy::result_large_err, reason = "the caller looks into it")]
            pub fn $call(&self, request: $request) -> Answer<$reply> {
                let mut request = Request::new(request);
                request.set_timeout(DEADLINE);
                let mut client = self.$service.clone();
                self.thread.block_on(client.$call(request)).map(Response::into_inner)
            }
        )*}
    };
}

calls! {
    /// CRI `Version`.
    runtime.version(VersionRequest) -> VersionResponse;
    /// CRI `Status`.
    runtime.status(StatusRequest) -> StatusResponse;
    /// CRI `RunPodSandbox`.
    runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    /// CRI `StopPodSandbox`.
    runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    /// CRI `RemovePodSandbox`.
    runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    /// CRI `PodSandboxStatus`.
    runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    /// CRI `ListPodSandbox`.
    runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    /// CRI `CreateContainer`.
    runtime.create_container(CreateContainerRequest) -> CreateContainerResponse;
    /// CRI `StartContainer`.
    runtime.start_container(StartContainerRequest) -> StartContainerResponse;
    /// CRI `StopContainer`.
    runtime.stop_container(StopContainerRequest) -> StopContainerResponse;
    /// CRI `RemoveContainer`.
    runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    /// CRI `ListContainers`.
    runtime.list_containers(ListContainersRequest) -> ListContainersResponse;
    /// CRI `ContainerStatus`.
    runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    /// CRI `ReopenContainerLog`.
    runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    /// CRI `UpdateContainerResources`.
    runtime.update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    /// CRI `UpdatePodSandboxResources`.
    runtime.update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    /// CRI `ExecSync`.
    runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    /// CRI `Exec`.
    runtime.exec(ExecRequest) -> ExecResponse;
    /// CRI `Attach`.
    runtime.attach(AttachRequest) -> AttachResponse;
    /// CRI `PortForward`.
    runtime.port_forward(PortForwardRequest) -> PortForwardResponse;
    /// CRI `PullImage`.
    images.pull_image(PullImageRequest) -> PullImageResponse;
    /// CRI `ListImages`.
    images.list_images(ListImagesRequest) -> ListImagesResponse;
    /// CRI `ImageStatus`.
    images.image_status(ImageStatusRequest) -> ImageStatusResponse;
    /// CRI `RemoveImage`.
    images.remove_image(RemoveImageRequest) -> RemoveImageResponse;
}

impl Cri {
    /// Connects to the agent that listens on `socket`; `None` if none does.
    pub fn connect(socket: &Path) -> Option<Self> {
        let thread = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = thread.block_on(berth_cri_proto::connect(socket)).ok()?;
        let max = berth_cri_proto::MAX_MESSAGE_BYTES;
        Some(Self {
            thread,
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(max),
            images: ImageServiceClient::new(channel).max_decoding_message_size(max),
        })
    }

    /// Asks for a sandbox and hangs up after `patience`, as a kubelet does that has given up.
    pub fn run_pod_sandbox_in_a_hurry(&self, config: PodSandboxConfig, patience: Duration) {
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let mut client = self.runtime.clone();
        let call = async { tokio::time::timeout(patience, client.run_pod_sandbox(request)).await };
        let _ = self.thread.block_on(call);
    }

    /// A sandbox's status.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn sandbox(&self, id: &str) -> Answer<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.pod_sandbox_status(request)?.status.unwrap())
    }

    /// A container's status.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn container(&self, id: &str) -> Answer<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.container_status(request)?.status.unwrap())
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<PodSandbox> {
        self.list_pod_sandbox(ListPodSandboxRequest::default()).unwrap().items
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Container> {
        self.list_containers(ListContainersRequest::default()).unwrap().containers
    }

    /// Stops and removes a sandbox.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn take_down(&self, id: &str) -> Answer<()> {
        self.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() })?;
        self.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() })?;
        Ok(())
    }
}
