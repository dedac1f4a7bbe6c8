//! What passes through a runtime's streaming server: input of a command, and connections to a port of a pod. The client
//! is crictl, over SPDY; behind a forwarded port, curl fetches from a web server in the pod.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_e2e::{eventually, repository, requests, run, spawn};

use super::Bench;
use crate::load::{Life, Pod};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// Of the server in the pod.
const PORT: u16 = 8080;
/// How long a port may take to be forwarded.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, mib, connections) = bench.effort.pick((1, 8, 5), (3, 256, 100), (5, 1024, 500));
    bench.server_rounds(rounds, |peer, round| {
        let cri = peer.cri()?;
        let data = peer.logs.join("data");
        std::fs::create_dir_all(&data).context("make a directory for what is sent")?;
        for (name, bytes) in [("large", mib << 20), ("small", 100)] {
            File::create(data.join(name))?.set_len(bytes)?;
        }
        let mut container =
            requests::shell("work", &format!("httpd -p {PORT} -h /data; {}", crate::load::IDLE));
        container.mounts.push(requests::volume(&data, "/data"));
        let request = peer.sandbox(&format!("streams-{round}"))?;
        let pod = Life::new(peer, &cri).start_sandbox(request, container)?;
        send(peer, &pod, &data.join("large"), mib, findings)?;
        forward(peer, &pod, mib, connections, findings)?;
        Life::new(peer, &cri).stop(&pod)
    })
}

fn crictl(peer: &Peer) -> std::process::Command {
    let socket = format!("unix://{}", peer.socket.display());
    let mut command = peer.command(&repository().join("hack/tools/bin/crictl"));
    command.args(["--config", "/dev/null", "-r", &socket, "-i", &socket, "-t", "30s"]);
    command
}

/// Notes a rate, and the CPU time of the runtime and of what runs in the pod.
fn timed(
    peer: &Peer,
    what: &str,
    mib: u64,
    findings: &mut Findings,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (cpu, before) = (Cpu::of(peer)?, Cpu::of(peer)?.used()?);
    let begun = Instant::now();
    work()?;
    let rate = mib as f64 / begun.elapsed().as_secs_f64();
    findings.note(&peer.name, what, Unit::MibPerSecond, rate);
    let used = cpu.used()?.saturating_sub(before).as_secs_f64() * 1024.0 / mib as f64;
    findings.note(&peer.name, &format!("CPU of {what}"), Unit::CpuSecondsPerGib, used);
    Ok(())
}

fn send(peer: &Peer, pod: &Pod, large: &Path, mib: u64, findings: &mut Findings) -> Result<()> {
    timed(peer, "input of a command", mib, findings, || {
        let count = ["exec", "-i", &pod.container, "sh", "-c", "cat >/dev/null && echo all"];
        let output = crictl(peer).args(count).stdin(File::open(large)?).output().context("run crictl")?;
        if output.stdout.trim_ascii() != b"all" {
            bail!("crictl exec said {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    })
}

fn forward(peer: &Peer, pod: &Pod, mib: u64, connections: u64, findings: &mut Findings) -> Result<()> {
    let said = peer.logs.join(format!("port-forward-{}", pod.id));
    let mut client = spawn(crictl(peer).args(["port-forward", &pod.id, &format!("{PORT}:{PORT}")]), &said);
    eventually("the port to be forwarded", PATIENCE, || {
        client.output().contains("Forwarding from").then_some(())
    });
    let fetch = |words: &[&str]| {
        run(peer.command(Path::new("curl")).args(["--silent", "--fail", "--output", "/dev/null"]).args(words))
    };
    let url = format!("http://127.0.0.1:{PORT}");
    timed(peer, "a forwarded port", mib, findings, || {
        fetch(&[&format!("{url}/large")]);
        Ok(())
    })?;
    let begun = Instant::now();
    let ten_at_once = ["--header", "Connection: close", "--parallel", "--parallel-max", "10"];
    fetch(&[&ten_at_once[..], &[&format!("{url}/small?[1-{connections}]")]].concat());
    let rate = connections as f64 / begun.elapsed().as_secs_f64();
    findings.note(&peer.name, "connections to a forwarded port", Unit::PerSecond, rate);
    client.signal(rustix::process::Signal::INT);
    client.wait(PATIENCE);
    Ok(())
}
