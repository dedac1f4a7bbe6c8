//! The resolver and the hosts file of a pod.
//!
//! Pure. A runtime with no DNS config from us copies the host's `resolv.conf`, which is what `dnsPolicy: Default`
//! means, and every other policy too while there is no cluster DNS; only `None` and an explicit `dnsConfig` send one.
//! The hosts file is written by whoever runs the pod and mounted into each container, as the kubelet does.
//! Source: Kubernetes 1.37, pkg/kubelet/network/dns, pkg/kubelet/kubelet_pods.go.

use berth_cri_proto::v1::DnsConfig;
use k8s_openapi::api::core::v1::PodDNSConfig;

use crate::{
    error::FieldError,
    parse::{PodFacts, PodManifest, check_choice},
};

/// What the host's `resolv.conf` says.
pub(crate) type HostDns = DnsConfig;

/// Reads the three directives of resolv.conf(5) that pods take over; of `search`, the last line counts.
pub(crate) fn parse_resolv_conf(text: &str) -> HostDns {
    let mut dns = HostDns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// The sandbox's DNS config; None leaves it to the runtime to copy the host's.
pub(crate) fn dns_config(manifest: &PodManifest, host: &HostDns) -> Result<Option<DnsConfig>, FieldError> {
    let spec = &manifest.spec;
    let policies = &["Default", "ClusterFirst", "ClusterFirstWithHostNet", "None"];
    check_choice("spec.dnsPolicy", &spec.dns_policy, policies)?;
    let base = if spec.dns_policy.as_deref() == Some("None") {
        let has_server = |config: &PodDNSConfig| config.nameservers.iter().flatten().next().is_some();
        if !spec.dns_config.as_ref().is_some_and(has_server) {
            return Err(FieldError::new("spec.dnsConfig.nameservers", "is required when dnsPolicy is None"));
        }
        DnsConfig::default()
    } else {
        host.clone()
    };
    Ok(spec.dns_config.as_ref().map(|config| merge(base, config)))
}

/// Appends servers and searches that are not there yet; an option replaces the one of its name.
fn merge(mut dns: DnsConfig, config: &PodDNSConfig) -> DnsConfig {
    fn append(list: &mut Vec<String>, more: &Option<Vec<String>>) {
        for item in more.iter().flatten() {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    }
    append(&mut dns.servers, &config.nameservers);
    append(&mut dns.searches, &config.searches);
    for option in config.options.iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        dns.options.retain(|known| known.split(':').next() != Some(name.as_str()));
        dns.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        });
    }
    dns
}

/// The kernel's limit of a host name, in bytes.
const MAX_HOSTNAME_BYTES: usize = 63;

/// The pod's own host name: `spec.hostname`, or its name cut to what the kernel takes.
pub(crate) fn hostname(manifest: &PodManifest) -> &str {
    let name = manifest.spec.hostname.as_deref().unwrap_or(&manifest.name);
    let end = name.len().min(MAX_HOSTNAME_BYTES);
    name.get(..end).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// The text of `/etc/hosts` for the containers of the pod; `host_hosts` is the host's, for a pod on its network.
pub(crate) fn hosts_file(manifest: &PodManifest, facts: &PodFacts, host_hosts: &str) -> String {
    let mut text = if manifest.spec.host_network == Some(true) {
        format!("# The host's file, managed by berth.\n{host_hosts}")
    } else {
        own_hosts(hostname(manifest), facts)
    };
    let aliases = manifest.spec.host_aliases.iter().flatten();
    for alias in aliases {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let names = alias.hostnames.as_deref().unwrap_or(&[]).join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

fn own_hosts(hostname: &str, facts: &PodFacts) -> String {
    let mut text = "# Managed by berth.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    for ip in &facts.ips {
        text.push_str(&format!("{ip}\t{hostname}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::{manifest, refused_path};

    fn pod(spec: &str) -> PodManifest {
        manifest(&format!("metadata: {{name: p}}\nspec: {{containers: [{{name: c, image: i}}], {spec}}}"))
    }

    #[test]
    fn only_an_explicit_config_is_sent() {
        let host =
            parse_resolv_conf("search old\nnameserver 1.1.1.1\n# x\nsearch a b\noptions ndots:5 rotate\n");
        for (spec, expected) in [
            ("dnsPolicy: Default", None),
            ("dnsPolicy: ClusterFirst", None),
            (
                "dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9], options: [{name: edns0}]}",
                Some("9.9.9.9||edns0"),
            ),
            (
                "dnsConfig: {nameservers: [9.9.9.9, 1.1.1.1], searches: [b, c], options: [{name: ndots, value: '2'}]}",
                Some("1.1.1.1 9.9.9.9|a b c|rotate ndots:2"),
            ),
        ] {
            let dns = dns_config(&pod(spec), &host).unwrap();
            let lists =
                |d: DnsConfig| [d.servers.join(" "), d.searches.join(" "), d.options.join(" ")].join("|");
            assert_eq!(dns.map(lists).as_deref(), expected, "{spec}");
        }
        let none = "{dnsPolicy: None, containers: [{name: c, image: i}]}";
        assert_eq!(refused_path(none), "spec.dnsConfig.nameservers");
    }

    #[test]
    fn the_hosts_file_knows_the_pod_and_its_aliases() {
        let ips = vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let facts = PodFacts { ips, ..Default::default() };
        let aliases = "hostAliases: [{ip: 10.0.0.9, hostnames: [db, db.local]}]";

        let own = hosts_file(&pod(&format!("hostname: me, {aliases}")), &facts, "");
        assert!(own.ends_with("10.1.0.2\tme\nfd00::2\tme\n10.0.0.9\tdb\tdb.local\n"), "{own}");
        let hosts = hosts_file(&pod(&format!("hostNetwork: true, {aliases}")), &facts, "127.0.0.1 node");
        assert!(hosts.ends_with("127.0.0.1 node\n10.0.0.9\tdb\tdb.local\n"), "{hosts}");
    }

    #[test]
    fn a_long_pod_name_is_cut_to_a_host_name() {
        let name = format!("{}-{}", "a".repeat(62), "b");
        let manifest =
            manifest(&format!("metadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}"));
        assert_eq!(hostname(&manifest), "a".repeat(62));
    }
}
