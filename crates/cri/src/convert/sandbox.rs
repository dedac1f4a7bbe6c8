//! A pod's sandbox as asked for: `PodSandboxConfig` to [`SandboxSpec`].

use std::path::PathBuf;

use berth_cgroup::CgroupPath;
use berth_cri_proto::v1::{DnsConfig, PodSandboxConfig, PodSandboxMetadata};
use berth_pod::spec::{DnsSpec, PodIdentity, SandboxSpec};

use super::{Refusal, Result, check, namespaces, ports, resources, security, sysctls};

/// The kernel's limit. Source: uts_namespaces(7), `__NEW_UTS_LEN`.
const MAX_HOSTNAME_BYTES: usize = 64;

/// Reads the whole request.
pub(crate) fn sandbox_spec_from(
    config: Option<PodSandboxConfig>,
    runtime_handler: String,
) -> Result<SandboxSpec> {
    let config = config.ok_or_else(|| Refusal::missing("config"))?;
    spec_from(config, runtime_handler).map_err(|refusal| refusal.within("config"))
}

fn spec_from(config: PodSandboxConfig, runtime_handler: String) -> Result<SandboxSpec> {
    let identity = identity_from(config.metadata)?;
    check::no_windows(&config.windows)?;
    let linux = config.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    security::check_sandbox_security(&context).map_err(|refusal| refusal.within("linux.security_context"))?;
    let options = context.namespace_options.unwrap_or_default();
    let namespaces = namespaces::pod_namespaces_from(&options)
        .map_err(|refusal| refusal.within("linux.security_context.namespace_options"))?;
    let sysctls = sysctls::sysctls_from(linux.sysctls, namespaces.net, namespaces.ipc)
        .map_err(|refusal| refusal.within("linux"))?;
    let ports = ports::ports_from(&config.port_mappings, namespaces.net)?;
    Ok(SandboxSpec {
        identity,
        hostname: hostname_from(config.hostname)?,
        log_directory: log_directory_from(&config.log_directory)?,
        dns: config.dns_config.map(dns_from).transpose().map_err(|refusal| refusal.within("dns_config"))?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        cgroup_parent: cgroup_parent_from(linux.cgroup_parent).map_err(|refusal| refusal.within("linux"))?,
        sysctls,
        ports,
        net: namespaces.net,
        ipc: namespaces.ipc,
        pid: namespaces.pid,
        user_namespace: namespaces.user,
        privileged: context.privileged,
        resources: resources::pod_resources_from(linux.overhead, linux.resources)
            .map_err(|refusal| refusal.within("linux"))?,
        runtime_handler,
    })
}

fn identity_from(metadata: Option<PodSandboxMetadata>) -> Result<PodIdentity> {
    let metadata = metadata.ok_or_else(|| Refusal::missing("metadata"))?;
    Ok(PodIdentity {
        name: check::name("metadata.name", metadata.name)?,
        namespace: check::name("metadata.namespace", metadata.namespace)?,
        uid: check::name("metadata.uid", metadata.uid)?,
        attempt: metadata.attempt,
    })
}

fn hostname_from(hostname: String) -> Result<String> {
    if hostname.len() > MAX_HOSTNAME_BYTES {
        return Err(Refusal::invalid("hostname", hostname, "is longer than 64 bytes"));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !hostname.bytes().all(is_plain) || hostname.starts_with(['-', '.']) {
        return Err(Refusal::invalid("hostname", hostname, "is no host name"));
    }
    Ok(hostname)
}

fn log_directory_from(directory: &str) -> Result<Option<PathBuf>> {
    match directory {
        "" => Ok(None),
        _ => check::absolute_path("log_directory", directory).map(Some),
    }
}

/// A present and empty configuration is kept: it asks for an empty resolv.conf, and only an absent one for the host's.
fn dns_from(config: DnsConfig) -> Result<DnsSpec> {
    let word = |field: &str, word: String| {
        if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Refusal::invalid(field, word, "is not one word"));
        }
        Ok(word)
    };
    let words = |field: &str, words: Vec<String>| -> Result<Vec<String>> {
        words.into_iter().map(|given| word(field, given)).collect()
    };
    Ok(DnsSpec {
        servers: words("servers", config.servers)?,
        searches: words("searches", config.searches)?,
        options: words("options", config.options)?,
    })
}

fn cgroup_parent_from(parent: String) -> Result<Option<String>> {
    if parent.is_empty() {
        return Ok(None);
    }
    match CgroupPath::from_parent(&parent) {
        Ok(_) => Ok(Some(parent)),
        Err(error) => Err(Refusal::invalid("cgroup_parent", parent, &format!("is no cgroup path: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use berth_cri_proto::v1::{LinuxPodSandboxConfig, PortMapping, WindowsPodSandboxConfig};
    use berth_monitor::plan::Sharing;
    use berth_store::ErrorKind;

    use super::*;
    use crate::convert::testing::pod_config;

    #[test]
    fn a_small_request_has_the_apis_defaults() {
        let spec = sandbox_spec_from(Some(pod_config()), String::new()).unwrap();
        assert_eq!((spec.net, spec.ipc), (Sharing::Own, Sharing::Own));
        assert_eq!((spec.dns, spec.log_directory, spec.cgroup_parent), (None, None, None));
        assert_eq!(spec.identity.name, "web");
    }

    #[test]
    fn labels_and_annotations_are_kept_byte_for_byte() {
        let texts = ["", " ", "a\nb", "\u{1f40b}", "{\"a\": [1]}", "\0"];
        let map: HashMap<String, String> =
            texts.iter().map(|text| (format!("k{text}"), (*text).to_owned())).collect();
        let config = PodSandboxConfig { labels: map.clone(), annotations: map.clone(), ..pod_config() };
        let spec = sandbox_spec_from(Some(config), "berth".into()).unwrap();
        assert_eq!(HashMap::from_iter(spec.labels), map);
        assert_eq!(HashMap::from_iter(spec.annotations), map);
    }

    #[test]
    fn an_empty_dns_configuration_is_not_an_absent_one() {
        let config = PodSandboxConfig { dns_config: Some(DnsConfig::default()), ..pod_config() };
        assert_eq!(sandbox_spec_from(Some(config), String::new()).unwrap().dns, Some(DnsSpec::default()));
    }

    #[test]
    fn nonsense_is_named() {
        let check = |want: &str, change: fn(&mut PodSandboxConfig)| {
            let mut config = pod_config();
            change(&mut config);
            let text = sandbox_spec_from(Some(config), String::new()).unwrap_err().to_string();
            assert!(text.starts_with(&format!("config.{want}")), "{text}");
        };
        check("metadata: must be given", |c| c.metadata = None);
        check("metadata.uid: must be given", |c| {
            c.metadata =
                Some(PodSandboxMetadata { name: "n".into(), namespace: "s".into(), ..Default::default() });
        });
        check("hostname: \"-web\" is no host name", |c| c.hostname = "-web".into());
        check("hostname: \"aaaa", |c| c.hostname = "a".repeat(65));
        check("log_directory: \"logs\" is not an absolute", |c| c.log_directory = "logs".into());
        check("dns_config.servers: \"1.1.1.1\\noptions x\" is not one", |c| {
            c.dns_config =
                Some(DnsConfig { servers: vec!["1.1.1.1\noptions x".into()], ..DnsConfig::default() });
        });
        check("port_mappings[0].host_port: 70000 is no port", |c| {
            c.port_mappings = vec![PortMapping { host_port: 70000, ..PortMapping::default() }];
        });
        check("windows: ", |c| c.windows = Some(WindowsPodSandboxConfig::default()));
        check("linux.cgroup_parent: \"/a/../..\" is no cgroup path", |c| {
            c.linux = Some(LinuxPodSandboxConfig { cgroup_parent: "/a/../..".into(), ..Default::default() });
        });
        check("linux.sysctls[\"kernel.panic\"]: ", |c| {
            let sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
            c.linux = Some(LinuxPodSandboxConfig { sysctls, ..Default::default() });
        });
    }

    #[test]
    fn an_absent_message_is_refused() {
        let refusal = sandbox_spec_from(None, String::new()).unwrap_err();
        assert_eq!(
            (refusal.to_string().as_str(), refusal.kind()),
            ("config: must be given", ErrorKind::Invalid)
        );
    }
}
