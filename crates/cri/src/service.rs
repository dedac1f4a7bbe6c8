//! `RuntimeService`, the list of its calls in the API's order: each line says where a call is handled, or that it is
//! not served yet.

use berth_cri_proto::v1::runtime_service_server::RuntimeService;
// All messages of the contract; naming each would be as long as the list below.
use berth_cri_proto::v1::*;
use tonic::{Request, Response, Status};

use crate::answers::Answers;
use crate::call::{Rpc, call};
use crate::{
    Edge, Failure, attach, container_stats, container_status, create_container, exec, exec_sync,
    get_container_events, list_container_stats, list_containers, list_metric_descriptors, list_pod_sandbox,
    list_pod_sandbox_metrics, list_pod_sandbox_stats, pod_sandbox_stats, pod_sandbox_status, port_forward,
    remove_container, remove_pod_sandbox, reopen_container_log, run_pod_sandbox, runtime_config,
    runtime_status, start_container, stop_container, stop_pod_sandbox, update_container_resources,
    update_pod_sandbox_resources, update_runtime_config, version,
};

#[tonic::async_trait]
impl RuntimeService for Edge {
    async fn version(&self, _request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        call(Rpc::Routine("Version"), async { Ok(version::handle()) }).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        call(Rpc::Change("RunPodSandbox"), run_pod_sandbox::handle(self, request.into_inner())).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        call(Rpc::Change("StopPodSandbox"), stop_pod_sandbox::handle(self, request.into_inner())).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        call(Rpc::Change("RemovePodSandbox"), remove_pod_sandbox::handle(self, request.into_inner())).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        call(Rpc::Routine("PodSandboxStatus"), pod_sandbox_status::handle(self, request.into_inner())).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        call(Rpc::Routine("ListPodSandbox"), list_pod_sandbox::handle(self, request.into_inner())).await
    }

    type StreamPodSandboxesStream = Answers<StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Result<Response<Answers<StreamPodSandboxesResponse>>, Status> {
        call(Rpc::Routine("StreamPodSandboxes"), list_pod_sandbox::stream(self, request.into_inner())).await
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        call(Rpc::Change("CreateContainer"), create_container::handle(self, request.into_inner())).await
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        call(Rpc::Change("StartContainer"), start_container::handle(self, request.into_inner())).await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        call(Rpc::Change("StopContainer"), stop_container::handle(self, request.into_inner())).await
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        call(Rpc::Change("RemoveContainer"), remove_container::handle(self, request.into_inner())).await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        call(Rpc::Routine("ListContainers"), list_containers::handle(self, request.into_inner())).await
    }

    type StreamContainersStream = Answers<StreamContainersResponse>;
    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Result<Response<Answers<StreamContainersResponse>>, Status> {
        call(Rpc::Routine("StreamContainers"), list_containers::stream(self, request.into_inner())).await
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        call(Rpc::Routine("ContainerStatus"), container_status::handle(self, request.into_inner())).await
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Result<Response<UpdateContainerResourcesResponse>, Status> {
        let handler = update_container_resources::handle(self, request.into_inner());
        call(Rpc::Change("UpdateContainerResources"), handler).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Result<Response<ReopenContainerLogResponse>, Status> {
        call(Rpc::Change("ReopenContainerLog"), reopen_container_log::handle(self, request.into_inner()))
            .await
    }

    async fn exec_sync(
        &self,
        request: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecSyncResponse>, Status> {
        call(Rpc::Routine("ExecSync"), exec_sync::handle(self, request.into_inner())).await
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        call(Rpc::Routine("Exec"), async { exec::handle(self, request.into_inner()) }).await
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<AttachResponse>, Status> {
        call(Rpc::Routine("Attach"), async { attach::handle(self, request.into_inner()) }).await
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Result<Response<PortForwardResponse>, Status> {
        call(Rpc::Routine("PortForward"), async { port_forward::handle(self, request.into_inner()) }).await
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Result<Response<ContainerStatsResponse>, Status> {
        call(Rpc::Routine("ContainerStats"), container_stats::handle(self, request.into_inner())).await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Result<Response<ListContainerStatsResponse>, Status> {
        call(Rpc::Routine("ListContainerStats"), list_container_stats::handle(self, request.into_inner()))
            .await
    }

    type StreamContainerStatsStream = Answers<StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Result<Response<Answers<StreamContainerStatsResponse>>, Status> {
        call(Rpc::Routine("StreamContainerStats"), list_container_stats::stream(self, request.into_inner()))
            .await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Result<Response<PodSandboxStatsResponse>, Status> {
        call(Rpc::Routine("PodSandboxStats"), pod_sandbox_stats::handle(self, request.into_inner())).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Result<Response<ListPodSandboxStatsResponse>, Status> {
        call(Rpc::Routine("ListPodSandboxStats"), list_pod_sandbox_stats::handle(self, request.into_inner()))
            .await
    }

    type StreamPodSandboxStatsStream = Answers<StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Answers<StreamPodSandboxStatsResponse>>, Status> {
        call(
            Rpc::Routine("StreamPodSandboxStats"),
            list_pod_sandbox_stats::stream(self, request.into_inner()),
        )
        .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Result<Response<UpdateRuntimeConfigResponse>, Status> {
        call(Rpc::Change("UpdateRuntimeConfig"), update_runtime_config::handle(self, request.into_inner()))
            .await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        call(Rpc::Routine("Status"), runtime_status::handle(self, request.into_inner())).await
    }

    async fn checkpoint_container(
        &self,
        _request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        later("CheckpointContainer").await
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<CheckpointPodRequest>,
    ) -> Result<Response<CheckpointPodResponse>, Status> {
        later("CheckpointPod").await
    }

    async fn restore_pod(
        &self,
        _request: Request<RestorePodRequest>,
    ) -> Result<Response<RestorePodResponse>, Status> {
        later("RestorePod").await
    }

    type GetContainerEventsStream = Answers<ContainerEventResponse>;
    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Result<Response<Answers<ContainerEventResponse>>, Status> {
        let pid = get_container_events::process_of(request.extensions());
        call(Rpc::Routine("GetContainerEvents"), get_container_events::handle(self, pid)).await
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<ListMetricDescriptorsRequest>,
    ) -> Result<Response<ListMetricDescriptorsResponse>, Status> {
        call(Rpc::Routine("ListMetricDescriptors"), async { Ok(list_metric_descriptors::handle()) }).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<ListPodSandboxMetricsRequest>,
    ) -> Result<Response<ListPodSandboxMetricsResponse>, Status> {
        call(
            Rpc::Routine("ListPodSandboxMetrics"),
            list_pod_sandbox_metrics::handle(self, request.into_inner()),
        )
        .await
    }

    type StreamPodSandboxMetricsStream = Answers<StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Answers<StreamPodSandboxMetricsResponse>>, Status> {
        call(
            Rpc::Routine("StreamPodSandboxMetrics"),
            list_pod_sandbox_metrics::stream(self, request.into_inner()),
        )
        .await
    }

    async fn runtime_config(
        &self,
        _request: Request<RuntimeConfigRequest>,
    ) -> Result<Response<RuntimeConfigResponse>, Status> {
        call(Rpc::Routine("RuntimeConfig"), async { Ok(runtime_config::handle(self)) }).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<UpdatePodSandboxResourcesResponse>, Status> {
        let handler = update_pod_sandbox_resources::handle(self, request.into_inner());
        call(Rpc::Change("UpdatePodSandboxResources"), handler).await
    }
}

/// Answers a call for which checkpoints would be needed.
async fn later<T>(rpc: &'static str) -> Result<Response<T>, Status> {
    let reason = "checkpoints come with a later version";
    call(Rpc::Routine(rpc), async { Err(Failure::unimplemented(rpc, reason)) }).await
}
