//! A server with a backend of this process, and clients that speak the protocols frame by frame.

pub(crate) mod backend;
pub(crate) mod spdy;
pub(crate) mod websocket;

use std::sync::Arc;
use std::time::Duration;

use berth_stream::{
    AttachRequest, ExecRequest, PortForwardRequest, Request, Server, StreamingConfig, Tickets,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use backend::Fake;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) tickets: Tickets,
    pub(crate) backend: Arc<Fake>,
    _stopping: DropGuard,
}

pub(crate) async fn start() -> Running {
    start_with(StreamingConfig::default()).await
}

pub(crate) async fn start_with(config: StreamingConfig) -> Running {
    let server = Server::bind(&config).await.unwrap();
    let (tickets, backend, stopping) =
        (server.tickets(), Arc::new(Fake::default()), CancellationToken::new());
    tokio::spawn(server.serve(Arc::clone(&backend), stopping.clone()));
    Running { tickets, backend, _stopping: stopping.drop_guard() }
}

impl Running {
    /// A session for a command without a terminal.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        self.register_exec(command, false)
    }

    /// A session for a command with a terminal.
    pub(crate) fn exec_tty(&self, command: &[&str]) -> String {
        self.register_exec(command, true)
    }

    fn register_exec(&self, command: &[&str], tty: bool) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let (container, stderr) = ("c".to_owned(), !tty);
        let request = ExecRequest { container, command, tty, stdin: true, stdout: true, stderr };
        self.tickets.register(Request::Exec(request)).unwrap()
    }

    pub(crate) fn attach(&self) -> String {
        let container = "c".to_owned();
        let request = AttachRequest { container, tty: false, stdin: true, stdout: true, stderr: false };
        self.tickets.register(Request::Attach(request)).unwrap()
    }

    pub(crate) fn ports(&self, ports: &[u16]) -> String {
        let request = PortForwardRequest { pod: "pod".to_owned(), ports: ports.to_vec() };
        self.tickets.register(Request::PortForward(request)).unwrap()
    }
}

/// Host and port, and the path.
pub(crate) fn split(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").unwrap().1;
    rest.split_at(rest.find('/').unwrap())
}

/// Sends a request and answers with the head of the answer, what came after it, and the connection.
pub(crate) async fn request(url: &str, head: &str) -> (String, BytesMut, TcpStream) {
    let (address, path) = split(url);
    let mut socket = TcpStream::connect(address).await.unwrap();
    let text = format!("{}\r\n\r\n", head.replace("PATH", path).replace('\n', "\r\n"));
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut received = BytesMut::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(within(socket.read_buf(&mut received)).await.unwrap() > 0, "{received:?}");
    };
    let answer = String::from_utf8(received.split_to(end).to_vec()).unwrap();
    (answer, received, socket)
}

/// What comes within the time that a test waits for anything.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("waited too long")
}

/// Waits for a condition that another task brings about.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(condition(), "{what}");
}

/// The value, when it has not changed for a while.
pub(crate) async fn settled(value: impl Fn() -> usize) -> usize {
    let mut last = usize::MAX;
    within(async {
        while last != value() {
            last = value();
            let _ = tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await;
        }
    })
    .await;
    last
}
