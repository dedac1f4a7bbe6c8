//! Fresh network namespaces for a test, and other tools' view of them.
//!
//! Each test runs its body in a child process in a network namespace of its own, which stands for the host;
//! the machine's own network is never touched, and all of it goes when the child ends, however it ends.
//! A [`Space`] is one more namespace beside that one, held by a descriptor, as a pod's is by its pause process.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_net::{Attached, Attachment, IfName, Network, PodAddresses, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

/// Set in the child to the name of its test.
const INSIDE: &str = "BERTH_NET_TEST_INSIDE";

/// Runs `body` in a fresh network namespace with its loopback up; `test` is the name of the calling test.
pub(crate) fn on_fresh_host(test: &str, body: fn()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        run("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    let child = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(INSIDE, test)
        .status()
        .unwrap();
    assert!(child.success(), "{test} failed in its namespace");
}

/// Runs a tool in the test's namespace and returns what it prints.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all links of the test's namespace but the loopback, sorted.
pub(crate) fn links() -> Vec<String> {
    let text = run("ip", &["-o", "link"]);
    let name = |line: &str| line.split([' ', '@', ':']).nth(2).unwrap().to_owned();
    let mut names: Vec<String> = text.lines().map(name).filter(|name| name != "lo").collect();
    names.sort();
    names
}

/// Runs `work` and returns what it logs.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(std::sync::Mutex::new(writer)).finish();
    tracing::subscriber::with_default(subscriber, work);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// A network namespace beside the test's.
pub(crate) struct Space {
    netns: OwnedFd,
    socket: OwnedFd,
}

impl Space {
    pub(crate) fn new() -> Self {
        let netns = fresh_namespace();
        // Protocol zero of netlink is NETLINK_ROUTE.
        let open =
            || rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        let socket = inside(&netns, open).unwrap();
        Self { netns, socket }
    }

    /// Runs `work` on a thread of its own in this namespace; sockets that it opens stay there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.netns, work)
    }

    /// Runs a tool in this namespace and returns what it prints.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let netns = format!("--net={}", self.path());
        run("nsenter", &[&[netns.as_str(), "--", program], args].concat())
    }

    /// A path that other processes can open while this value lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    pub(crate) fn up_loopback(&self) -> Result<()> {
        berth_net::up_loopback(self.socket.as_fd())
    }

    /// Waits until the kernel has taken the address into use, and fails if that takes as long as duplicate
    /// address detection would. An IPv6 address is finished by a worker of the kernel.
    pub(crate) fn await_address(&self, ip: IpAddr) {
        let family = if ip.is_ipv4() { "-4" } else { "-6" };
        let start = Instant::now();
        while !self.run("ip", &[family, "route", "show", "table", "local"]).contains(&format!("local {ip} "))
        {
            assert!(start.elapsed() < Duration::from_millis(500), "{ip} is not in use yet");
        }
    }

    pub(crate) fn listen(&self, ip: IpAddr) -> TcpListener {
        self.inside(|| TcpListener::bind((ip, 0)).unwrap())
    }

    /// Connects from here to the listener, sends one word, and returns who the listener saw.
    pub(crate) fn reach(&self, listener: &TcpListener) -> IpAddr {
        let address = listener.local_addr().unwrap();
        let stream = self.inside(|| connect(address));
        seen_by(listener, stream)
    }

    pub(crate) fn attach(
        &self,
        network: &Network,
        pod_id: &str,
        addresses: &PodAddresses,
    ) -> Result<Attached> {
        network.attach(&Attachment {
            pod_id,
            netns: self.netns.as_fd(),
            pod_socket: self.socket.as_fd(),
            host_ifname: &IfName::from_pod_id(pod_id)?,
            addresses,
        })
    }
}

/// A neighbour of the host's, 198.51.100.2, which knows the host as 198.51.100.1, and the same with 2001:db8::.
pub(crate) fn outside() -> Space {
    let outside = Space::new();
    run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &outside.path()]);
    for (own, far) in [("198.51.100.1/24", "198.51.100.2/24"), ("2001:db8::1/64", "2001:db8::2/64")] {
        let nodad: &[&str] = if own.contains(':') { &["nodad"] } else { &[] };
        run("ip", &[&["addr", "add", own, "dev", "up0"], nodad].concat());
        outside.run("ip", &[&["addr", "add", far, "dev", "eth0"], nodad].concat());
    }
    run("ip", &["link", "set", "up0", "up"]);
    outside.run("ip", &["link", "set", "eth0", "up"]);
    // Being asked for the link, the kernel makes it pass packets now rather than soon.
    run("ip", &["link", "show", "up0"]);
    outside
}

/// Connects from the test's namespace, sends one word, and returns who the listener saw.
pub(crate) fn reach_from_host(listener: &TcpListener) -> IpAddr {
    let stream = connect(listener.local_addr().unwrap());
    seen_by(listener, stream)
}

/// Long enough for a slow machine, too short for duplicate address detection or a lost first packet.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&address, Duration::from_millis(700))
        .unwrap_or_else(|e| panic!("{address}: {e}"))
}

pub(crate) fn seen_by(listener: &TcpListener, stream: TcpStream) -> IpAddr {
    use std::io::Write;
    let (mut accepted, peer) = listener.accept().unwrap();
    (&stream).write_all(b"hello").unwrap();
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    peer.ip()
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own enters the namespace and ends there")]
fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    let entered = || {
        rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(entered).join().unwrap())
}

/// A namespace that a short-lived process made, and that the descriptor keeps.
fn fresh_namespace() -> OwnedFd {
    let mut maker = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    maker.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", maker.id())).unwrap();
    drop(maker.stdin.take());
    maker.wait().unwrap();
    netns.into()
}
