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
/// How long the server may take to listen, and to count what it has got.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, mib, pings) = bench.effort.pick((1, 16_u64, 5), (3, 1024, 100), (5, 4096, 300));
    bench.server_rounds(rounds, |peer, round| {
        let cri = peer.cri()?;
        // What is received goes on to a program that counts it; the end of the server's input would end the client.
        let sink =
            format!("sleep 1000000 | nc -l -p {PORT} | dd of=/dev/null bs=1M iflag=fullblock 2>/tmp/counted");
        let server = Life::new(peer, &cri).start(&format!("server-{round}"), &format!("{sink} & {IDLE}"))?;
        let client = Life::new(peer, &cri).start(&format!("client-{round}"), IDLE)?;
        let address = address(&cri, &server)?;
        let listens = || run(&cri, &server, &format!("netstat -ltn | grep -q :{PORT}")).ok();
        poll(PATIENCE, listens).context("the server does not listen")?;

        let begun = Instant::now();
        run(&cri, &client, &format!("dd if=/dev/zero bs=1M count={mib} | nc {address} {PORT}"))?;
        let took = begun.elapsed().as_secs_f64();
        let counted = format!("grep '^{mib}+0 records in' /tmp/counted");
        poll(PATIENCE, || run(&cri, &server, &counted).ok()).context("not all has arrived")?;
        findings.note(&peer.name, "TCP", Unit::MibPerSecond, mib as f64 / took);
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
