//! Failures become gRPC statuses here and nowhere else.

use std::error::Error;

use berth_store::{ErrorKind, with_causes};
use tonic::{Code, Status};

use crate::convert::Refusal;

/// The longest text of a status; escaping can make it three times as long.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Why a call failed: its kind, and one line with the whole chain of causes.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    /// A failure that has no causes.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A call that the API has and this runtime does not serve.
    pub(crate) fn unimplemented(call: &str, reason: &str) -> Self {
        Self::new(ErrorKind::Unimplemented, format!("{call} is not implemented: {reason}"))
    }

    /// What kind of failure it is.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same failure under a heading that clients look for.
    pub(crate) fn headed(self, heading: &str) -> Self {
        Self { message: format!("{heading}: {}", self.message), ..self }
    }

    fn of(kind: ErrorKind, error: &dyn Error) -> Self {
        Self { kind, message: with_causes(error) }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::of(refusal.kind(), &refusal)
    }
}

impl From<berth_pod::Error> for Failure {
    fn from(error: berth_pod::Error) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<berth_stream::Error> for Failure {
    fn from(error: berth_stream::Error) -> Self {
        use berth_stream::Error;
        let kind = match error {
            Error::TooManySessions { .. } | Error::TooManySessionsOfOne { .. } => ErrorKind::Exhausted,
            Error::Config { .. } | Error::Tls { .. } | Error::Listen { .. } | Error::Token { .. } => {
                ErrorKind::Internal
            }
        };
        Self::of(kind, &error)
    }
}

impl From<berth_image::Error> for Failure {
    fn from(error: berth_image::Error) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::new(code(failure.kind), shortened(failure.message))
    }
}

/// Values are quoted as they came. A message travels in a header, and clients take only so much of those (8 KiB with
/// some): past it they would see another failure than this one.
fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let cut = (0..=MAX_MESSAGE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
        message.truncate(cut);
        message.push('…');
    }
    message
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::WrongState => Code::FailedPrecondition,
        ErrorKind::Busy => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_a_header() {
        let text = |length: usize| Failure::new(ErrorKind::Invalid, "ä".repeat(length / 2));
        assert_eq!(Status::from(text(MAX_MESSAGE_BYTES)).message().len(), MAX_MESSAGE_BYTES);
        let long = Status::from(text(1 << 20));
        assert_eq!(long.message().chars().count(), MAX_MESSAGE_BYTES / 2 + 1);
        assert!(long.message().ends_with('…'));
    }

    #[test]
    fn kinds_have_their_codes() {
        let status = Status::from(Failure::unimplemented("RestorePod", "later"));
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unimplemented, "RestorePod is not implemented: later")
        );
    }
}
