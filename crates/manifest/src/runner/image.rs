//! The image of a container before it runs: present as the pull policy says, and with a user that may run.
//!
//! Looked at once per run, not at each restart.

use berth_cri_proto::v1::{Image, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use tracing::info;

use super::{RunError, calls::Cri};
use crate::security::{run_as_non_root, run_as_user};

/// Makes the image of `container` present. Safe to drop; whether the runtime goes on with a pull is its own affair (berth's does).
///
/// Errors: the pull fails, the image is absent and must not be pulled, or it would run as root where it must not.
pub(crate) async fn fetch_image(
    cri: &Cri,
    spec: &PodSpec,
    container: &Container,
    sandbox: &PodSandboxConfig,
) -> Result<(), RunError> {
    let name = container.image.clone().unwrap_or_default();
    let policy = pull_policy(container, &name);
    let mut image = cri.image(&name).await?;
    if policy == PullPolicy::Always || (policy == PullPolicy::IfNotPresent && image.is_none()) {
        info!(image.ref = %name, "pulling image");
        cri.pull_image(&name, sandbox).await?;
        image = cri.image(&name).await?;
    }
    let image =
        image.ok_or_else(|| RunError::ImageAbsent { container: container.name.clone(), image: name })?;
    refuse_root(spec, container, &image)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Without a policy: Always for the tag latest, which is also the tag of a name without one.
fn pull_policy(container: &Container, image: &str) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => return PullPolicy::Always,
        Some("IfNotPresent") => return PullPolicy::IfNotPresent,
        Some("Never") => return PullPolicy::Never,
        _ => {}
    }
    let last_part = image.rsplit('/').next().unwrap_or(image);
    match last_part.split_once(':') {
        _ if image.contains('@') => PullPolicy::IfNotPresent,
        None | Some((_, "latest")) => PullPolicy::Always,
        Some(_) => PullPolicy::IfNotPresent,
    }
}

/// As the kubelet: a user given by name only can't be proven not to be root.
fn refuse_root(spec: &PodSpec, container: &Container, image: &Image) -> Result<(), RunError> {
    let by_image = image.uid.as_ref().map(|uid| uid.value);
    let user = match run_as_user(spec, container).or(by_image) {
        Some(uid) if uid != 0 => return Ok(()),
        Some(_) => "root".to_owned(),
        None if image.username.is_empty() => "root".to_owned(),
        None => format!("{:?}, a name and not a number", image.username),
    };
    if run_as_non_root(spec, container) {
        Err(RunError::RunsAsRoot { container: container.name.clone(), user })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use berth_cri_proto::v1::Int64Value;

    use super::*;

    fn container(fields: &str) -> Container {
        serde_norway::from_str(&format!("{{name: c, {fields}}}")).unwrap()
    }

    #[test]
    fn images_are_pulled_as_kubernetes_says() {
        use PullPolicy::{Always, IfNotPresent, Never};
        for (fields, image, expected) in [
            ("", "web", Always),
            ("", "web:latest", Always),
            ("", "host:5000/web", Always),
            ("", "host:5000/web:1", IfNotPresent),
            ("", "web@sha256:00", IfNotPresent),
            ("imagePullPolicy: Never", "web", Never),
            ("imagePullPolicy: IfNotPresent", "web", IfNotPresent),
            ("imagePullPolicy: Always", "web:1", Always),
        ] {
            assert_eq!(pull_policy(&container(fields), image), expected, "{fields} {image}");
        }
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let image = |uid: Option<i64>, username: &str| Image {
            uid: uid.map(|value| Int64Value { value }),
            username: username.to_owned(),
            ..Default::default()
        };
        for (context, image, good) in [
            ("runAsNonRoot: true", image(Some(0), ""), false),
            ("runAsNonRoot: true", image(Some(7), ""), true),
            ("runAsNonRoot: true", image(None, "web"), false),
            ("runAsNonRoot: true", image(None, ""), false),
            ("runAsNonRoot: true, runAsUser: 5", image(None, ""), true),
            ("runAsNonRoot: true, runAsUser: 0", image(Some(7), ""), false),
            ("runAsNonRoot: false", image(Some(0), ""), true),
            ("", image(None, "web"), true),
        ] {
            let container = container(&format!("securityContext: {{{context}}}"));
            assert_eq!(refuse_root(&PodSpec::default(), &container, &image).is_ok(), good, "{context}");
        }
    }
}
