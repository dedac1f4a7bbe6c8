//! The edge: gRPC in, our own types beyond.
//!
//! ```text
//! server ─▶ service, image_service, admin ─▶ call (span, clock, panics) ─▶ one file per call ─▶ berth_pod, berth_image
//!                                                                            │
//!                                     convert (messages ⇄ specs and views) ◀─┘─▶ status (failures to gRPC codes)
//! ```
//! - The file of a call has its name: `run_pod_sandbox`, `create_container`, … ; the call `Status` is in
//!   `runtime_status`, since `status` is about failures.
//! - Everything is validated in `convert`, before anything is done; a refusal names the field and its value.
//! - List calls and the statuses of pods and containers are answered from one immutable snapshot: no lock, no disk. The
//!   call `Status` is none of these: it looks at disk, network and database.
//! - Handlers only wait. Work belongs to the drivers of pods and to the image store, so a client that hangs up cancels
//!   nothing, and one that asks again joins what is under way.
//! - No decisions: whatever depends on a pod's state beyond "is it there" is decided by its driver.

mod admin;
mod answers;
mod attach;
mod call;
mod container_stats;
mod container_status;
mod convert;
mod create_container;
mod deadline;
mod exec;
mod exec_sync;
mod explain;
mod filesystems;
mod filter;
mod get_container_events;
mod image_fs_info;
mod image_service;
mod image_status;
mod joiner;
mod list_container_stats;
mod list_containers;
mod list_images;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod metrics;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod runtime_status;
mod server;
mod service;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use std::sync::Arc;

use berth_image::ImageStore;
use berth_pod::Pods;
use berth_stream::Tickets;
use tokio_util::sync::CancellationToken;

pub use joiner::serve_streams;
pub use server::serve;
use status::Failure;

use crate::filesystems::Filesystems;
use crate::runtime_status::Conditions;

/// What clients know the runtime by.
const RUNTIME_NAME: &str = "berth";

/// What the calls work on; cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Edge {
    pods: Pods,
    images: ImageStore,
    streams: Tickets,
    filesystems: Arc<Filesystems>,
    config_json: String,
    conditions: Arc<Conditions>,
    stopping: CancellationToken,
}

impl Edge {
    /// `streams` is where the streaming server finds what its clients may do; `config_json` is what the verbose Status
    /// shows of the agent's settings; it must hold no secrets.
    pub fn new(pods: Pods, images: ImageStore, streams: Tickets, config_json: String) -> Self {
        let filesystems = Arc::new(Filesystems::of(&images, &pods));
        let (conditions, stopping) = (Arc::default(), CancellationToken::new());
        Self { pods, images, streams, filesystems, config_json, conditions, stopping }
    }

    /// Ends event streams and makes [`serve`] and [`serve_streams`] return.
    pub fn stop(&self) {
        self.stopping.cancel();
    }
}
