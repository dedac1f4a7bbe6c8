//! What a kubelet asks again and again, with few and with many pods: what it takes of CPU time, how long it takes while
//! others start and stop, and while the disk is kept busy; and what starting one more pod takes then.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_cri_proto::v1::*;
use berth_e2e::Cri;

use super::Bench;
use crate::load::{Fleet, IDLE, Life, Pod, check_interrupt};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// What is written over and over while the disk is kept busy, and in which pieces, each of which has to reach the disk.
const BALLAST_BYTES: u64 = 64 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Who takes long to answer is asked less often: so long, or a few times at least.
const LONG: Duration = Duration::from_secs(20);
const AT_LEAST: usize = 5;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let steps: &[usize] = bench.effort.pick(&[3], &[10, 100], &[10, 100, 500]);
    let calls: usize = bench.effort.pick(3, 100, 300);
    bench.server_rounds(1, |peer, _| {
        let mut fleet = Fleet::new(peer, "lists");
        for pods in steps {
            fleet.grow(*pods, 10)?;
            findings.at([("pods", *pods)]);
            let first = fleet.pods.first().context("there are pods")?;
            alone(peer, first, calls.div_ceil(5), findings)?;
            while_others_start(peer, first, calls, findings)?;
            while_the_disk_is_busy(peer, calls, findings)?;
        }
        fleet.stop(10)?;
        Ok(())
    })
}

/// Asks each many times with nothing beside it, for the CPU time of a call.
fn alone(peer: &Peer, pod: &Pod, calls: usize, findings: &mut Findings) -> Result<()> {
    let (cri, cpu) = (peer.cri()?, Cpu::of(peer)?);
    for (name, question) in questions(pod) {
        check_interrupt()?;
        if let Err(status) = question(&cri) {
            is_unknown(status, name)?;
            continue;
        }
        let (begun, before, mut asked) = (Instant::now(), cpu.used()?, 0);
        while asked < calls && (begun.elapsed() < LONG / 10 || asked < AT_LEAST) {
            question(&cri).context(name)?;
            asked += 1;
        }
        let used = cpu.used()?.saturating_sub(before).as_secs_f64() * 1e3 / asked as f64;
        findings.note(&peer.name, &format!("CPU of {name}"), Unit::CpuMs, used);
    }
    Ok(())
}

/// A runtime may not know a question; any other error is one.
fn is_unknown(status: tonic::Status, name: &'static str) -> Result<()> {
    match status.code() == tonic::Code::Unimplemented {
        true => Ok(()),
        false => Err(status).context(name),
    }
}

/// One caller asks, and a second one starts and stops pods.
fn while_others_start(peer: &Peer, pod: &Pod, calls: usize, findings: &mut Findings) -> Result<()> {
    let done = AtomicBool::new(false);
    let (asked, churned) = beside(
        || {
            let asked = ask(peer, pod, calls);
            done.store(true, Ordering::Relaxed);
            asked
        },
        || churn(peer, &done),
    )?;
    asked.iter().for_each(|(name, time)| findings.time(&peer.name, name, *time));
    let starts = churned.iter().filter(|(name, _)| *name == "pod start");
    starts.for_each(|(_, time)| findings.time(&peer.name, "pod start beside them", *time));
    Ok(())
}

type Times = Vec<(&'static str, Duration)>;

/// Asks everything, by turns. What a runtime does not know is asked once.
fn ask(peer: &Peer, pod: &Pod, calls: usize) -> Result<Times> {
    let cri = peer.cri()?;
    let mut questions = questions(pod);
    let mut times = Times::new();
    let deadline = Instant::now() + LONG;
    for number in 0..calls {
        check_interrupt()?;
        if Instant::now() > deadline && number >= AT_LEAST {
            break;
        }
        let mut unknown = Vec::new();
        for (name, question) in &questions {
            let begun = Instant::now();
            match question(&cri) {
                Ok(()) => times.push((*name, begun.elapsed())),
                Err(status) => {
                    is_unknown(status, name)?;
                    unknown.push(*name);
                }
            }
        }
        questions.retain(|(name, _)| !unknown.contains(name));
    }
    Ok(times)
}

type Question = Box<dyn Fn(&Cri) -> std::result::Result<(), tonic::Status>>;

#[allow(clippy::result_large_err, reason = "tonic's own type")]
fn questions(pod: &Pod) -> Vec<(&'static str, Question)> {
    let (sandbox, container) = (pod.id.clone(), pod.container.clone());
    let sandbox = PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false };
    let container = ContainerStatusRequest { container_id: container, verbose: false };
    vec![
        ("ListPodSandbox", Box::new(|cri| cri.list_pod_sandbox(Default::default()).map(drop))),
        ("ListContainers", Box::new(|cri| cri.list_containers(Default::default()).map(drop))),
        ("PodSandboxStatus", Box::new(move |cri| cri.pod_sandbox_status(sandbox.clone()).map(drop))),
        ("ContainerStatus", Box::new(move |cri| cri.container_status(container.clone()).map(drop))),
        ("ListContainerStats", Box::new(|cri| cri.list_container_stats(Default::default()).map(drop))),
        ("ListPodSandboxStats", Box::new(|cri| cri.list_pod_sandbox_stats(Default::default()).map(drop))),
        ("ListPodSandboxMetrics", Box::new(|cri| cri.list_pod_sandbox_metrics(Default::default()).map(drop))),
    ]
}

/// Starts and stops one pod after the other, one at least.
fn churn(peer: &Peer, done: &AtomicBool) -> Result<Times> {
    let cri = peer.cri()?;
    let mut times = Times::new();
    for number in 0.. {
        let mut life = Life::new(peer, &cri);
        let pod = life.start(&format!("churn-{number}"), IDLE)?;
        life.stop(&pod)?;
        times.append(&mut life.times);
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(times)
}

/// One caller lists containers, and a thread writes to the disk that the runtimes' directories are on.
fn while_the_disk_is_busy(peer: &Peer, calls: usize, findings: &mut Findings) -> Result<()> {
    let done = AtomicBool::new(false);
    let (asked, _) = beside(
        || {
            let asked = list(peer, calls);
            done.store(true, Ordering::Relaxed);
            asked
        },
        || keep_disk_busy(&peer.logs.join("ballast"), &done),
    )?;
    asked.iter().for_each(|time| findings.time(&peer.name, "ListContainers, disk saturated", *time));
    Ok(())
}

fn list(peer: &Peer, calls: usize) -> Result<Vec<Duration>> {
    let cri = peer.cri()?;
    let timed = |_| {
        let begun = Instant::now();
        cri.list_containers(Default::default()).context("ListContainers")?;
        Ok(begun.elapsed())
    };
    (0..calls).map(timed).collect()
}

/// Writes the same bytes again and again, and waits for the disk each time.
fn keep_disk_busy(path: &Path, done: &AtomicBool) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let piece = vec![0x5a; PIECE_BYTES];
    while !done.load(Ordering::Relaxed) {
        file.write_all(&piece)?;
        file.sync_data()?;
        if file.stream_position()? >= BALLAST_BYTES {
            file.seek(SeekFrom::Start(0))?;
        }
    }
    std::fs::remove_file(path)?;
    Ok(())
}

/// Runs both at once; the first error counts.
fn beside<A: Send, B: Send>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B> + Send,
) -> Result<(A, B)> {
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((one?, other?))
    })
}
