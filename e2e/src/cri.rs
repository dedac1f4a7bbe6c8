//! A client of the CRI that blocks, for tests that are plain threads. Each call has a deadline, as a kubelet's has.

use std::path::Path;
use std::time::Duration;

use berth_cri_proto::v1::image_service_client::ImageServiceClient;
use berth_cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_proto::v1::*;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(60);

/// What a call gives.
pub type Answer<T> = Result<T, Status>;

/// One connection to an agent.
#[derive(Debug)]
pub struct Cri {
    deadline: Duration,
    thread: Runtime,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// Container events as they come.
#[derive(Debug)]
pub struct EventStream {
    cri: Cri,
    events: Streaming<ContainerEventResponse>,
}

impl EventStream {
    /// The next event; `None` if none comes for so long.
    #[track_caller]
    pub fn next(&mut self, patience: Duration) -> Option<ContainerEventResponse> {
        let next = async { tokio::time::timeout(patience, self.events.message()).await };
        self.cri.thread.block_on(next).ok().map(|event| event.unwrap().expect("the stream goes on"))
    }
}

/// Makes a method that sends a request of the runtime service as it is and returns the reply as it is.
macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$call:ident($request:ty) -> $reply:ty;)*) => {
        impl Cri {$(
            $(#[$doc])*
            #[allow(clippy::result_large_err, reason = "the caller looks into it")]
            pub fn $call(&self, request: $request) -> Answer<$reply> {
                let mut request = Request::new(request);
                request.set_timeout(self.deadline);
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
    /// CRI `RuntimeConfig`.
    runtime.runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    /// CRI `UpdateRuntimeConfig`.
    runtime.update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
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
    /// CRI `ContainerStats`.
    runtime.container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    /// CRI `ListContainerStats`.
    runtime.list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    /// CRI `StreamContainerStats`.
    runtime.stream_container_stats(StreamContainerStatsRequest) -> Streaming<StreamContainerStatsResponse>;
    /// CRI `PodSandboxStats`.
    runtime.pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    /// CRI `ListPodSandboxStats`.
    runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    /// CRI `StreamPodSandboxStats`.
    runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> Streaming<StreamPodSandboxStatsResponse>;
    /// CRI `ListMetricDescriptors`.
    runtime.list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    /// CRI `ListPodSandboxMetrics`.
    runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    /// CRI `StreamPodSandboxMetrics`.
    runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> Streaming<StreamPodSandboxMetricsResponse>;
    /// CRI `ImageFsInfo`.
    images.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
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
            deadline: DEADLINE,
            thread,
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(max),
            images: ImageServiceClient::new(channel).max_decoding_message_size(max),
        })
    }

    /// Gives up on calls after so long from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Asks for a sandbox and hangs up after `patience`, as a kubelet does that has given up.
    pub fn run_pod_sandbox_in_a_hurry(&self, config: PodSandboxConfig, patience: Duration) {
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let mut client = self.runtime.clone();
        let call = async { tokio::time::timeout(patience, client.run_pod_sandbox(request)).await };
        let _ = self.thread.block_on(call);
    }

    /// All messages of an answer that comes in several.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn collect<T>(&self, mut parts: Streaming<T>) -> Answer<Vec<T>> {
        self.thread.block_on(async {
            let mut collected = Vec::new();
            while let Some(part) = parts.message().await? {
                collected.push(part);
            }
            Ok(collected)
        })
    }

    /// Listens for container events, over this connection.
    #[track_caller]
    pub fn into_events(self) -> EventStream {
        let mut client = self.runtime.clone();
        let call = async { client.get_container_events(GetEventsRequest {}).await };
        let events = self.thread.block_on(call).unwrap().into_inner();
        EventStream { cri: self, events }
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
