//! The network's part of the pre-flight. nf_tables is asked over netlink, which makes the kernel load it where it is a
//! module, as the agent's first rule would; links are not made, since the host's network must stay as it is.

use super::{Finding, kernel};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with, sockopt,
};
use std::fs;
use std::io;
use std::time::Duration;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![nftables()];
    findings.push(link_kind("veth", "veth", "CONFIG_VETH"));
    findings.push(link_kind("bridge", "bridge", "CONFIG_BRIDGE"));
    findings.extend(sysctls(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).ok()));
    findings
}

fn nftables() -> Finding {
    match nf_tables_generation() {
        Ok(generation) => Finding::ok("nftables", format!("answers, generation {generation}")),
        Err(error) => Finding::fail(
            "nftables",
            format!("the kernel does not answer: {error}"),
            "run as root, and load the module nf_tables",
        ),
    }
}

/// Type of the request and of its answer: subsystem 10 (nf_tables), messages GETGEN and NEWGEN.
/// Source: linux/netfilter/nfnetlink.h and nf_tables.h.
const GET_GENERATION: u16 = (10 << 8) | 16;
const NEW_GENERATION: u16 = (10 << 8) | 15;

/// Asks for the number of changes made to the rules of this network namespace: the smallest question that there is.
fn nf_tables_generation() -> io::Result<u32> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(2)))?;
    // nlmsghdr: length, type, flags (request), sequence, port; then nfgenmsg: family, version, resource.
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend(GET_GENERATION.to_ne_bytes());
    request.extend(1_u16.to_ne_bytes());
    request.extend([0; 12]);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0_u8; 256];
    let (length, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
    parse_generation(&reply[..length.min(reply.len())])
}

/// Shape: nlmsghdr (16 bytes), nfgenmsg (4), then the attribute of the generation: length, type, number in network
/// order. An error answer holds the negative errno where nfgenmsg would be.
fn parse_generation(reply: &[u8]) -> io::Result<u32> {
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let word = |at: usize| reply.get(at..at + 4).and_then(|b| b.try_into().ok());
    let unexpected = || io::Error::other("an answer of another kind");
    match kind {
        Some(NEW_GENERATION) => word(24).map(u32::from_be_bytes).ok_or_else(unexpected),
        // NLMSG_ERROR, netlink(7).
        Some(2) => {
            Err(word(16).map_or_else(unexpected, |e| io::Error::from_raw_os_error(-i32::from_ne_bytes(e))))
        }
        _ => Err(unexpected()),
    }
}

fn link_kind(what: &'static str, module: &str, option: &str) -> Finding {
    match kernel::has_module(module, option) {
        Some(true) => Finding::ok(what, "in the kernel"),
        Some(false) => {
            Finding::fail(what, "not in this kernel", format!("install the kernel module {module}"))
        }
        None => Finding::warn(what, "this kernel does not tell", format!("make sure that it has {option}")),
    }
}

/// Sysctls that decide whether packets of pods pass. `read` gives the value of a name below net/, if it exists.
fn sysctls(read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let value = |name: &str| read(name).map(|value| value.trim().to_owned());
    let mut findings = Vec::new();
    for (what, name) in [("ipv4", "ipv4/ip_forward"), ("ipv6", "ipv6/conf/all/forwarding")] {
        findings.push(match value(name).as_deref() {
            Some("0") => Finding::ok(what, "forwarding is off; the agent turns it on"),
            Some(_) => Finding::ok(what, "forwarding is on"),
            None if what == "ipv4" => Finding::fail(what, "not in this kernel", "use one that has it"),
            None => Finding::warn(what, "none: pods get IPv4 only", "boot without ipv6.disable=1"),
        });
    }
    if value("bridge/bridge-nf-call-iptables").as_deref() == Some("1") {
        findings.push(Finding::ok(
            "bridge-filter",
            "bridged packets pass iptables, as kube-proxy wants; there, a FORWARD policy of DROP cuts pods off",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn the_answer_of_nf_tables_is_understood() {
        let mut reply = [0_u8; 28];
        reply[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        reply[24..28].copy_from_slice(&7_u32.to_be_bytes());
        assert_eq!(parse_generation(&reply).unwrap(), 7);
        reply[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        reply[16..20].copy_from_slice(&(-22_i32).to_ne_bytes());
        assert_eq!(parse_generation(&reply).unwrap_err().raw_os_error(), Some(22));
        assert!(parse_generation(&reply[..10]).is_err());
    }

    #[test]
    fn sysctls_are_judged_by_what_they_mean_for_pods() {
        let levels =
            |read: &dyn Fn(&str) -> Option<String>| sysctls(read).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&|_| None), [Level::Fail, Level::Warn]);
        assert_eq!(levels(&|_| Some("1\n".into())), [Level::Ok, Level::Ok, Level::Ok]);
        assert_eq!(levels(&|name| (!name.starts_with("ipv6")).then(|| "0".into())), [Level::Ok, Level::Warn]);
    }
}
