//! Kernel parameters of a pod: which may be set at all.
//!
//! A pod may set what belongs to its own namespaces and nothing else (CVE-2022-0811). Names come with dots or with
//! slashes, as sysctl(8) has them: the first separator tells which of the two separates, and the other is part of a
//! name (`net.ipv4.conf.eth0/1.forwarding` is `net/ipv4/conf/eth0.1/forwarding`).

use std::collections::HashMap;

use berth_monitor::plan::{Sharing, Sysctl};

use super::{Refusal, Result};

/// Values are short numbers and lists of ports; more is no parameter of these.
const MAX_VALUE_BYTES: usize = 4096;

/// All parameters, in the order of their names.
pub(crate) fn sysctls_from(
    given: HashMap<String, String>,
    net: Sharing,
    ipc: Sharing,
) -> Result<Vec<Sysctl>> {
    let mut sysctls = Vec::new();
    for (name, value) in given {
        sysctls.push(sysctl_from(&name, value, net, ipc)?);
    }
    sysctls.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sysctls)
}

fn sysctl_from(name: &str, value: String, net: Sharing, ipc: Sharing) -> Result<Sysctl> {
    let field = format!("sysctls[{name:?}]");
    let path = with_slashes(name);
    let is_plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte))
    };
    if !path.split('/').all(is_plain) {
        return Err(Refusal::invalid(field, name, "is no name of a kernel parameter"));
    }
    let (owner, sharing) = if path.starts_with("net/") {
        ("network", net)
    } else if is_ipc(&path) {
        ("ipc", ipc)
    } else {
        return Err(Refusal::invalid(field, name, "belongs to no namespace of the pod"));
    };
    if sharing == Sharing::Host {
        let problem = format!("belongs to the {owner} namespace, which is the host's");
        return Err(Refusal::invalid(field, name, &problem));
    }
    if value.len() > MAX_VALUE_BYTES || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Refusal::invalid(field, value, "is no value of a kernel parameter"));
    }
    Ok(Sysctl { path, value })
}

fn with_slashes(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Source: ipc_namespaces(7).
fn is_ipc(path: &str) -> bool {
    let one_part = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
    path == "kernel/sem" || one_part("kernel/shm") || one_part("kernel/msg") || path.starts_with("fs/mqueue/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, net: Sharing, ipc: Sharing, want: Result<&str, &str>) {
        let found = sysctls_from(HashMap::from([(name.to_owned(), "1".to_owned())]), net, ipc);
        match (found, want) {
            (Ok(found), Ok(path)) => assert_eq!(found[0].path, path),
            (Err(refusal), Err(part)) => {
                let text = refusal.to_string();
                assert!(text.contains(name) && text.contains(part), "{text}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
    type Result<T, E> = std::result::Result<T, E>;

    #[test]
    fn parameters_of_the_pods_own_namespaces_are_accepted() {
        use Sharing::Own;
        let good = |name, path| check(name, Own, Own, Ok(path));
        good("net.ipv4.ip_unprivileged_port_start", "net/ipv4/ip_unprivileged_port_start");
        good("net/ipv4/ip_forward", "net/ipv4/ip_forward");
        good("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding");
        good("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding");
        good("kernel.shm_rmid_forced", "kernel/shm_rmid_forced");
        good("kernel.msgmax", "kernel/msgmax");
        good("kernel.sem", "kernel/sem");
        good("fs.mqueue.msg_max", "fs/mqueue/msg_max");
    }

    #[test]
    fn parameters_of_the_machine_are_refused() {
        use Sharing::Own;
        let bad = |name| check(name, Own, Own, Err("belongs to no namespace"));
        for name in
            ["kernel.core_pattern", "kernel.semaphore", "vm.swappiness", "fs.file-max", "net", "kernel/shm/x"]
        {
            bad(name);
        }
    }

    #[test]
    fn parameters_of_a_shared_namespace_are_refused() {
        use Sharing::{Host, Own};
        check("net.ipv4.ip_forward", Host, Own, Err("network namespace"));
        check("kernel.msgmax", Own, Host, Err("ipc namespace"));
        check("kernel.msgmax", Host, Own, Ok("kernel/msgmax"));
    }

    #[test]
    fn names_that_climb_or_smuggle_are_refused() {
        use Sharing::Own;
        for name in [
            "net/../kernel/core_pattern",
            "net..ipv4",
            "net.ipv4.",
            "/net/ipv4",
            "net.a b",
            "net.a=b",
            "net.a+b",
            "",
        ] {
            check(name, Own, Own, Err("is no name"));
        }
        let smuggled =
            HashMap::from([("net.ipv4.ip_forward".to_owned(), "1\nkernel.core_pattern=|x".to_owned())]);
        assert!(sysctls_from(smuggled, Own, Own).is_err());
    }
}
