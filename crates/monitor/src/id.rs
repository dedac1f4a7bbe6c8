//! The names of pods and containers, from which every kernel object that belongs to one gets its own name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Hexadecimal digits in an identifier: 32 random bytes, as crictl and kubelet expect of a runtime.
const DIGITS: usize = 64;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an identifier of {DIGITS} hexadecimal digits")]
pub struct BadId {
    /// What was given.
    pub text: String,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        // Shared by its clones, of which there is one in each list of all pods.
        pub struct $name(Arc<str>);

        impl $name {
            /// A new one from 32 random bytes.
            pub fn from_random(bytes: [u8; DIGITS / 2]) -> Self {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Self(digits.into())
            }

            /// The 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as crictl shows them.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        /// For a look into a sorted map: ids are in the order of their digits.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() == DIGITS && text.bytes().all(hex) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadId { text: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

identifier! {
    /// A pod sandbox: 64 lower-case hexadecimal digits, so it is safe in any path.
    PodId
}
identifier! {
    /// A container: 64 lower-case hexadecimal digits, so it is safe in any path.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hexadecimal_digits_are_an_identifier() {
        let good = PodId::from_random([0xa5; 32]);
        assert_eq!(good.as_str().parse::<PodId>(), Ok(good.clone()));
        for bad in ["", "a5", &good.as_str()[1..], &good.as_str().to_uppercase(), &"../".repeat(22)[..64]] {
            assert!(bad.parse::<PodId>().is_err(), "{bad:?}");
        }
    }
}
