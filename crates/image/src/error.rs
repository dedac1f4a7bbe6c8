//! What can go wrong with images, one variant per operation.

use std::{io, path::PathBuf, sync::Arc};

use berth_store::ErrorKind;

use crate::{Digest, ImageId};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with images. After an error nothing of what was attempted is left on the disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A reference is nonsense.
    #[error("parse image reference {text:?}: {reason}")]
    Reference {
        /// The reference as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A short image id fits several images.
    #[error("find image {text:?}: more than one image id begins with it")]
    Ambiguous {
        /// The short id.
        text: String,
    },
    /// No such image is in the store.
    #[error("find image {text:?}: not in the store")]
    NotFound {
        /// What was looked for.
        text: String,
    },
    /// A container uses the image.
    #[error("remove image {image}: in use by {holder}")]
    InUse {
        /// The image.
        image: ImageId,
        /// Who pinned it.
        holder: String,
    },
    /// A registry's settings are wrong.
    #[error("configure registry {host}: {reason}")]
    Config {
        /// The host in whose settings the fault is.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that names the places of a registry is wrong.
    #[error("read registry hosts from {} line {line}: {reason}", file.display())]
    Hosts {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key and what is wrong.
        reason: String,
    },
    /// A registry did not answer, or stopped answering.
    #[error("request {url}")]
    Request {
        /// The address without its query.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A registry answered TLS with something else.
    #[error(
        "request {url}: the registry seems to speak plain HTTP; if it should, set plain_http = true for its host below \
         registries.hosts, or write its address with http:// in hosts.toml"
    )]
    PlainHttp {
        /// The address without its query.
        url: String,
    },
    /// An endpoint can't be asked: its certificates or keys, or those of the machine, are not usable.
    #[error("prepare to ask {api}")]
    Client {
        /// The endpoint.
        api: String,
        /// Why.
        #[source]
        source: Arc<Error>,
    },
    /// Neither a mirror nor the registry itself gave what was asked for.
    #[error("ask every endpoint: {tried}")]
    Everywhere {
        /// Each endpoint and what it failed with, in the order of trying.
        tried: String,
        /// What the last of them failed with.
        last: Box<Error>,
    },
    /// A registry answered that it will not.
    #[error("request {url}: the registry answered {status}{detail}")]
    Refused {
        /// The address without its query.
        url: String,
        /// The HTTP status.
        status: reqwest::StatusCode,
        /// What the registry said about it; empty, or begins with a colon.
        detail: String,
    },
    /// A registry asks for a way of authenticating that is not known, or gave no token.
    #[error("authenticate at {url}: {reason}")]
    Authenticate {
        /// The address that asked for it, or that should give the token.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A manifest, an index or a config does not parse.
    #[error("parse {what}")]
    Document {
        /// Which document.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest, an index, a config or an archive has a form that is not supported or makes no sense.
    #[error("read {what}: {reason}")]
    Malformed {
        /// Which document or file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No entry of an index fits this machine.
    #[error("choose from the index of {what}: it has nothing for {wanted}, only {offered}")]
    NoPlatform {
        /// The index.
        what: String,
        /// This machine's platform.
        wanted: String,
        /// The platforms that the index lists.
        offered: String,
    },
    /// Content does not have the digest that it should.
    #[error("verify {what}: expected {expected}, got {actual}")]
    Mismatch {
        /// What was verified.
        what: String,
        /// The digest it should have.
        expected: Digest,
        /// The digest that it has.
        actual: Digest,
    },
    /// Content is shorter or longer than it should be.
    #[error("verify {what}: expected {expected_bytes} bytes, got {actual}")]
    Size {
        /// What was verified.
        what: String,
        /// How long it should be.
        expected_bytes: u64,
        /// How long it is, as far as was read.
        actual: String,
    },
    /// An image exceeds a limit.
    #[error("accept {what}: over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// An entry of a layer is nonsense or an attack.
    #[error("unpack {path:?}: {reason}")]
    Entry {
        /// The entry's name in the tar.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry of a layer could not be made.
    #[error("unpack {path:?}: {action}")]
    EntryIo {
        /// The entry's name in the tar.
        path: String,
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer's stream ended early or is no compressed tar.
    #[error("read layer as a tar")]
    Stream(#[source] io::Error),
    /// A layer could not be fetched or unpacked.
    #[error("unpack layer {layer}")]
    Layer {
        /// The digest of its blob, or of its tar if the blob's is not known.
        layer: Digest,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A file of the image store or of an archive could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be recorded, or the records not be read.
    #[error(transparent)]
    Store(#[from] berth_store::Error),
    /// A test broke the step.
    #[error(transparent)]
    Fault(#[from] berth_fault::Fault),
    /// A task ended without an answer: it panicked, or the runtime is shutting down.
    #[error("finish {0}: its task has gone")]
    Gone(&'static str),
    /// The same work was under way already, and it failed.
    #[error(transparent)]
    Joined(#[from] Arc<Error>),
}

impl Error {
    /// The kind that a request which met this error fails with.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. }
            | Self::Ambiguous { .. }
            | Self::Config { .. }
            | Self::Hosts { .. }
            | Self::Document { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Entry { .. } => ErrorKind::Invalid,
            Self::NotFound { .. } | Self::NoPlatform { .. } => ErrorKind::NotFound,
            Self::InUse { .. } => ErrorKind::WrongState,
            Self::Request { source, .. } if source.is_timeout() => ErrorKind::DeadlineExceeded,
            Self::Refused { status, .. } => match status.as_u16() {
                404 => ErrorKind::NotFound,
                400..=403 => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            },
            Self::Request { .. }
            | Self::PlainHttp { .. }
            | Self::Authenticate { .. }
            | Self::Mismatch { .. }
            | Self::Size { .. } => ErrorKind::Unavailable,
            Self::Client { source, .. } => source.kind(),
            Self::Everywhere { last, .. } => last.kind(),
            Self::Stream(source) if is_full(source) => ErrorKind::Exhausted,
            Self::EntryIo { source, .. } | Self::Io { source, .. } if is_full(source) => ErrorKind::Exhausted,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Stream(_) => ErrorKind::Unavailable,
            Self::EntryIo { .. } | Self::Io { .. } => ErrorKind::Internal,
            Self::Layer { source, .. } => source.kind(),
            Self::Store(source) => source.kind(),
            Self::Fault(_) | Self::Gone(_) => ErrorKind::Internal,
            Self::Joined(source) => source.kind(),
        }
    }

    /// Whether the same content could be had from another source.
    pub(crate) fn is_of_the_source(&self) -> bool {
        let kinds = [ErrorKind::Unavailable, ErrorKind::DeadlineExceeded, ErrorKind::NotFound];
        matches!(self, Self::Refused { .. } | Self::Client { .. }) || kinds.contains(&self.kind())
    }

    /// For `map_err` on what is done with files.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }
}

fn is_full(source: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&source.kind())
}
