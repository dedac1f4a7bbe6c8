//! What the server does when a network breaks; in a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "what goes wrong in a client fails its test"
)]
#![allow(dead_code, reason = "the clients can do more than is needed here")]

#[path = "streaming/support/mod.rs"]
mod support;

use std::fs::File;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::websocket::Client;
use support::{eventually, settled, start};
use tokio::time::timeout;

/// How often the kernel tries to reach a peer, in the namespace, before it gives up: by default it is 15 times.
const ATTEMPTS: u32 = 8;

/// 0.2 s after the first attempt, twice as long after each other one, and never more than 8 s: 36 s. Without that bound it
/// would be 102 s, and both take longer on a machine that is busy.
const GIVEN_UP: Duration = Duration::from_secs(70);

/// A network with nothing but its loopback.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let network = Self(Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let begun = Instant::now();
        while std::fs::read_link(network.path()).unwrap() == own {
            assert!(begun.elapsed() < Duration::from_secs(10), "no namespace");
            std::thread::yield_now();
        }
        network.run("ip", &["link", "set", "lo", "up"]);
        network.run("sysctl", &["-q", "-w", &format!("net.ipv4.tcp_retries2={ATTEMPTS}")]);
        network
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program).args(args);
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    /// Nothing arrives any more that comes from this port or goes to it.
    fn cut(&self, port: u16) {
        let rules = format!(
            "table inet cut {{
                 chain input {{
                     type filter hook input priority 0
                     tcp sport {port} drop
                     tcp dport {port} drop
                 }}
             }}"
        );
        self.run("nft", &[&rules]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root, and Linux 6.15: makes a network namespace"]
fn a_client_that_takes_nothing_may_stay_for_as_long_as_it_is_there() {
    let network = Network::new();
    let namespace = File::open(network.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    berth_sys::netns::within(namespace, || runtime.block_on(one_is_cut_off_and_one_waits(&network))).unwrap();
}

async fn one_is_cut_off_and_one_waits(network: &Network) {
    let server = start().await;
    let gone = Client::connect(&server.exec(&["yes"]), "v5.channel.k8s.io").await;
    let mut patient = Client::connect(&server.exec(&["yes"]), "v5.channel.k8s.io").await;
    let joined = || server.backend.joined.load(Ordering::SeqCst);
    eventually("started", || joined() == 2).await;
    let written = settled(|| server.backend.written.load(Ordering::SeqCst)).await;
    network.cut(gone.socket.local_addr().unwrap().port());
    let noticed = timeout(GIVEN_UP, async {
        while joined() == 2 {
            let _ = timeout(Duration::from_millis(300), std::future::pending::<()>()).await;
        }
    });
    noticed.await.expect("the server did not notice that a client is gone");
    // The other one has taken nothing for as long, and then takes more than was on its way.
    assert_eq!(joined(), 1);
    let mut read = 0;
    while read <= written {
        read += patient.frame().await.expect("the session has ended").payload.len();
    }
}
