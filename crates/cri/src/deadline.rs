//! The client's deadline, answered in its own terms: past it a call is `DEADLINE_EXCEEDED`.
//!
//! A client sends how long it will wait as the header `grpc-timeout`, and gives up by itself at the same moment; whose
//! timer is first is chance. tonic's own answer is `CANCELLED`, which a client would take for somebody else's doing, so
//! this layer comes before it: its timer is set earlier, and asked first. The work goes on, as when a client hangs up.
//! Source: gRPC over HTTP/2, "Timeout".

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// The header with the time that a client waits.
const HEADER: &str = "grpc-timeout";

/// Puts [`Deadline`] around a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service whose calls end by their clients' deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = limit_of(request.headers());
        let answer = self.inner.call(request);
        let Some(limit) = limit else {
            return Box::pin(answer);
        };
        // The timer is set now, not when the answer is first waited for.
        let answer = timeout(limit, answer);
        Box::pin(async move {
            let passed =
                || Status::deadline_exceeded(format!("the client's deadline of {limit:?} has passed"));
            answer.await.unwrap_or_else(|_| Ok(passed().into_http()))
        })
    }
}

/// At most eight digits and a unit; a client that sends anything else has no deadline here.
fn limit_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use tonic::Code;
    use tower::service_fn;

    use super::*;

    fn request(limit: &str) -> Request<()> {
        Request::builder().header(HEADER, limit).body(()).unwrap()
    }

    #[test]
    fn the_limit_is_read_in_each_unit() {
        let check = |text, want| assert_eq!(limit_of(request(text).headers()), want, "{text:?}");
        check("2H", Some(Duration::from_secs(7200)));
        check("3M", Some(Duration::from_secs(180)));
        check("4S", Some(Duration::from_secs(4)));
        check("5m", Some(Duration::from_millis(5)));
        check("6u", Some(Duration::from_micros(6)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        for nonsense in ["", "S", "1", "123456789S", "-1S", "+1S", "1s", "1.5S"] {
            check(nonsense, None);
        }
        assert_eq!(limit_of(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_call_past_its_clients_deadline_says_so() {
        let never = service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
        let answer = DeadlineLayer.layer(never).call(request("1m")).await.unwrap();
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), Code::DeadlineExceeded);
    }
}
