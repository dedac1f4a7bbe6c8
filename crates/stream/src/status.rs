//! The last word of a session, on its error stream. Pure.
//!
//! From v4 on it is a Status object of the Kubernetes API, also for success; before, it is text, and none for success.
//! An exit code other than zero is no failure of the transport: it has a reason of its own, and the code as its cause.

use bytes::Bytes;
use serde::Serialize;

/// How the last word is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusFormat {
    /// As text.
    Text,
    /// As a Status.
    Json,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended by itself, or the container that was attached to; with zero.
    Success,
    /// The command ended with another code.
    ExitCode(i32),
    /// It could not be done.
    Failure(String),
}

#[derive(Serialize)]
struct Status<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Outcome {
    /// What is sent; nothing at all for the success of an old protocol.
    pub(crate) fn message(&self, format: StatusFormat) -> Bytes {
        match format {
            StatusFormat::Text => self.text().unwrap_or_default().into(),
            StatusFormat::Json => serde_json::to_vec(&self.status()).unwrap_or_default().into(),
        }
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::ExitCode(code) => Some(format!("command terminated with non-zero exit code: {code}")),
            Self::Failure(reason) => Some(format!("Internal error occurred: {reason}")),
        }
    }

    fn status(&self) -> Status<'static> {
        let message = self.text();
        match self {
            Self::Success => Status { status: "Success", message, reason: None, details: None, code: None },
            Self::ExitCode(code) => Status {
                status: "Failure",
                message,
                reason: Some("NonZeroExitCode"),
                details: Some(Details { causes: [Cause { reason: "ExitCode", message: code.to_string() }] }),
                code: None,
            },
            Self::Failure(_) => Status {
                status: "Failure",
                message,
                reason: Some("InternalError"),
                details: None,
                code: Some(500),
            },
        }
    }
}

/// An error with all of its sources, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_reads_as_clients_expect() {
        let failure = || Outcome::Failure("start: no".into());
        let cases = [
            (Outcome::Success, "", r#"{"status":"Success"}"#),
            (
                Outcome::ExitCode(3),
                "command terminated with non-zero exit code: 3",
                r#"{"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
            ),
            (
                failure(),
                "Internal error occurred: start: no",
                r#"{"status":"Failure","message":"Internal error occurred: start: no","reason":"InternalError","code":500}"#,
            ),
        ];
        for (outcome, text, json) in cases {
            assert_eq!(outcome.message(StatusFormat::Text), text);
            assert_eq!(outcome.message(StatusFormat::Json), json);
        }
    }
}
