//! Between two pods over the bridge: how much, and how soon.
//!
//! The programs in the pods are busybox's, which do little beside their system calls; the road between them is what
//! differs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::{ExecSyncRequest, PodSandboxStatusRequest};
use berth_e2e::{Cri, poll};

use super::Bench;
use crate::load::{IDLE, Life, Pod};
use crate::report::{Findings, Unit};

const PORT: u16 = 5001;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, mib, pings) = bench.effort.pick((1, 16, 5), (3, 1024, 100), (5, 4096, 300));
    bench.rounds(rounds, |peer, round| {
        let cri = peer.cri()?;
        let script = format!("nc -l -p {PORT} >/dev/null & {IDLE}");
        let server = Life::new(peer, &cri).start(&format!("server-{round}"), &script)?;
        let client = Life::new(peer, &cri).start(&format!("client-{round}"), IDLE)?;
        let address = address(&cri, &server)?;
        let listens = || run(&cri, &server, &format!("netstat -ltn | grep -q :{PORT}")).ok();
        poll(Duration::from_secs(10), listens).context("the server does not listen")?;

        let begun = Instant::now();
        run(&cri, &client, &format!("dd if=/dev/zero bs=1M count={mib} | nc {address} {PORT}"))?;
        findings.note(&peer.name, "TCP", Unit::MibPerSecond, f64::from(mib) / begun.elapsed().as_secs_f64());
        let said = run(&cri, &client, &format!("ping -q -A -c {pings} {address}"))?;
        let time = round_trip(&said).with_context(|| format!("ping said {said:?}"))?;
        findings.note(&peer.name, "round trip, mean", Unit::Ms, time);

        [server, client].iter().try_for_each(|pod| Life::new(peer, &cri).stop(pod))
    })
}

fn address(cri: &Cri, pod: &Pod) -> Result<String> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = cri.pod_sandbox_status(request).context("PodSandboxStatus")?.status;
    Ok(status.and_then(|status| status.network).context("the pod has no network")?.ip)
}

/// Runs a script in a pod's container, to a success; returns what it prints.
fn run(cri: &Cri, pod: &Pod, script: &str) -> Result<String> {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 60 };
    let reply = cri.exec_sync(request).context("ExecSync")?;
    if reply.exit_code != 0 {
        bail!("{script} ended with {}: {}", reply.exit_code, String::from_utf8_lossy(&reply.stderr));
    }
    Ok(String::from_utf8_lossy(&reply.stdout).into_owned())
}

/// Of `round-trip min/avg/max = 0.048/0.062/0.094 ms`, the second.
fn round_trip(said: &str) -> Option<f64> {
    said.split_once("min/avg/max = ")?.1.split('/').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::round_trip;

    #[test]
    fn the_mean_of_a_ping_is_found() {
        let said = "5 packets transmitted, 5 received\nround-trip min/avg/max = 0.048/0.062/0.094 ms\n";
        assert_eq!(round_trip(said), Some(0.062));
        assert_eq!(round_trip("nothing came back"), None);
    }
}
