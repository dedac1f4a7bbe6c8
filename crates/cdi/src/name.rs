//! Qualified device names, `vendor.com/class=device`.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The name of one device of one vendor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName {
    /// `vendor.com/class`.
    pub(crate) kind: String,
    pub(crate) device: String,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('=').filter(|(kind, device)| is_kind(kind) && is_device(device));
        let (kind, device) = parts.ok_or_else(|| Error::Name { name: text.to_owned() })?;
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// `vendor.com/class`: letters, digits, `_`, `-` and `.`, with a letter first and a letter or digit last in both parts.
pub(crate) fn is_kind(text: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| is_part(vendor) && is_part(class))
}

/// Letters, digits, `_`, `-`, `.` and `:`, with a letter or digit first and last.
pub(crate) fn is_device(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.:".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qualified() {
        for good in
            ["vendor.com/gpu=0", "v/c=a", "nvidia.com/gpu=GPU-1:2", "a-b.c/d_e=x.y-z", "V2/net.v1=all"]
        {
            assert_eq!(good.parse::<DeviceName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "gpu",
            "vendor.com/gpu",
            "vendor.com=0",
            "vendor.com/gpu=",
            "/gpu=0",
            "vendor.com/=0",
            "1v/gpu=0",
            "v/gpu=-0",
            "v/gpu=0-",
            "v./gpu=0",
            "v/g u=0",
            "v/gpu=0=1",
            "v/c/d=0",
            "v/gpu=\u{e9}",
        ] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
        }
    }
}
