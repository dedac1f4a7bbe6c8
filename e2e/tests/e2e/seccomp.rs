//! System call filters: what they let through, where they hold, and what is said of profiles with errors.

use std::path::Path;

use berth_cri_proto::v1::security_profile::ProfileType;
use berth_cri_proto::v1::{ContainerConfig, SecurityProfile};
use berth_e2e::requests::{security, shell};
use berth_e2e::{Node, Pod};
use tonic::Code;

/// Calls that a shell, `true` and the kernel's loader make, and the one of the runtime's under a filter.
const CALLS_OF_TRUE: &str = r#"["execve", "capset", "arch_prctl", "set_tid_address", "brk", "exit_group", "getrandom",
    "getuid", "mprotect", "prctl", "prlimit64", "readlink", "readlinkat", "rseq", "set_robust_list", "set_tid_address"]"#;

/// Exit code of a process that a filter killed: 128 and SIGSYS.
const KILLED: i32 = 128 + 31;

fn profile(kind: ProfileType, localhost_ref: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.into() })
}

/// A container that sleeps under a profile.
fn sleeper(name: &str, kind: ProfileType, localhost_ref: &str) -> ContainerConfig {
    let mut config = shell(name, "exec sleep 1000");
    security(&mut config).seccomp = profile(kind, localhost_ref);
    config
}

/// A field of a process's status in a container.
#[track_caller]
fn field(pod: &Pod<'_>, id: &str, process: &str, name: &str) -> String {
    let line = pod.exec(id, &format!("grep ^{name}: /proc/{process}/status"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[track_caller]
fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs root and the test images"]
fn the_default_filter_holds_for_init_and_exec_and_unconfined_has_none() {
    let node = Node::start();
    let pod = node.pod("filters");
    for (name, kind, user, mode) in [
        ("default", ProfileType::RuntimeDefault, "root", "2"),
        ("default-user", ProfileType::RuntimeDefault, "web", "2"),
        ("unconfined", ProfileType::Unconfined, "root", "0"),
    ] {
        let mut config = sleeper(name, kind, "");
        security(&mut config).run_as_username = user.into();
        let id = pod.start(config);
        for process in ["1", "self"] {
            assert_eq!(field(&pod, &id, process, "Seccomp"), mode, "{name} {process}");
        }
        // A user namespace takes no capability, so nothing but the filter refuses it.
        let refused = pod.try_exec(&id, &["unshare", "-U", "true"], 0).unwrap();
        assert_eq!(refused.exit_code == 0, mode == "0", "{name}: {refused:?}");
        // What was kept to install the filter is gone.
        let root = if user == "root" { "00000000a80425fb" } else { "0000000000000000" };
        for process in ["1", "self"] {
            for (set, want) in [("CapEff", root), ("CapPrm", root), ("CapBnd", "00000000a80425fb")] {
                let found = field(&pod, &id, process, set);
                let found = u64::from_str_radix(&found, 16).unwrap();
                assert_eq!(found & (1 << 21), 0, "{name} {process} {set} has CAP_SYS_ADMIN");
                assert_eq!(found & !u64::from_str_radix(want, 16).unwrap(), 0, "{name} {process} {set}");
            }
        }
    }
    let said_nothing = pod.start(shell("nothing", "exec sleep 1000"));
    assert_eq!(field(&pod, &said_nothing, "1", "Seccomp"), "0");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_privileged_container_has_no_filter_and_capabilities_widen_the_default_one() {
    let node = Node::start();
    let mut config = node.sandbox("wide");
    berth_e2e::requests::sandbox_security(&mut config).privileged = true;
    let pod = Pod::run(&node, config);
    let mut config = sleeper("privileged", ProfileType::RuntimeDefault, "");
    security(&mut config).privileged = true;
    let id = pod.start(config);
    assert_eq!(field(&pod, &id, "1", "Seccomp"), "0");

    let mut config = sleeper("admin", ProfileType::RuntimeDefault, "");
    security(&mut config).capabilities.get_or_insert_default().add_capabilities = vec!["SYS_ADMIN".into()];
    let id = pod.start(config);
    assert_eq!(field(&pod, &id, "1", "Seccomp"), "2");
    pod.exec(&id, "unshare -m true");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_nodes_own_profile_does_what_it_says_to_init_and_exec() {
    let node = Node::start();
    let pod = node.pod("own");
    let path = write(
        &node.dir().join("own.json"),
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    // An old client's form of the same.
    let mut deprecated = shell("deprecated", "exec sleep 1000");
    #[allow(deprecated, reason = "old clients send it")]
    {
        security(&mut deprecated).seccomp_profile_path = format!("localhost/{path}");
    }
    let mut with_nnp = sleeper("no-new-privs", ProfileType::Localhost, &path);
    security(&mut with_nnp).no_new_privs = true;
    for config in [sleeper("present", ProfileType::Localhost, &path), with_nnp, deprecated] {
        let id = pod.start(config);
        let script = "touch /tmp/x; chmod 600 /tmp/x 2>&1; mkdir /tmp/d 2>&1; \
            kill -USR2 $$ 2>&1; kill -0 $$ && echo alive";
        let said = pod.exec(&id, script);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        assert!(lines[0].contains("Operation not permitted"), "{said}");
        assert!(lines[1].contains("No space left"), "{said}");
        assert!(lines[2].contains("Operation not permitted") || lines[2].contains("can't kill"), "{said}");
        assert_eq!(lines[3], "alive");
    }
    let mut init = shell("init", "touch /tmp/x; chmod 600 /tmp/x && echo changed || echo refused");
    security(&mut init).seccomp = profile(ProfileType::Localhost, &path);
    pod.start(init);
    pod.await_line("init", "refused");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_profile_need_not_allow_what_the_runtime_does() {
    let node = Node::start();
    let pod = node.pod("strict");
    let path = write(
        &node.dir().join("strict.json"),
        &format!(
            r#"{{"defaultAction": "SCMP_ACT_KILL_PROCESS",
                "syscalls": [{{"names": {CALLS_OF_TRUE}, "action": "SCMP_ACT_ALLOW"}}]}}"#
        ),
    );
    let run = |name: &str, command: &[&str], no_new_privs| {
        let mut config = sleeper(name, ProfileType::Localhost, &path);
        security(&mut config).no_new_privs = no_new_privs;
        config.command = command.iter().map(|word| (*word).to_owned()).collect();
        let id = pod.create(config);
        let started = pod.try_start(&id).map_err(|status| status.message().to_owned());
        (started.map(drop), pod.end_of(&id))
    };
    for no_new_privs in [false, true] {
        let (started, ended) = run(&format!("true-{no_new_privs}"), &["true"], no_new_privs);
        assert_eq!((started, ended.exit_code, ended.reason.as_str()), (Ok(()), 0, "Completed"));
        let (_, ended) = run(&format!("pwd-{no_new_privs}"), &["pwd"], no_new_privs);
        assert_eq!(ended.exit_code, KILLED, "getcwd is not allowed");
        // Found out before the filter could keep it from being said.
        let (started, ended) = run(&format!("absent-{no_new_privs}"), &["no-such-program"], no_new_privs);
        assert!(started.unwrap_err().contains("no-such-program"));
        assert_eq!(ended.reason, "StartError");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_profile_with_errors_is_refused_with_file_place_and_value() {
    let node = Node::start();
    let pod = node.pod("broken");
    let before = node.snapshot();
    let directory = node.dir().join("profiles");
    std::fs::create_dir(&directory).unwrap();
    let file = |name: &str| directory.join(name);
    for (name, text, words) in [
        ("text.json", "no json", &["expected"][..]),
        ("action.json", r#"{"defaultAction": "ALLOW"}"#, &["defaultAction", "\"ALLOW\"", "no action"]),
        (
            "argument.json",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            &["syscalls[0].args[0].index", "9"],
        ),
        ("notify.json", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, &["SCMP_ACT_NOTIFY", "not served"]),
    ] {
        let path = write(&file(name), text);
        let refused = pod.try_create(sleeper("bad", ProfileType::Localhost, &path)).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        for word in [&["seccomp", path.as_str()], words].concat() {
            assert!(refused.message().contains(word), "{name}: no {word:?} in {:?}", refused.message());
        }
    }
    let absent = file("absent.json").to_str().unwrap().to_owned();
    for (path, words) in [
        (absent.as_str(), ["absent.json", "No such file"]),
        (directory.to_str().unwrap(), ["profiles", "not a regular file"]),
        ("relative.json", ["relative.json", "not an absolute path"]),
    ] {
        let refused = pod.try_create(sleeper("bad", ProfileType::Localhost, path)).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(words.iter().all(|word| refused.message().contains(word)), "{:?}", refused.message());
    }
    node.assert_as_before(&before);
    assert_eq!(node.cri().containers().len(), 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn the_setting_fills_in_for_requests_that_say_nothing() {
    let node = Node::start_with("[security]\nunset_seccomp = 'runtime-default'");
    let pod = node.pod("unset");
    let filtered = pod.start(shell("nothing", "exec sleep 1000"));
    let free = pod.start(sleeper("unconfined", ProfileType::Unconfined, ""));
    assert_eq!(field(&pod, &filtered, "1", "Seccomp"), "2");
    assert_eq!(field(&pod, &free, "1", "Seccomp"), "0");
}
