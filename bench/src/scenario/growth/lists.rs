//! What a kubelet asks again and again, with few and with many pods: what it takes of CPU time, how long it takes while
//! others start and stop, and while the disk is kept as busy as can be; and what starting a pod takes beside the questions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_cri_proto::v1::*;
use berth_e2e::Cri;

use super::{Stage, disk};
use crate::load::{IDLE, Life, Pod, check_interrupt, open};
use crate::measure::{Cpu, Quantiles};
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// Who takes long to answer is asked less often: so long, or a few times at least.
const LONG: Duration = Duration::from_secs(6);
const AT_LEAST: usize = 5;
/// Between two questions while the disk is busy, which is long beside an answer, and short beside a file that is written.
const INTERVAL: Duration = Duration::from_millis(10);

pub(super) fn see(stage: &Stage<'_>, findings: &mut Findings) -> Result<()> {
    let Some(first) = stage.fleet.pods.first() else { return Ok(()) };
    let calls: usize = stage.effort.pick(3, 100, 300);
    alone(stage, first, calls.div_ceil(5), findings)?;
    while_others_start(stage.peer, first, calls, findings)?;
    while_the_disk_is_busy(stage.peer, stage.effort.pick(20, 300, 1000), findings)
}

/// Asks each many times with nothing beside it, for the CPU time of a call, and for what it costs for each pod.
fn alone(stage: &Stage<'_>, pod: &Pod, calls: usize, findings: &mut Findings) -> Result<()> {
    let (peer, cri, cpu) = (stage.peer, stage.peer.cri()?, Cpu::of(stage.peer)?);
    for (name, question) in questions(pod) {
        check_interrupt()?;
        if let Err(status) = question(&cri) {
            is_unknown(status, name)?;
            continue;
        }
        let (begun, before, mut times) = (Instant::now(), cpu.used()?, Vec::new());
        while times.len() < calls && (begun.elapsed() < LONG / 10 || times.len() < AT_LEAST) {
            let asked = Instant::now();
            question(&cri).context(name)?;
            times.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        let used = cpu.used()?.saturating_sub(before).as_secs_f64() * 1e3 / times.len() as f64;
        findings.note(&peer.name, &format!("CPU of {name}"), Unit::CpuMs, used);
        // Of those that are about one pod, the others' number is none of the cost.
        if name.starts_with("List") {
            stage.note_for_each(findings, name, Unit::Us, Quantiles::of(&times).p50 * 1e3);
            stage.note_for_each(findings, name, Unit::CpuUs, used * 1e3);
        }
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

/// containerd tells the stats of no pod at all where one has stopped since it looked; a kubelet asks again.
fn is_about_one_that_goes(status: &tonic::Status) -> bool {
    status.message().contains("failed to decode sandbox container metrics")
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
                Err(status) if is_about_one_that_goes(&status) => {}
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
        // A shell that has not said a word yet would not hear that it is to end.
        let pod = life.start_to_first_line(&format!("churn-{number}"), IDLE)?;
        life.stop(&pod)?;
        times.append(&mut life.times);
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(times)
}

/// One caller lists containers, at fixed times, so that an answer that is late does not spare the next question.
fn while_the_disk_is_busy(peer: &Peer, calls: usize, findings: &mut Findings) -> Result<()> {
    let (asked, pieces) = disk::keep_busy(&peer.logs.join("ballast"), || {
        open(peer, 1, INTERVAL, calls, |cri, _| {
            cri.list_containers(Default::default()).map(drop).context("ListContainers")
        })
    })?;
    asked.iter().for_each(|time| findings.time(&peer.name, "ListContainers, disk saturated", *time));
    pieces.iter().for_each(|time| findings.time(&peer.name, "64 KiB to that disk", *time));
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
