//! The wrapper of every call: a span, a clock, one line about the outcome, and a net under panics.
//!
//! Never logged: messages, for they hold environments and credentials; only the ids and names that a handler
//! records. tonic drops a handler's future when the client hangs up: the work goes on elsewhere, and the line is
//! missing then.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use berth_store::ErrorKind;
use futures_util::FutureExt;
use tonic::{Response, Status};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use crate::status::Failure;

/// A call's name, and how loud it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rpc {
    /// It changes what exists: told once.
    Change(&'static str),
    /// It is asked all the time.
    Routine(&'static str),
}

/// Runs a handler.
pub(crate) async fn call<T>(
    rpc: Rpc,
    handler: impl Future<Output = Result<T, Failure>>,
) -> Result<Response<T>, Status> {
    let (Rpc::Change(name) | Rpc::Routine(name)) = rpc;
    let span = info_span!("rpc", rpc = name, pod.id = Empty, container.id = Empty, image.ref = Empty);
    let begun = Instant::now();
    let outcome = async {
        let caught = AssertUnwindSafe(handler).catch_unwind().await;
        let outcome = caught.unwrap_or_else(|panic| Err(panicked(name, &*panic)));
        tell(rpc, &outcome, begun);
        outcome
    };
    Ok(Response::new(outcome.instrument(span).await?))
}

/// Names the pod that a call is about.
pub(crate) fn record_pod(id: &str) {
    Span::current().record("pod.id", id);
}

/// Names the container that a call is about.
pub(crate) fn record_container(id: &str) {
    Span::current().record("container.id", id);
}

/// Names the image that a call is about.
pub(crate) fn record_image(reference: &str) {
    Span::current().record("image.ref", reference);
}

fn tell<T>(rpc: Rpc, outcome: &Result<T, Failure>, begun: Instant) {
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match (outcome, rpc) {
        (Ok(_), Rpc::Change(_)) => info!(elapsed_ms, "call done"),
        (Ok(_), Rpc::Routine(_)) => debug!(elapsed_ms, "call done"),
        (Err(failure), _) if failure.kind() == ErrorKind::Internal => {
            error!(elapsed_ms, error = %failure, "call failed");
        }
        (Err(failure), Rpc::Change(_)) => warn!(elapsed_ms, error = %failure, "call failed"),
        // Asking for what does not exist, or a probe that times out, is for the client to judge.
        (Err(failure), Rpc::Routine(_)) => debug!(elapsed_ms, error = %failure, "call failed"),
    }
}

fn panicked(name: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Failure::new(ErrorKind::Internal, format!("{name} hit a defect: {text}"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error() {
        let handler = async { panic!("index out of bounds") };
        let status = call::<()>(Rpc::Change("RunPodSandbox"), handler).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "RunPodSandbox hit a defect: index out of bounds");
    }

    #[tokio::test]
    async fn an_answer_passes_through() {
        assert_eq!(call(Rpc::Routine("Version"), async { Ok(1) }).await.unwrap().into_inner(), 1);
    }
}
