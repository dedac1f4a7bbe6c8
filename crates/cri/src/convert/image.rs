//! What is told of an image, and the credentials of a pull.

use std::collections::HashMap;

use berth_cri_proto::v1::{AuthConfig, Image as Told, ImageSpec, Int64Value};
use berth_image::{Auth, Image, Reference};
use serde_json::{Value, json};

use super::{Refusal, Result};

/// An image as lists and status have it, but for what the store alone knows: whether it is to be kept.
pub(crate) fn image_of(image: &Image) -> Told {
    let id = image.id.to_string();
    let (uid, username) = user_of(&image.config.user);
    Told {
        spec: Some(ImageSpec { image: id.clone(), image_ref: id.clone(), ..ImageSpec::default() }),
        id,
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes(),
        uid,
        username,
        pinned: false,
    }
}

/// The verbose answer, of the same form as containerd's: the top layer and the image's own configuration.
pub(crate) fn image_info_of(image: &Image, config_json: &[u8]) -> HashMap<String, String> {
    let info = json!({
        "chainID": image.layers.last().map(|layer| &layer.chain_id),
        "imageSpec": serde_json::from_slice::<Value>(config_json).unwrap_or_default(),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The credentials for a pull of `image`; none if there are none, or if they are meant for another host.
pub(crate) fn auth_from(auth: Option<AuthConfig>, image: &str) -> Result<Option<Auth>> {
    let Some(auth) = auth else {
        return Ok(None);
    };
    if !is_for(&auth.server_address, image) {
        return Ok(None);
    }
    let secret = |text: String| Some(text).filter(|text| !text.is_empty());
    if let Some(username) = secret(auth.username) {
        return Ok(Some(Auth::Basic { username, password: auth.password }));
    }
    if let Some(token) = secret(auth.identity_token) {
        return Ok(Some(Auth::IdentityToken(token)));
    }
    if let Some(token) = secret(auth.registry_token) {
        return Ok(Some(Auth::RegistryToken(token)));
    }
    match secret(auth.auth) {
        None => Ok(None),
        Some(encoded) => Auth::from_encoded(&encoded)
            .map(Some)
            .ok_or_else(|| Refusal::secret("auth.auth", "is not base64 of user:password")),
    }
}

/// The user as a number if it is one, else as a name. The group, after a colon, is not asked for.
fn user_of(user: &str) -> (Option<Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(uid) => (Some(Int64Value { value: uid.into() }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// Whether credentials for `server`, which may be a URL, belong to the registry of `image`. Without a server they
/// belong to any. An image that is no reference is refused later.
fn is_for(server: &str, image: &str) -> bool {
    let Ok(reference) = Reference::parse(image) else {
        return true;
    };
    let without_scheme = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = without_scheme.split('/').next().unwrap_or_default();
    match host {
        "" => true,
        // The names under which Docker's registry goes in credential files.
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => reference.host() == "docker.io",
        host => reference.host() == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name() {
        let check = |user: &str, uid: Option<i64>, name: &str| {
            assert_eq!(user_of(user), (uid.map(|value| Int64Value { value }), name.to_owned()), "{user:?}");
        };
        check("", None, "");
        check("0", Some(0), "");
        check("1000:1000", Some(1000), "");
        check("www-data:www-data", None, "www-data");
    }

    #[test]
    fn credentials_come_in_four_forms() {
        let check = |auth: AuthConfig, want: Option<Auth>| {
            assert!(auth_from(Some(auth), "r.example/x").unwrap() == want);
        };
        let basic = || Some(Auth::Basic { username: "ann".into(), password: "pw".into() });
        check(AuthConfig::default(), None);
        check(AuthConfig { username: "ann".into(), password: "pw".into(), ..Default::default() }, basic());
        check(AuthConfig { auth: "YW5uOnB3".into(), ..Default::default() }, basic());
        check(
            AuthConfig { identity_token: "i".into(), ..Default::default() },
            Some(Auth::IdentityToken("i".into())),
        );
        check(
            AuthConfig { registry_token: "r".into(), ..Default::default() },
            Some(Auth::RegistryToken("r".into())),
        );
        let bad = AuthConfig { auth: "s3cret!".into(), ..Default::default() };
        let text = auth_from(Some(bad), "x").unwrap_err().to_string();
        assert_eq!(text, "auth.auth: is not base64 of user:password");
    }

    #[test]
    fn credentials_go_to_their_own_host_only() {
        let check =
            |server: &str, image: &str, want| assert_eq!(is_for(server, image), want, "{server} {image}");
        check("", "busybox", true);
        check("https://index.docker.io/v1/", "busybox", true);
        check("https://index.docker.io/v1/", "r.example/busybox", false);
        check("r.example:5000", "r.example:5000/busybox", true);
        check("http://r.example:5000/v2/", "r.example:5000/busybox", true);
        check("r.example", "r.example:5000/busybox", false);
    }
}
