//! Ways in for the fuzz targets, which have no business with sockets. Not part of the interface.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::Limits;
use crate::http::Client;
use crate::negotiate::Upgrade;
use crate::socket::HangUp;
use crate::{
    AttachRequest, Backend, BackendError, Duplex, ExecRequest, PortForwardRequest, Process, port_forward,
};

/// Ports that send back what they get; odd ones are closed.
struct Echo;

impl Backend for Echo {
    async fn exec(&self, _: ExecRequest) -> Result<Process, BackendError> {
        Err("no commands here".into())
    }

    async fn attach(&self, _: AttachRequest) -> Result<Process, BackendError> {
        Err("no containers here".into())
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<Box<dyn Duplex>, BackendError> {
        if !port.is_multiple_of(2) {
            return Err("nobody listens".into());
        }
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        Ok(Box::new(ours))
    }
}

/// Serves port-forward to a client that sends this and goes; returns when all has ended.
pub fn serve_ports(input: &[u8], is_tunnelled: bool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let received = Bytes::copy_from_slice(input);
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let upgrade = if is_tunnelled { Upgrade::TunnelledPorts } else { Upgrade::SpdyPorts };
        let client = Client { upgrade, socket: Box::new(ours), received, hang_up: HangUp::default() };
        let request = PortForwardRequest { pod: "pod".to_owned(), ports: Vec::new() };
        let soon = Duration::from_millis(100);
        let limits = Limits { idle: soon, stream_creation: soon, stalled_stream: soon };
        let mut answer = Vec::new();
        let reading = async {
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut answer).await;
        };
        tokio::join!(port_forward::serve(Arc::new(Echo), request, client, limits), reading);
    });
}
