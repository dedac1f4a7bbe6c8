//! A CRI runtime that runs nothing: containers do what their command says, and every call is noted.
//!
//! `exit N`: ends at once with N. `flaky N`: ends with 1 in its first N attempts and then with 0. `serve`: runs until
//! it is stopped. `stubborn`: until it is stopped with no grace. `broken`: can't be started. Each writes one line to
//! its log when it starts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use berth_cri_proto::v1::{
    self, ContainerEventResponse, ContainerEventType, ContainerState, ContainerStatus,
    image_service_server::*, runtime_service_server::*,
};
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, codegen::BoxStream, transport::Server};

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: Vec<String>,
    sandboxes: BTreeMap<String, v1::PodSandboxConfig>,
    containers: BTreeMap<String, FakeContainer>,
    listeners: Vec<mpsc::UnboundedSender<Result<ContainerEventResponse, Status>>>,
    /// Answers GetContainerEvents with Unimplemented.
    without_events: bool,
}

struct FakeContainer {
    config: v1::ContainerConfig,
    log: PathBuf,
    /// None while it runs.
    exit_code: Option<i32>,
}

impl Fake {
    pub(crate) fn without_events() -> Self {
        let fake = Self::default();
        fake.0.lock().unwrap().without_events = true;
        fake
    }

    /// Serves on `socket` as long as the test's runtime lives.
    pub(crate) fn serve(&self, socket: &Path) {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    /// The calls that change something, in their order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }
}

impl State {
    fn note(&mut self, call: &str, object: &str) {
        self.calls.push(format!("{call} {object}"));
    }

    fn end(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.exit_code.get_or_insert(code);
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: ContainerEventType::ContainerStoppedEvent.into(),
            ..Default::default()
        };
        self.listeners.retain(|listener| listener.send(Ok(event.clone())).is_ok());
    }
}

/// An implementation whose other calls answer Unimplemented.
macro_rules! service {
    (
        $service:ident { $($body:tt)* }
        unary { $($unary:ident($unary_request:ident) -> $unary_reply:ident;)* }
        stream { $($stream:ident($stream_request:ident) -> $stream_reply:ident as $kind:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Fake {
            $($body)*
            $(async fn $unary(&self, _: Request<v1::$unary_request>) -> Result<Response<v1::$unary_reply>, Status> {
                Err(Status::unimplemented(stringify!($unary)))
            })*
            $(type $kind = BoxStream<v1::$stream_reply>;
            async fn $stream(&self, _: Request<v1::$stream_request>) -> Result<Response<Self::$kind>, Status> {
                Err(Status::unimplemented(stringify!($stream)))
            })*
        }
    };
}

service! {
    ImageService {
        async fn image_status(
            &self,
            request: Request<v1::ImageStatusRequest>,
        ) -> Result<Response<v1::ImageStatusResponse>, Status> {
            let name = request.into_inner().image.unwrap().image;
            let pulled = self.0.lock().unwrap().calls.contains(&format!("pull {name}"));
            let present = pulled || !name.starts_with("absent");
            let image = present.then(|| v1::Image { id: name, ..Default::default() });
            Ok(Response::new(v1::ImageStatusResponse { image, ..Default::default() }))
        }

        async fn pull_image(
            &self,
            request: Request<v1::PullImageRequest>,
        ) -> Result<Response<v1::PullImageResponse>, Status> {
            let name = request.into_inner().image.unwrap().image;
            self.0.lock().unwrap().note("pull", &name);
            Ok(Response::new(v1::PullImageResponse { image_ref: name }))
        }
    }
    unary {
        list_images(ListImagesRequest) -> ListImagesResponse;
        remove_image(RemoveImageRequest) -> RemoveImageResponse;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }
    stream { stream_images(StreamImagesRequest) -> StreamImagesResponse as StreamImagesStream; }
}

service! {
    RuntimeService {
        async fn run_pod_sandbox(
            &self,
            request: Request<v1::RunPodSandboxRequest>,
        ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
            let config = request.into_inner().config.unwrap();
            let mut state = self.0.lock().unwrap();
            let name = config.metadata.clone().unwrap().name;
            state.note("run", &name);
            state.sandboxes.insert(name.clone(), config);
            Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: name }))
        }

        async fn pod_sandbox_status(
            &self,
            _: Request<v1::PodSandboxStatusRequest>,
        ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
            let network = v1::PodSandboxNetworkStatus { ip: "10.1.2.3".to_owned(), additional_ips: Vec::new() };
            let status = v1::PodSandboxStatus { network: Some(network), ..Default::default() };
            Ok(Response::new(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
        }

        async fn list_pod_sandbox(
            &self,
            request: Request<v1::ListPodSandboxRequest>,
        ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
            let wanted = request.into_inner().filter.unwrap().label_selector;
            let state = self.0.lock().unwrap();
            let matching = state.sandboxes.iter().filter(|(_, config)| {
                wanted.iter().all(|(key, value)| config.labels.get(key) == Some(value))
            });
            let items = matching.map(|(id, _)| v1::PodSandbox { id: id.clone(), ..Default::default() }).collect();
            Ok(Response::new(v1::ListPodSandboxResponse { items }))
        }

        async fn stop_pod_sandbox(
            &self,
            request: Request<v1::StopPodSandboxRequest>,
        ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
            self.0.lock().unwrap().note("stopp", &request.into_inner().pod_sandbox_id);
            Ok(Response::new(Default::default()))
        }

        async fn remove_pod_sandbox(
            &self,
            request: Request<v1::RemovePodSandboxRequest>,
        ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
            let id = request.into_inner().pod_sandbox_id;
            let mut state = self.0.lock().unwrap();
            state.note("rmp", &id);
            state.sandboxes.remove(&id);
            state.containers.retain(|container, _| !container.starts_with(&format!("{id}/")));
            Ok(Response::new(Default::default()))
        }

        async fn create_container(
            &self,
            request: Request<v1::CreateContainerRequest>,
        ) -> Result<Response<v1::CreateContainerResponse>, Status> {
            let request = request.into_inner();
            let config = request.config.unwrap();
            let metadata = config.metadata.clone().unwrap();
            let container_id = format!("{}/{}.{}", request.pod_sandbox_id, metadata.name, metadata.attempt);
            let log = Path::new(&request.sandbox_config.unwrap().log_directory).join(&config.log_path);
            let mut state = self.0.lock().unwrap();
            assert!(Path::new(&config.mounts.last().unwrap().host_path).exists(), "no hosts file");
            state.containers.insert(container_id.clone(), FakeContainer { config, log, exit_code: None });
            Ok(Response::new(v1::CreateContainerResponse { container_id }))
        }

        async fn start_container(
            &self,
            request: Request<v1::StartContainerRequest>,
        ) -> Result<Response<v1::StartContainerResponse>, Status> {
            let id = request.into_inner().container_id;
            let mut state = self.0.lock().unwrap();
            state.note("start", &id);
            let container = &state.containers[&id];
            let attempt = container.config.metadata.clone().unwrap().attempt;
            let text = format!("2026-01-02T03:04:05.000000006Z stdout F attempt {attempt}\n");
            std::fs::write(&container.log, text).unwrap();
            let words: Vec<_> = container.config.command.iter().map(String::as_str).collect();
            match words[..] {
                ["serve" | "stubborn"] => {}
                ["exit", code] => {
                    let code = code.parse().unwrap();
                    state.end(&id, code);
                }
                ["flaky", failures] => {
                    let code = i32::from(attempt < failures.parse().unwrap());
                    state.end(&id, code);
                }
                _ => return Err(Status::invalid_argument("no such program")),
            }
            Ok(Response::new(Default::default()))
        }

        async fn stop_container(
            &self,
            request: Request<v1::StopContainerRequest>,
        ) -> Result<Response<v1::StopContainerResponse>, Status> {
            let request = request.into_inner();
            let id = &request.container_id;
            let stubborn = {
                let mut state = self.0.lock().unwrap();
                state.note("stop", &format!("{id} {}", request.timeout));
                request.timeout > 0 && state.containers[id].config.command == ["stubborn"]
            };
            if stubborn {
                std::future::pending::<()>().await;
            }
            self.0.lock().unwrap().end(id, 143);
            Ok(Response::new(Default::default()))
        }

        async fn remove_container(
            &self,
            request: Request<v1::RemoveContainerRequest>,
        ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
            let id = request.into_inner().container_id;
            let mut state = self.0.lock().unwrap();
            state.note("rm", &id);
            state.containers.remove(&id);
            Ok(Response::new(Default::default()))
        }

        async fn container_status(
            &self,
            request: Request<v1::ContainerStatusRequest>,
        ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
            let id = request.into_inner().container_id;
            let state = self.0.lock().unwrap();
            let container = state.containers.get(&id).ok_or_else(|| Status::not_found(id.clone()))?;
            let condition = match container.exit_code {
                Some(_) => ContainerState::ContainerExited,
                None => ContainerState::ContainerRunning,
            };
            let status = ContainerStatus {
                id,
                state: condition.into(),
                exit_code: container.exit_code.unwrap_or(0),
                ..Default::default()
            };
            Ok(Response::new(v1::ContainerStatusResponse { status: Some(status), ..Default::default() }))
        }

        type GetContainerEventsStream = BoxStream<ContainerEventResponse>;
        async fn get_container_events(
            &self,
            _: Request<v1::GetEventsRequest>,
        ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
            let mut state = self.0.lock().unwrap();
            if state.without_events {
                return Err(Status::unimplemented("GetContainerEvents"));
            }
            let (sender, events) = mpsc::unbounded_channel();
            state.listeners.push(sender);
            Ok(Response::new(Box::pin(UnboundedReceiverStream::new(events))))
        }
    }
    unary {
        version(VersionRequest) -> VersionResponse;
        list_containers(ListContainersRequest) -> ListContainersResponse;
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        status(StatusRequest) -> StatusResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
    stream {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse as StreamPodSandboxesStream;
        stream_containers(StreamContainersRequest) -> StreamContainersResponse as StreamContainersStream;
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse
            as StreamContainerStatsStream;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse
            as StreamPodSandboxStatsStream;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse
            as StreamPodSandboxMetricsStream;
    }
}
