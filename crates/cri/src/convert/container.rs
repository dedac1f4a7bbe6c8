//! A container as asked for: `ContainerConfig` to [`ContainerSpec`].

use std::path::PathBuf;

use berth_container::spec::ContainerSpec;
use berth_cri_proto::v1::{ContainerConfig, ImageSpec, KeyValue};
use berth_pod::spec::SandboxSpec;

use super::{Refusal, Result, check, devices, mounts, resources, security, signals, user_namespaces};

/// Reads the whole request, in the light of the sandbox that the container is for.
pub(crate) fn container_spec_from(
    config: Option<ContainerConfig>,
    sandbox: &SandboxSpec,
) -> Result<ContainerSpec> {
    let config = config.ok_or_else(|| Refusal::missing("config"))?;
    spec_from(config, sandbox).map_err(|refusal| refusal.within("config"))
}

fn spec_from(config: ContainerConfig, sandbox: &SandboxSpec) -> Result<ContainerSpec> {
    check::no_windows(&config.windows)?;
    let metadata = config.metadata.ok_or_else(|| Refusal::missing("metadata"))?;
    let image = image_from(config.image)?;
    let linux = config.linux.unwrap_or_default();
    let (limits, oom_score_adj) =
        resources::limits_from(linux.resources).map_err(|refusal| refusal.within("linux.resources"))?;
    let context = linux.security_context.unwrap_or_default();
    let namespaces = context.namespace_options.clone().unwrap_or_default();
    user_namespaces::check_container_user_namespace(&namespaces, sandbox)
        .map_err(|refusal| refusal.within("linux.security_context.namespace_options"))?;
    let security =
        security::security_from(context).map_err(|refusal| refusal.within("linux.security_context"))?;
    if security.privileged && !sandbox.privileged {
        let problem = "is refused: the sandbox is not privileged";
        return Err(Refusal::invalid("linux.security_context.privileged", true, problem));
    }
    Ok(ContainerSpec {
        name: check::name("metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: image.image,
        user_specified_image: image.user_specified_image,
        command: check::words("command", config.command)?,
        args: check::words("args", config.args)?,
        working_dir: working_dir_from(&config.working_dir)?,
        env: config.envs.into_iter().map(variable_from).collect::<Result<_>>()?,
        mounts: mounts::volumes_from(config.mounts, sandbox.user_namespace)?,
        devices: devices::devices_from(&config.devices)?,
        cdi_devices: devices::cdi_names_from(&config.cdi_devices, &config.annotations)?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        log_path: log_path_from(&config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        limits,
        oom_score_adj,
        security,
        stop_signal: signals::number_from("stop_signal", config.stop_signal)?,
    })
}

/// An image that a request must name. It is the same for every runtime handler.
pub(crate) fn image_from(image: Option<ImageSpec>) -> Result<ImageSpec> {
    let image = image.ok_or_else(|| Refusal::missing("image"))?;
    match image.image.as_str() {
        "" => Err(Refusal::missing("image.image")),
        _ => Ok(image),
    }
}

fn working_dir_from(path: &str) -> Result<Option<PathBuf>> {
    match path {
        "" => Ok(None),
        _ => check::absolute_path("working_dir", path).map(Some),
    }
}

/// Joined to the pod's log directory, as with other runtimes also where it begins with a slash.
fn log_path_from(path: &str) -> Result<Option<PathBuf>> {
    match path.trim_start_matches('/') {
        "" if path.is_empty() => Ok(None),
        "" => Err(Refusal::invalid("log_path", path, "names no file")),
        path => check::relative_path("log_path", path).map(Some),
    }
}

/// The value may be a secret, so no refusal shows it.
fn variable_from(given: KeyValue) -> Result<(String, String)> {
    if given.key.is_empty() || given.key.contains(['=', '\0']) {
        return Err(Refusal::invalid("envs.key", given.key, "is no name of a variable"));
    }
    let field = format!("envs[{:?}]", given.key);
    match String::from_utf8(given.value) {
        Ok(value) if value.contains('\0') => Err(Refusal::secret(field, "has a NUL character")),
        Ok(value) => Ok((given.key, value)),
        Err(_) => Err(Refusal::secret(field, "is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use berth_cri_proto::v1::{
        CdiDevice, Device, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
        Mount,
    };

    use super::*;
    use crate::convert::testing::{container_config, sandbox_spec};

    fn env(key: &str, value: &[u8]) -> KeyValue {
        KeyValue { key: key.into(), value: value.to_vec() }
    }

    #[test]
    fn what_is_asked_for_is_kept() {
        let map: HashMap<String, String> = [("a/b".to_owned(), "x\ty\n".to_owned())].into();
        let config = ContainerConfig {
            command: vec!["sh".into(), "-c".into()],
            args: vec!["echo \"$A\"".into()],
            envs: vec![env("A", b"1"), env("B", b""), env("A", b"2=3")],
            log_path: "web/0.log".into(),
            labels: map.clone(),
            annotations: map.clone(),
            ..container_config()
        };
        let spec = container_spec_from(Some(config), &sandbox_spec()).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(spec.env, [pair("A", "1"), pair("B", ""), pair("A", "2=3")]);
        assert_eq!(spec.log_path, Some(PathBuf::from("web/0.log")));
        assert_eq!(
            (HashMap::from_iter(spec.labels), HashMap::from_iter(spec.annotations)),
            (map.clone(), map)
        );
        assert_eq!((spec.working_dir, spec.stop_signal, spec.oom_score_adj), (None, None, None));
    }

    #[test]
    fn nonsense_is_named() {
        let check = |want: &str, change: fn(&mut ContainerConfig)| {
            let mut config = container_config();
            change(&mut config);
            let text = container_spec_from(Some(config), &sandbox_spec()).unwrap_err().to_string();
            assert!(text.starts_with(&format!("config.{want}")), "{text}");
        };
        check("metadata: must be given", |c| c.metadata = None);
        check("metadata.name: must be given", |c| c.metadata = Some(Default::default()));
        check("image: must be given", |c| c.image = None);
        check("image.image: must be given", |c| c.image = Some(ImageSpec::default()));
        check("working_dir: \"srv\" is not an absolute", |c| c.working_dir = "srv".into());
        check("command[1]: has a NUL", |c| c.command = vec!["x".into(), "a\0".into()]);
        check("log_path: \"../x\" leads upwards", |c| c.log_path = "../x".into());
        check("log_path: \"/\" names no file", |c| c.log_path = "/".into());
        check("envs.key: \"A=B\" is no name", |c| c.envs = vec![env("A=B", b"")]);
        check("envs[\"A\"]: is not UTF-8", |c| c.envs = vec![env("A", b"\xff")]);
        check("mounts[0].container_path: \"x\"", |c| {
            c.mounts = vec![Mount { container_path: "x".into(), ..Mount::default() }];
        });
        check("devices[0].host_path: \"fuse\" is not an absolute", |c| {
            c.devices = vec![Device { host_path: "fuse".into(), ..Device::default() }];
        });
        check("CDI_devices[0].name: \"v/c\" is not of the form", |c| {
            c.cdi_devices = vec![CdiDevice { name: "v/c".into() }]
        });
        check("stop_signal: 99 ", |c| c.stop_signal = 99);
        check("linux.resources.cpu_shares: -1 is negative", |c| {
            let resources = LinuxContainerResources { cpu_shares: -1, ..Default::default() };
            c.linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
        });
    }

    #[test]
    fn a_secret_is_never_shown() {
        let config = ContainerConfig { envs: vec![env("TOKEN", b"s3cret\0")], ..container_config() };
        let text = container_spec_from(Some(config), &sandbox_spec()).unwrap_err().to_string();
        assert!(text.contains("TOKEN") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_sandbox() {
        let privileged = |sandbox_privileged| {
            let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
            let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
            let config = ContainerConfig { linux: Some(linux), ..container_config() };
            let sandbox = SandboxSpec { privileged: sandbox_privileged, ..sandbox_spec() };
            container_spec_from(Some(config), &sandbox).map_err(|refusal| refusal.to_string())
        };
        assert!(privileged(true).unwrap().security.privileged);
        assert!(privileged(false).unwrap_err().starts_with("config.linux.security_context.privileged: true"));
    }
}
