//! Image references as people write them, normalised as Docker does: `busybox` is
//! `docker.io/library/busybox:latest`.
//!
//! Pure. Source: the grammar of the `distribution/reference` module, which Docker, containerd and the kubelet use.

use std::fmt;

use crate::{Digest, Error, Result, digest::is_hex};

/// A reference to an image in a registry, with a tag, a digest, or both; a digest counts more than a tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    /// Reads a reference; without tag and digest it means the tag `latest`.
    ///
    /// Errors: invalid, with what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason| Error::Reference { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).ok_or(invalid("its digest is not sha256 and 64 hex digits"))?),
            ),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid("its tag has a character that tags cannot have, or more than 128 of them"));
        }
        if name.len() == 64 && is_hex(name) {
            return Err(invalid("a name of 64 hex digits is an image id"));
        }
        let (host, path) = split_host(name);
        let repository = if host == DEFAULT_HOST && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if !is_host(host) {
            return Err(invalid("its registry is not a host name with an optional port"));
        }
        if !repository.split('/').all(is_component) {
            return Err(invalid(
                "its repository name must be lower-case words joined by one of . _ __ - and /",
            ));
        }
        if host.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid("its name is longer than 255 characters"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }

    /// The registry's host with its port, as written; `docker.io` when none was.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name of the repository at the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, if it has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The name with its tag, if the tag decides what the reference means, that is, if there is no digest.
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// The name with some digest.
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What to ask the registry's manifest endpoint for.
    pub(crate) fn manifest(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A colon after the last slash begins a tag; one before it belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rfind(':') {
        Some(colon) if !text[colon..].contains('/') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    }
}

/// The first component is a registry only if it cannot be the name of a user.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_HOST, path),
        Some((first, path))
            if first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase) =>
        {
            (first, path)
        }
        _ => (DEFAULT_HOST, name),
    }
}

pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("localhost", port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => host.split_once(':').map_or((host, Some("0")), |(name, port)| (name, Some(port))),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(is_label) && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_in_words =
        bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    ends_in_words
        && component
            .split(|c: char| c.is_ascii() && is_word(c as u8))
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_as_docker_does() {
        let digest = Digest::of(b"x");
        let check = |text: &str, expected: &str| {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected, "{text}");
        };
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check("index.docker.io/library/busybox", "docker.io/library/busybox:latest");
        check("user/app", "docker.io/user/app:latest");
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1");
        check("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest");
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check(
            "registry.k8s.io/e2e-test-images/busybox:1.29-4",
            "registry.k8s.io/e2e-test-images/busybox:1.29-4",
        );
        check("a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest");
        check(&format!("busybox@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox:1@{digest}"));
    }

    #[test]
    fn nonsense_is_refused() {
        let long_tag = format!("busybox:{}", "a".repeat(129));
        let long_name = "a/".repeat(130) + "a";
        let hex = "a".repeat(64);
        for text in [
            "",
            ":",
            "@",
            "/",
            "Busybox",
            "busybox:",
            "busybox@sha256:12",
            "a//b",
            "a/",
            "/a",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "host:port/a",
            "host:70000/a",
            "a b",
            "a:b:c",
            "a:tag/../x",
            "../etc",
            "[::g]:1/a",
            "a.b-/c",
            "b\u{e9}",
            &long_tag,
            &long_name,
            &hex,
        ] {
            assert!(matches!(Reference::parse(text), Err(Error::Reference { .. })), "{text}");
        }
    }

    #[test]
    fn a_digest_counts_more_than_a_tag() {
        let digest = Digest::of(b"x");
        let both = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!((both.repo_tag(), both.manifest()), (None, digest.as_str()));
        let tag = Reference::parse("busybox:1").unwrap();
        assert_eq!(tag.repo_tag().as_deref(), Some("docker.io/library/busybox:1"));
    }
}
