//! The files that a pod's containers share: `hosts`, `hostname`, `resolv.conf`. Their contents are pure functions.

use std::net::IpAddr;
use std::path::Path;

use berth_monitor::plan::Sharing;
use berth_net::PodAddresses;

use crate::error::{Error, Result};
use crate::spec::{DnsSpec, SandboxSpec};

/// The longest hostname that Linux takes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME_BYTES: usize = 64;

/// The name that the pod's containers see.
pub(crate) fn hostname_of(spec: &SandboxSpec) -> String {
    match (spec.net, spec.hostname.as_str()) {
        (Sharing::Host, _) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        // A pod's name may be longer than a hostname.
        (Sharing::Own, "") => {
            let mut name = spec.identity.name.as_str();
            while name.len() >= MAX_HOSTNAME_BYTES {
                name = &name[..name.char_indices().next_back().map_or(0, |(last, _)| last)];
            }
            name.trim_end_matches(['-', '.']).to_owned()
        }
        (Sharing::Own, hostname) => hostname.to_owned(),
    }
}

/// Writes all three into the pod's directory. Blocks.
pub(crate) fn write_files(directory: &Path, spec: &SandboxSpec, addresses: &PodAddresses) -> Result<()> {
    let hostname = hostname_of(spec);
    let hosts = match spec.net {
        Sharing::Own => hosts_file(&hostname, addresses),
        Sharing::Host => read_host_file("/etc/hosts"),
    };
    let resolv_conf = match &spec.dns {
        Some(dns) => resolv_conf(dns),
        None => read_host_file("/etc/resolv.conf"),
    };
    for (name, text) in
        [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv_conf)]
    {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(Error::file("write", path))?;
    }
    Ok(())
}

fn hosts_file(hostname: &str, addresses: &PodAddresses) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    ff00::0\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses.iter() {
        text += &host_line(address, hostname);
    }
    text
}

fn host_line(address: IpAddr, hostname: &str) -> String {
    format!("{address}\t{hostname}\n")
}

/// Source: resolv.conf(5); one line each, as containerd writes it.
fn resolv_conf(dns: &DnsSpec) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// A host without the file has nothing to pass on.
fn read_host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_for_each_kind() {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let dns = DnsSpec {
            servers: own(&["10.0.0.10", "fd00::a"]),
            searches: own(&["a.local", "b"]),
            options: own(&["ndots:5"]),
        };
        let want = "search a.local b\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), want);
        assert_eq!(resolv_conf(&DnsSpec::default()), "");
    }

    #[test]
    fn a_pod_finds_itself_by_name_in_both_families() {
        let addresses: PodAddresses =
            ["10.88.0.2", "fd62::2"].iter().filter_map(|text| text.parse::<IpAddr>().ok()).collect();
        let hosts = hosts_file("web", &addresses);
        assert!(
            hosts.starts_with("127.0.0.1\tlocalhost\n") && hosts.ends_with("10.88.0.2\tweb\nfd62::2\tweb\n")
        );
    }
}
