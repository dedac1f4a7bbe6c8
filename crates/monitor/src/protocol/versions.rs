//! Which versions of the protocol a build speaks, and what two builds have in common.
//!
//! ```text
//! agent    2 ─ 3        a range each: from the oldest version whose other side it still understands, and is
//! monitor      3 ─ 4    understood by, to its own. What lies in both is spoken: 3 here
//! ```
//! An agent reads a monitor's range from the beginning of its greeting, [`Opening`], which is the same in all versions,
//! and says with each request which version that makes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The protocol that this build speaks.
const NEWEST: u32 = 2;

/// The oldest that it still speaks. To be raised when support for it is dropped, and never by more than what the builds
/// of a year need: a pod may be that old.
const OLDEST: u32 = 2;

/// A range of versions, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The first.
    pub oldest: u32,
    /// The last.
    pub newest: u32,
}

/// What a monitor's first message begins with, in each version; other messages don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Opening {
    /// The greeting.
    Hello {
        /// The protocol of the monitor's build.
        version: u32,
        /// The oldest that it still speaks; its own alone, if it does not say.
        oldest: Option<u32>,
    },
}

impl Versions {
    /// Those of this process: the build's, but for tests that have it pass for another one.
    pub fn spoken() -> Self {
        let pretended = berth_fault::pretence("BERTH_PROTOCOL");
        pretended.and_then(|text| Self::parse(&text)).unwrap_or(Self { oldest: OLDEST, newest: NEWEST })
    }

    /// The newest version that is in both.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// `OLDEST-NEWEST`.
    fn parse(text: &str) -> Option<Self> {
        let (oldest, newest) = text.split_once('-')?;
        Some(Self { oldest: oldest.parse().ok()?, newest: newest.parse().ok()? })
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest {
            write!(f, "version {newest}")
        } else {
            write!(f, "versions {oldest} to {newest}")
        }
    }
}

impl Opening {
    /// What the monitor speaks.
    pub fn versions(self) -> Versions {
        let Self::Hello { version, oldest } = self;
        Versions { oldest: oldest.unwrap_or(version), newest: version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_a_version_in_common_and_others_none() {
        let check = |one: &str, other: &str, want| {
            let (one, other) = (Versions::parse(one).unwrap(), Versions::parse(other).unwrap());
            assert_eq!((one.common(other), other.common(one)), (want, want), "{one}, {other}");
        };
        check("2-2", "2-2", Some(2));
        check("2-2", "2-3", Some(2));
        check("2-3", "3-4", Some(3));
        check("1-9", "2-3", Some(3));
        check("2-2", "3-4", None);
        check("2-3", "4-4", None);
    }

    #[test]
    fn a_greeting_of_any_version_says_which() {
        let check = |text, want: &str| {
            let opening: Opening = serde_json::from_str(text).unwrap();
            assert_eq!(opening.versions(), Versions::parse(want).unwrap());
        };
        check(r#"{"Hello":{"version":2,"pod":"x","pid":1}}"#, "2-2");
        check(r#"{"Hello":{"oldest":7,"version":9,"what":{"nobody":"knows"}}}"#, "7-9");
        assert!(serde_json::from_str::<Opening>(r#"{"Event":"PauseExited"}"#).is_err());
    }
}
