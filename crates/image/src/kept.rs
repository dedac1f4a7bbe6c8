//! Which images the operator wants to keep whatever a kubelet's garbage collection thinks of them. Pure.

use crate::{Image, Reference};

/// Names of images, in which `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptImages(Vec<String>);

impl KeptImages {
    /// From patterns. One without `*` is a reference in any of its forms: `busybox` is
    /// `docker.io/library/busybox:latest`.
    pub fn new(patterns: &[String]) -> Self {
        let whole = |pattern: &String| match Reference::parse(pattern) {
            Ok(reference) => match reference.digest() {
                Some(digest) => reference.repo_digest(digest),
                None => reference.to_string(),
            },
            Err(_) => pattern.clone(),
        };
        Self(patterns.iter().map(whole).collect())
    }

    /// Whether one of the image's names fits.
    pub fn contains(&self, image: &Image) -> bool {
        let names = || image.repo_tags.iter().chain(&image.repo_digests);
        self.0.iter().any(|pattern| names().any(|name| fits(pattern, name)))
    }
}

/// The first part begins the name, the last one ends it, and those between follow each other.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        let check = |pattern: &str, name: &str, expected| {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}")
        };
        check("r/pause:3.9", "r/pause:3.9", true);
        check("r/pause:3.9", "r/pause:3.99", false);
        check("r/pause:*", "r/pause:3.9", true);
        check("r/pause:*", "r/pause", false);
        check("*", "anything", true);
        check("*:1", "r/a:1", true);
        check("*:1", "r/a:11", false);
        check("r/*/b:*", "r/a/x/b:2", true);
        check("r/*a*a:1", "r/a:1", false);
        check("", "r/a:1", false);
    }

    #[test]
    fn a_pattern_without_a_star_is_a_reference() {
        let check = |pattern: &str, expected: &str| {
            assert_eq!(KeptImages::new(&[pattern.to_owned()]).0, [expected]);
        };
        check("busybox", "docker.io/library/busybox:latest");
        check("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9");
        check("registry.k8s.io/pause:*", "registry.k8s.io/pause:*");
        let digest = crate::Digest::of(b"x");
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox@{digest}"));
    }
}
