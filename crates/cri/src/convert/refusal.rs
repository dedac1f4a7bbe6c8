//! Why a message is refused before anything is done.

use std::fmt::Debug;

use berth_store::ErrorKind;

/// The result of a conversion on the way in.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// A field that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub(crate) struct Refusal {
    /// The path of the field in the message, as the API spells it.
    field: String,
    /// The value and what is wrong with it.
    fault: String,
    kind: ErrorKind,
}

impl Refusal {
    /// The value makes no sense: "`value` `problem`", such as "-1 is negative".
    pub(crate) fn invalid(field: impl Into<String>, value: impl Debug, problem: &str) -> Self {
        Self { field: field.into(), fault: format!("{value:?} {problem}"), kind: ErrorKind::Invalid }
    }

    /// The same for a value that must not be shown.
    pub(crate) fn secret(field: impl Into<String>, problem: &str) -> Self {
        Self { field: field.into(), fault: problem.to_owned(), kind: ErrorKind::Invalid }
    }

    /// A field without which the message says nothing.
    pub(crate) fn missing(field: impl Into<String>) -> Self {
        Self::secret(field, "must be given")
    }

    /// The value makes sense, and this runtime does not serve it.
    pub(crate) fn unimplemented(field: impl Into<String>, value: impl Debug) -> Self {
        Self {
            field: field.into(),
            fault: format!("{value:?} is not implemented"),
            kind: ErrorKind::Unimplemented,
        }
    }

    /// Invalid or unimplemented.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same refusal, seen from the message in which this field's message lies.
    pub(crate) fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
