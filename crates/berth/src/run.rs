//! `berth run FILE…`: pods from manifests, with no kubelet.
//!
//! ```text
//! an agent answers on the socket        ──▶ use it
//! none does, settings were given        ──▶ embed an agent with these settings
//! none does, no settings were given     ──▶ embed an agent with private ones: directories, bridge, subnets, cgroups
//! ```
//! An embedded agent ends with the run and leaves nothing: no bridge, no table, no cgroup, and of private directories
//! no file. Images stay only where settings were given.

use crate::agent::{self, Agent};
use crate::lifecycle::StopSignals;
use crate::listener::{Occupant, occupant};
use crate::settings::{Flags, Settings};
use crate::{client, settings, telemetry};
use anyhow::{Context, Error, Result, bail};
use berth_manifest::{Dirs, Mode, Options, Outcome, Output, PodManifest, Runner};
use berth_net::{IfName, NetworkConfig, Survey};
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, id};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Where private directories are made: on a disk, since an overlay's writable layer should not take memory.
const PRIVATE_PARENT: &str = "/var/tmp";

/// What a shell reports of a command that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Manifests: Kubernetes Pods in YAML, several documents in a file allowed
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Return when all containers run, and leave them to the running agent; prints the id of each pod
    #[arg(long, short)]
    detach: bool,
    /// Directory of image archives and OCI layouts to import first, when no agent runs
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

/// How a run ended, and what of an embedded agent could not be taken down.
struct Ended {
    outcome: Result<Outcome>,
    left: Option<Error>,
}

/// Runs to the end; the exit status is that of the first container that failed.
pub(crate) fn run(flags: &Flags, args: RunArgs) -> Result<ExitCode> {
    // A manifest that makes no sense is refused before anything is started.
    let pods = args.files.iter().map(berth_manifest::load).collect::<Result<Vec<_>, _>>()?.concat();
    let mut settings = settings::load(flags)?.settings;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let agent_runs = occupant(&settings.socket())? == Occupant::Live;
    if args.detach && !agent_runs {
        return client::nobody(&settings.socket()).context("detach");
    }
    let private = if agent_runs || flags.is_given() { None } else { Some(make_private(&mut settings)?) };
    if args.images.is_some() {
        settings.images.import = args.images;
    }
    // The containers' lines are what the user came for.
    settings.log.level = "warn".to_owned();
    telemetry::start(&settings.log)?;
    let mode = if args.detach { Mode::Detach } else { Mode::Follow };
    let ended = runtime.block_on(async {
        // Before there is anything that a signal would leave behind.
        let signals = StopSignals::catch().context("catch signals")?;
        if agent_runs {
            let outcome = run_pods(&settings, pods, mode, signals).await;
            return anyhow::Ok(Ended { outcome, left: None });
        }
        embed(&settings, private.is_some(), pods, signals).await
    });
    runtime.shutdown_background();
    Ok(match clear(ended?, private)? {
        Outcome::Finished { exit_code } => ExitCode::from(u8::try_from(exit_code).unwrap_or(1)),
        Outcome::Stopped => ExitCode::from(INTERRUPTED),
        Outcome::Detached { pod_ids } => {
            for pod_id in pod_ids {
                writeln!(io::stdout(), "{pod_id}")?;
            }
            ExitCode::SUCCESS
        }
    })
}

/// Gives the settings directories, names and addresses that no other agent has; the directories go with the value.
fn make_private(settings: &mut Settings) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("berth-run.").tempdir_in(PRIVATE_PARENT)?;
    let number = id();
    settings.root = directory.path().join("root");
    settings.state = directory.path().join("state");
    settings.cgroup.root = format!("/berth-run-{number}");
    settings.network.bridge = IfName::new(format!("bthrun{number}"))?;
    settings.network.nft_table = format!("berth-run-{number}");
    choose_subnets(&mut settings.network, number)?;
    Ok(directory)
}

/// Subnets that the host is not in, which another agent's bridge would show, nor a network of the machine; whichever
/// `number` leads to first.
fn choose_subnets(network: &mut NetworkConfig, number: u32) -> Result<()> {
    for high in (0..64).map(|attempt| 128 + ((number >> 8) + attempt) % 64) {
        let low = number % 256;
        let subnets = [format!("10.{high}.{low}.0/24"), format!("fd62:6572:7468:{high:02x}{low:02x}::/64")];
        network.subnets = subnets.iter().map(|subnet| subnet.parse()).collect::<Result<_, _>>()?;
        if !Survey::new(network.clone()).overlaps_host()? {
            return Ok(());
        }
    }
    bail!(
        "choose subnets for the pods: the host is in all of 10.128.0.0/10; give others in a configuration file"
    )
}

/// Removes the private directory, unless it is needed to find what else is left. The pods' own error matters more than
/// that.
fn clear(ended: Ended, private: Option<TempDir>) -> Result<Outcome> {
    let cleared = match (ended.left, private) {
        (None, Some(directory)) => directory.close().context("remove the private directory"),
        (None, None) => Ok(()),
        (Some(left), Some(directory)) => {
            Err(left.context(format!("not everything is gone, see {}", directory.keep().display())))
        }
        (Some(left), None) => Err(left),
    };
    match (ended.outcome, cleared) {
        (Ok(outcome), cleared) => cleared.map(|()| outcome),
        (Err(failure), cleared) => {
            if let Err(left) = cleared {
                error!(error = format!("{left:#}"), "embedded agent not taken down");
            }
            Err(failure)
        }
    }
}

/// Runs the pods on an agent of our own, and takes that down whatever happens to them.
async fn embed(
    settings: &Settings,
    is_private: bool,
    pods: Vec<PodManifest>,
    signals: StopSignals,
) -> Result<Ended> {
    let agent = match Agent::start(settings).await {
        Ok(agent) => agent,
        Err(error) => {
            // However far it came: under names that no other agent has. Its own error is the one that matters.
            if is_private {
                let _ = agent::dismantle(settings).await;
            }
            return Err(error);
        }
    };
    let outcome = run_pods(settings, pods, Mode::Follow, signals).await;
    let stopped = async {
        agent.stop().await?;
        agent::dismantle(settings).await
    };
    let left = stopped.await.context("take the embedded agent down").err();
    Ok(Ended { outcome, left })
}

/// Runs the pods on the agent that answers, until they end or a signal asks for it. A second signal takes the grace
/// from those that stop; nothing ends the taking down itself.
async fn run_pods(
    settings: &Settings,
    pods: Vec<PodManifest>,
    mode: Mode,
    mut signals: StopSignals,
) -> Result<Outcome> {
    let channel = client::connect(&settings.socket()).await?;
    let dirs = run_dirs(&settings.state);
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let options =
        Options { mode, output: Output::stdout(), runtime_handler: String::new(), hurry: hurry.clone() };
    let runner = Runner::new(channel, dirs);
    let run = runner.run(pods, options, stop.clone());
    tokio::pin!(run);
    tokio::select! {
        outcome = &mut run => return Ok(outcome?),
        _ = signals.next() => stop.cancel(),
    }
    tokio::select! {
        outcome = &mut run => return Ok(outcome?),
        _ = signals.next() => hurry.cancel(),
    }
    Ok(run.await?)
}

/// Where pods of manifests have what is theirs.
pub(crate) fn run_dirs(state: &Path) -> Dirs {
    Dirs { pods: state.join("run/pods"), logs: state.join("run/logs") }
}
