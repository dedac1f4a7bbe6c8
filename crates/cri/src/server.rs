//! The gRPC server on the agent's socket: both CRI services and berth's own.

use std::pin::pin;
use std::time::Duration;

use berth_admin_proto::v1::admin_server::AdminServer;
use berth_cri_proto::MAX_MESSAGE_BYTES;
use berth_cri_proto::v1::image_service_server::ImageServiceServer;
use berth_cri_proto::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::warn;

use crate::Edge;
use crate::deadline::DeadlineLayer;

/// How long a stopping server waits for calls under way. Their work goes on in the pods' monitors, or is undone by the
/// next agent, so nothing is lost with the answer.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Serves until the edge is told to stop ([`Edge::stop`]), then lets calls under way finish, within 5 seconds.
///
/// # Errors
/// The transport failed.
pub async fn serve(edge: Edge, listener: UnixListener) -> Result<(), tonic::transport::Error> {
    let stopping = edge.stopping.clone();
    let serving = Server::builder()
        .layer(DeadlineLayer)
        .add_service(
            RuntimeServiceServer::new(edge.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            ImageServiceServer::new(edge.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(AdminServer::new(edge).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping.cancelled());
    let mut serving = pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome,
        () = stopping.cancelled() => {}
    }
    match timeout(DRAIN_LIMIT, serving).await {
        Ok(outcome) => outcome,
        Err(_) => {
            warn!("calls were still under way when the agent stopped");
            Ok(())
        }
    }
}
