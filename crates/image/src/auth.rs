//! Credentials, and how they become the header that a registry asks for.
//!
//! A registry that wants credentials answers 401 with a challenge: `Basic`, or `Bearer` with the address of a
//! token service. [`Auth`]'s text never reaches a log: its `Debug` shows the kind only.
//!
//! Source: distribution specification, token authentication (spec/auth/token.md, spec/auth/oauth.md).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Client;
use serde::Deserialize;

use crate::{Error, Result, registry};

/// What a client proves itself with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// A user and a password.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, which the token service exchanges for one for the registry.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

/// What a registry asks for in a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Auth {
    /// Reads base64 of `user:password`, as the CRI's `auth` field and Docker's `config.json` have it.
    pub fn from_encoded(encoded: &str) -> Option<Self> {
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        // Docker pads the password with zero bytes.
        Some(Self::Basic { username: username.into(), password: password.trim_end_matches('\0').into() })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Auth::Basic(..)",
            Self::IdentityToken(_) => "Auth::IdentityToken(..)",
            Self::RegistryToken(_) => "Auth::RegistryToken(..)",
        })
    }
}

impl Challenge {
    /// Reads one header; none if it asks for something unknown.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let value = |name: &str| parameter(parameters, name);
        Some(Self::Bearer { realm: value("realm")?, service: value("service") })
    }
}

/// The header that answers a challenge of a registry, for pulling from one repository.
pub(crate) async fn answer(
    client: &Client,
    url: &str,
    challenge: &Challenge,
    auth: Option<&Auth>,
    repository: &str,
) -> Result<String> {
    match (challenge, auth) {
        (_, Some(Auth::RegistryToken(token))) => Ok(format!("Bearer {token}")),
        (Challenge::Basic, Some(Auth::Basic { username, password })) => Ok(basic(username, password)),
        (Challenge::Basic, _) => {
            Err(Error::Authenticate { url: url.to_owned(), reason: "it wants a user and a password" })
        }
        (Challenge::Bearer { realm, service }, auth) => {
            let scope = format!("repository:{repository}:pull");
            fetch_token(client, realm, service.as_deref().unwrap_or_default(), &scope, auth).await
        }
    }
}

async fn fetch_token(
    client: &Client,
    realm: &str,
    service: &str,
    scope: &str,
    auth: Option<&Auth>,
) -> Result<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let request = match auth {
        Some(Auth::IdentityToken(token)) => client.post(realm).form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "berth"),
            ("service", service),
            ("scope", scope),
            ("refresh_token", token),
        ]),
        other => {
            let request = client.get(realm).query(&[("service", service), ("scope", scope)]);
            match other {
                Some(Auth::Basic { username, password }) => {
                    request.header(reqwest::header::AUTHORIZATION, basic(username, password))
                }
                _ => request,
            }
        }
    };
    let bytes = registry::read_document(request, realm).await?;
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|source| Error::Document { what: format!("token from {realm}"), source })?;
    // An empty token is as good as none; some services send both fields.
    let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    match token {
        Some(token) => Ok(format!("Bearer {token}")),
        None => Err(Error::Authenticate { url: realm.to_owned(), reason: "the answer has no token" }),
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// The value of `name=value` or `name="value"` in a list that commas separate, but not commas within quotes.
fn parameter(list: &str, name: &str) -> Option<String> {
    let mut rest = list;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').map_or((after, ""), |(value, _)| (value, &after[value.len()..])),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whatever_their_order_and_quoting() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        let check = |header: &str, expected| assert_eq!(Challenge::parse(header), expected, "{header}");
        check("Basic realm=\"x\"", Some(Challenge::Basic));
        check("basic", Some(Challenge::Basic));
        check(
            "Bearer realm=\"https://a/t\",service=\"s\",scope=\"r:x:pull,push\"",
            bearer("https://a/t", Some("s")),
        );
        check("bearer scope=\"a,realm=b\", service=s, realm=\"https://a\"", bearer("https://a", Some("s")));
        check("Bearer realm=https://a/t", bearer("https://a/t", None));
        check("Bearer service=\"s\"", None);
        check("Negotiate", None);
        check("Bearer realm=\"open", None);
    }

    #[test]
    fn encoded_credentials_are_read_and_never_shown() {
        let auth = Auth::from_encoded("dXNlcjpwYTpzcwA=").unwrap();
        assert_eq!(auth, Auth::Basic { username: "user".into(), password: "pa:ss".into() });
        assert_eq!(format!("{auth:?}"), "Auth::Basic(..)");
        assert_eq!(Auth::from_encoded("!"), None);
        assert_eq!(Auth::from_encoded("dXNlcg=="), None);
    }
}
