//! The streaming server's view of the pods: what a client that comes with a token is joined to.
//!
//! Requests were checked when their token was given out, but containers may have ended since; so everything is asked
//! of the pods again, and their errors are what the client reads.

use std::sync::Arc;

use berth_pod::{Command, Pods, Process, Wanted};
use berth_stream::{
    AttachRequest, Backend, BackendError, Duplex, ExecRequest, Process as Ends, Server, TerminalSize,
};

use crate::Edge;
use crate::convert::{Refusal, Result};

/// Serves the clients of Exec, Attach and PortForward until the edge is told to stop ([`Edge::stop`]).
pub async fn serve_streams(edge: Edge, server: Server) {
    server.serve(Arc::new(Joiner(edge.pods)), edge.stopping).await;
}

/// At least one stream, and no standard error beside a terminal, in which it is part of the output.
pub(crate) fn check_streams(tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<()> {
    if !(stdin || stdout || stderr) {
        return Err(Refusal::secret("stdin, stdout, stderr", "at least one must be set"));
    }
    if tty && stderr {
        return Err(Refusal::invalid("stderr", stderr, "can't be had with tty: a terminal has one output"));
    }
    Ok(())
}

/// Joins clients to processes and ports.
struct Joiner(Pods);

impl Backend for Joiner {
    async fn exec(&self, request: ExecRequest) -> std::result::Result<Ends, BackendError> {
        let ExecRequest { container, command, tty, stdin, stdout, stderr } = request;
        let command = Command { args: command, tty, wanted: Wanted { stdin, stdout, stderr } };
        Ok(ends(self.0.exec(&container, command).await?))
    }

    async fn attach(&self, request: AttachRequest) -> std::result::Result<Ends, BackendError> {
        let AttachRequest { container, tty: _, stdin, stdout, stderr } = request;
        Ok(ends(self.0.attach(&container, Wanted { stdin, stdout, stderr }).await?))
    }

    async fn port_forward(&self, pod: &str, port: u16) -> std::result::Result<Box<dyn Duplex>, BackendError> {
        Ok(Box::new(self.0.port_forward(pod, port).await?))
    }
}

fn ends(process: Process) -> Ends {
    let Process { stdin, stdout, stderr, terminal, exit, ends_with_stdin } = process;
    let resize = terminal.map(|terminal| {
        Box::new(move |size: TerminalSize| terminal.resize(size.width, size.height)) as Box<_>
    });
    Ends {
        stdin: stdin.map(|input| Box::new(input) as Box<_>),
        stdout: stdout.map(|output| Box::new(output) as Box<_>),
        stderr: stderr.map(|output| Box::new(output) as Box<_>),
        resize,
        exit: Box::pin(async { exit.await.map_err(BackendError::from) }),
        ends_with_stdin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_stream_must_be_asked_for_and_a_terminal_has_no_errors() {
        let check = |tty, streams, good| {
            assert_eq!(check_streams(tty, streams).is_ok(), good, "{tty} {streams:?}");
        };
        check(false, [false, false, false], false);
        check(true, [false, false, false], false);
        check(false, [true, false, false], true);
        check(false, [true, true, true], true);
        check(true, [true, true, false], true);
        check(true, [true, true, true], false);
    }
}
