//! The agent: the parts opened in the order in which they depend on each other, one server on a socket before them.
//!
//! ```text
//! socket ─▶ store ─▶ images ─▶ network ─▶ pods found again ─▶ archives imported ─▶ serving
//! ```
//! The socket comes first, so that a second agent is refused before it touches anything, and clients of an agent that
//! restarts wait in its queue instead of failing. A start that fails leaves no socket. A stop leaves all pods running:
//! they belong to their monitors, and the next agent finds them.

use crate::detached;
use crate::listener::{Listener, listen_on};
use crate::settings::{CgroupDriver, Settings, UnsetSeccomp};
use anyhow::{Context, Result};
use berth_cgroup::{CgroupPath, Cgroups, Driver};
use berth_cri::Edge;
use berth_image::{ImageStore, KeptImages};
use berth_net::{Inherited, Network};
use berth_pod::{Claims, DeviceSettings, Host, HostSettings, Pods, ProfileSpec, Records};
use berth_store::Store;
use berth_stream::Server;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info};

/// The program that becomes a zygote: this one, also after its file has been replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// An agent that serves. Dropping it without [`Agent::stop`] leaves its socket behind, for the next agent to replace.
#[derive(Debug)]
pub(crate) struct Agent {
    listener: Listener,
    parts: Parts,
}

/// What an agent consists of beside its socket.
#[derive(Debug)]
struct Parts {
    edge: Edge,
    pods: Pods,
    store: Store,
    /// Answers the calls.
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Answers the clients of exec, attach and port-forward.
    streaming: JoinHandle<()>,
    /// Removes the directories of detached pods.
    clearing: JoinHandle<()>,
    /// Removes what nobody owns.
    tidying: JoinHandle<()>,
}

impl Agent {
    /// Starts an agent; it serves when this returns. Must run inside an async runtime with several threads.
    pub(crate) async fn start(settings: &Settings) -> Result<Self> {
        let begun = Instant::now();
        let (listener, socket) = listen_on(&settings.socket())?;
        match Self::open(settings, socket).await {
            Ok(parts) => {
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                info!(socket = %settings.socket().display(), elapsed_ms, "agent serves");
                Ok(Self { listener, parts })
            }
            Err(error) => {
                listener.remove().context("remove the socket of an agent that did not start")?;
                Err(error)
            }
        }
    }

    async fn open(settings: &Settings, socket: std::os::unix::net::UnixListener) -> Result<Parts> {
        let socket = UnixListener::from_std(socket).context("watch the socket")?;
        let streams = Server::bind(&settings.streaming).await?;
        let store = Store::open(&settings.root).await?;
        let images =
            ImageStore::open(&settings.root.join("images"), store.clone(), settings.registries.clone())
                .await?;
        images.keep(KeptImages::new(&settings.images.pinned));
        let records = Records::read(&store).await.context("read what an earlier agent recorded")?;
        let host = open_host(settings, store.clone(), images.clone(), records.network()).await?;
        let pods = Pods::recover(host, records).await.context("find the pods of an earlier agent")?;
        if let Some(directory) = &settings.images.import {
            import_all(&images, directory).await;
        }
        let clearing = detached::clear_after(&pods, &settings.state);
        let tidying = tokio::spawn(tidy(pods.clone(), settings.reconciliation.period_seconds));
        let edge = Edge::new(pods.clone(), images, streams.tickets(), shown(settings)?);
        let streaming = tokio::spawn(berth_cri::serve_streams(edge.clone(), streams));
        let serving = tokio::spawn(berth_cri::serve(edge.clone(), socket));
        Ok(Parts { edge, pods, store, serving, streaming, clearing, tidying })
    }

    /// Waits until a part of the agent ends, which none does by itself unless something is broken. Dropping the future
    /// loses nothing; an agent that has ended can't be stopped any more.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.parts.ended().await
    }

    /// Lets calls under way finish, for a few seconds, and closes everything. Pods run on.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { listener, parts } = self;
        parts.edge.stop();
        parts.serving.await.context("serve")?.context("serve")?;
        parts.streaming.await.context("serve streams")?;
        parts.clearing.abort();
        parts.tidying.abort();
        parts.pods.close().await;
        listener.remove().context("remove the socket")?;
        parts.store.close().await;
        Ok(())
    }
}

impl Parts {
    async fn ended(&mut self) -> Result<()> {
        tokio::select! {
            served = &mut self.serving => served.context("serve")?.context("serve"),
            streamed = &mut self.streaming => streamed.context("serve streams"),
            cleared = &mut self.clearing => cleared.context("remove directories of detached pods"),
            tidied = &mut self.tidying => tidied.context("remove what nobody owns"),
        }
    }
}

/// Ends with the agent, also where it has nothing to do.
async fn tidy(pods: Pods, period_seconds: u32) {
    match period_seconds {
        0 => std::future::pending().await,
        seconds => pods.tidy_every(Duration::from_secs(seconds.into())).await,
    }
}

/// Removes what an agent that has stopped keeps for its pods when there are none: bridge, table, cgroup, and the
/// files by which it has claimed these, which nobody else could have.
pub(crate) async fn dismantle(settings: &Settings) -> Result<()> {
    let (network, cgroup_root) = (settings.network.clone(), CgroupPath::new(&settings.cgroup.root)?);
    spawn_blocking(move || {
        Claims::remove_files(&network, &cgroup_root)?;
        Network::open(network)?.teardown()?;
        Cgroups::detect()?.open(&cgroup_root).remove(Duration::ZERO)?;
        Ok(())
    })
    .await?
}

/// Opening the network and finding the cgroups asks the kernel for things it may take its time over.
async fn open_host(
    settings: &Settings,
    store: Store,
    images: ImageStore,
    inherited: Inherited,
) -> Result<Host> {
    let network = settings.network.clone();
    let host = HostSettings {
        root: settings.root.clone(),
        state: settings.state.clone(),
        cgroup_root: CgroupPath::new(&settings.cgroup.root)?,
        cgroup_driver: match settings.cgroup.driver {
            CgroupDriver::Cgroupfs => Driver::Cgroupfs,
            CgroupDriver::Systemd => Driver::Systemd,
        },
        handlers: settings
            .handlers
            .clone()
            .into_iter()
            .map(|(name, handler)| (name, handler.into()))
            .collect(),
        zygote_program: PathBuf::from(OWN_PROGRAM),
        ignore_image_volumes: settings.images.ignore_volumes,
        devices: DeviceSettings {
            cdi_directories: settings.devices.cdi_directories.clone(),
            owned_by_container: settings.devices.ownership_from_security_context,
        },
        log_line_bytes: settings.limits.log_line_bytes as usize,
        exec_output_bytes: settings.limits.exec_output_bytes as usize,
        spare_sandboxes: settings.sandboxes.spare as usize,
        unset_seccomp: match settings.security.unset_seccomp {
            UnsetSeccomp::Unconfined => ProfileSpec::Unconfined,
            UnsetSeccomp::RuntimeDefault => ProfileSpec::RuntimeDefault,
        },
    };
    spawn_blocking(move || {
        // First: to open the network puts its table in place of what is there.
        let claims = Claims::take(&network, &host.cgroup_root)?;
        let network = Network::open_again(network, inherited).context("make the host's network ready")?;
        Ok(Host::new(host, claims, store, images, network)?)
    })
    .await?
}

/// Imports every archive in a directory, in the order of their names. One that is broken must not keep a node from its
/// other images, nor from serving.
async fn import_all(images: &ImageStore, directory: &Path) {
    let owned = directory.to_owned();
    let listed = async { anyhow::Ok(spawn_blocking(move || entries(&owned)).await??) }.await;
    if let Err(error) = &listed {
        error!(directory = %directory.display(), error = format!("{error:#}"), "images not imported");
    }
    for path in listed.unwrap_or_default() {
        if let Err(error) = images.import(&path).await {
            let error = anyhow::Error::from(error);
            error!(archive = %path.display(), error = format!("{error:#}"), "image archive not imported");
        }
    }
}

fn entries(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// In the place of a secret.
const REDACTED: &str = "(redacted)";

/// The settings as clients may see them, who are not all allowed to read the file: without passwords, and without what
/// headers say, which may be a token. The last keys are for clients that know another runtime's settings.
fn shown(settings: &Settings) -> Result<String> {
    let mut shown = settings.clone();
    for host in shown.registries.hosts.values_mut() {
        host.password
            .iter_mut()
            .chain(host.headers.values_mut())
            .for_each(|secret| *secret = REDACTED.to_owned());
    }
    let mut shown = serde_json::to_value(&shown)?;
    shown["maxContainerLogLineSize"] = settings.limits.log_line_bytes.into();
    shown["rootDir"] = shown["root"].clone();
    shown["stateDir"] = shown["state"].clone();
    Ok(shown.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let text = "[registries.hosts.\"r.example\"]\nusername = 'ann'\npassword = 's3cret'\n\
                    headers = { Authorization = 'Bearer t0ken' }";
        let settings: Settings = toml::from_str(text).unwrap();
        let shown = shown(&settings).unwrap();
        assert!(shown.contains("ann") && shown.contains("Authorization"), "{shown}");
        assert_eq!(shown.matches(REDACTED).count(), 2, "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
        assert!(shown.contains("\"maxContainerLogLineSize\":16384"), "{shown}");
    }
}
