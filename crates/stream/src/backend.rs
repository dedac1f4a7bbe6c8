//! What the server needs of the runtime: the requests that sessions stand for, and the ends of what they start.
//!
//! The server calls the backend when a client has come with its token and has opened all of its streams, never before.
//! Dropping a future or an end is how it says that the client is gone; a backend undoes then what it began.

use std::future::Future;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why the backend could not do something. Its text and those of its sources are shown to the client.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// What the server needs of the runtime.
pub trait Backend: Send + Sync + 'static {
    /// Starts a command in a container.
    fn exec(&self, request: ExecRequest) -> impl Future<Output = Result<Process, BackendError>> + Send;

    /// Joins the client to the first process of a container.
    fn attach(&self, request: AttachRequest) -> impl Future<Output = Result<Process, BackendError>> + Send;

    /// Connects to a port on the loopback of a pod.
    fn port_forward(
        &self,
        pod: &str,
        port: u16,
    ) -> impl Future<Output = Result<Box<dyn Duplex>, BackendError>> + Send;
}

/// A command to start in a container, and which ends of it the client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container's id, as the client of the API named it.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether the command gets a terminal. There is no standard error then.
    pub tty: bool,
    /// Whether the client sends standard input.
    pub stdin: bool,
    /// Whether the client wants standard output.
    pub stdout: bool,
    /// Whether the client wants standard error.
    pub stderr: bool,
}

/// A container to join, and which ends of it the client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container's id, as the client of the API named it.
    pub container: String,
    /// Whether the container has a terminal. There is no standard error then.
    pub tty: bool,
    /// Whether the client sends standard input.
    pub stdin: bool,
    /// Whether the client wants standard output.
    pub stdout: bool,
    /// Whether the client wants standard error.
    pub stderr: bool,
}

/// A pod whose ports a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// The pod's id, as the client of the API named it.
    pub pod: String,
    /// The ports for clients whose protocol can't name them, which is WebSocket without SPDY inside. Others name a port
    /// with each stream, and it need not be among these.
    pub ports: Vec<u16>,
}

/// The ends of a process that a client is joined to. Those that were not asked for are absent.
pub struct Process {
    /// The end that the client's input goes to. Shut down and dropped when the client closes its own.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What goes to the client's standard output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What goes to the client's standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Sets the size of the terminal; absent without one. Must not block.
    pub resize: Option<Box<dyn Fn(TerminalSize) + Send + Sync>>,
    /// Of an exec: its exit code. Of an attach: ready when the container has ended; the code is not shown.
    ///
    /// Output is read on to its end after that, however long the client takes over it. Something left running in the
    /// background may hold that end open, so it counts as reached, too, when nothing has come for a second.
    pub exit: BoxFuture<'static, Result<i32, BackendError>>,
    /// Whether the session is over when the client has closed its input, while the process goes on. From a terminal that
    /// is at once; else what the process answers to the last of it is still sent, until nothing has come for a second, or
    /// ten have passed.
    pub ends_with_stdin: bool,
}

/// The size of a terminal in characters; neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// How many characters a line has.
    pub width: u16,
    /// How many lines there are.
    pub height: u16,
}

/// A connection in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}
