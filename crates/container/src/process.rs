//! What runs, and as whom: the request over the image's defaults, by Kubernetes' rules.

use std::path::{Path, PathBuf};

use berth_monitor::plan::{Capabilities, NameOrId, ProcessPlan, UserPlan};

use crate::capability::ALL;
use crate::error::{Error, Result};
use crate::plan::{ImageDefaults, Surroundings};
use crate::spec::ContainerSpec;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// SIGTERM.
const DEFAULT_STOP_SIGNAL: i32 = 15;
/// The first real-time signal that a program may use; libc keeps the two before for itself.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;
/// The kernel's own bound, NGROUPS_MAX, less the group that each process has and those that the image may add.
const MAX_GROUPS: usize = 65_536 - 1024;

pub(crate) fn plan_process(
    spec: &ContainerSpec,
    image: &ImageDefaults,
    surroundings: &Surroundings,
) -> Result<ProcessPlan> {
    let (user, group) = match &spec.security.user {
        Some(user) => (user.clone(), spec.security.group.map(NameOrId::Id)),
        None => parse_image_user(&image.user)?,
    };
    Ok(ProcessPlan {
        args: command_line(spec, image)?,
        env: environment(spec, image, surroundings),
        cwd: working_directory(spec, image),
        user: UserPlan {
            user,
            group,
            supplemental: groups(spec, surroundings)?,
            merge_image_groups: spec.security.merge_image_groups,
        },
        capabilities: capabilities(spec, surroundings.capabilities)?,
        no_new_privileges: spec.security.no_new_privileges,
        // Added where files can be read and the kernel be asked.
        seccomp: None,
        seccomp_flags: 0,
        apparmor: None,
        selinux: None,
        oom_score_adj: Some(oom_score(spec.oom_score_adj, surroundings.least_oom_score)),
    })
}

fn groups(spec: &ContainerSpec, surroundings: &Surroundings) -> Result<Vec<u32>> {
    let groups = [&spec.security.supplemental_groups[..], &surroundings.additions.groups].concat();
    match groups.len() {
        count if count > MAX_GROUPS => Err(Error::TooManyGroups { count, limit: MAX_GROUPS }),
        _ => Ok(groups),
    }
}

/// As asked for, or as low as the agent can. Its own score protects it from the kernel, and is nothing to inherit.
fn oom_score(wanted: Option<i32>, least: Option<i32>) -> i32 {
    let wanted = wanted.unwrap_or(0);
    least.map_or(wanted, |least| wanted.max(least))
}

/// Source: Kubernetes, "Define a Command and Arguments for a Container": a command drops the image's arguments too.
fn command_line(spec: &ContainerSpec, image: &ImageDefaults) -> Result<Vec<String>> {
    let (command, args) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &spec.args),
        (false, _) => (&spec.command, &spec.args),
    };
    let line: Vec<String> = command.iter().chain(args).cloned().collect();
    if line.first().is_none_or(String::is_empty) { Err(Error::NoCommand) } else { Ok(line) }
}

/// The defaults, the image's, the request's, its devices'; a later one replaces an earlier of the same name in its
/// place.
fn environment(spec: &ContainerSpec, image: &ImageDefaults, surroundings: &Surroundings) -> Vec<String> {
    let hostname = &surroundings.hostname;
    let mut env: Vec<String> = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    let requested = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    let added = surroundings.additions.env.iter().cloned();
    for entry in image.env.iter().cloned().chain(requested).chain(added) {
        let same_name = |other: &String| name_of(other) == name_of(&entry);
        match env.iter().position(same_name) {
            Some(at) => env[at] = entry,
            None => env.push(entry),
        }
    }
    env
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn working_directory(spec: &ContainerSpec, image: &ImageDefaults) -> PathBuf {
    let wanted = spec.working_dir.as_deref().unwrap_or(Path::new(&image.working_dir));
    Path::new("/").join(wanted)
}

/// A container gets no capability that the agent lacks: asking for it would fail the launch, and ALL means all there
/// are.
fn capabilities(spec: &ContainerSpec, agents: u64) -> Result<Capabilities> {
    let (set, ambient) = spec.security.capabilities.resolve()?;
    let set = if spec.security.privileged { ALL } else { set };
    let (set, ambient) = (set & agents, ambient & agents);
    Ok(Capabilities { bounding: set, effective: set, inheritable: ambient, ambient })
}

/// `user`, `uid`, `user:group`, `uid:gid` and mixtures; empty is root. A number that no user can have is refused: read
/// as a smaller one it could become root (CVE-2024-40635).
fn parse_image_user(text: &str) -> Result<(NameOrId, Option<NameOrId>)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let parse = |part: &str| match part.parse::<u32>() {
        Ok(id) if id < u32::MAX => Ok(NameOrId::Id(id)),
        _ if part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
            Err(Error::ImageUser { user: text.to_owned(), reason: "the number is out of range" })
        }
        _ => Ok(NameOrId::Name(part.to_owned())),
    };
    let user = if user.is_empty() { NameOrId::Id(0) } else { parse(user)? };
    let group = group.filter(|group| !group.is_empty()).map(parse).transpose()?;
    Ok((user, group))
}

/// The signal that asks the container to stop: the request's, the image's, SIGTERM.
///
/// # Errors
/// The image's is no signal.
pub(crate) fn stop_signal(spec: &ContainerSpec, image: &ImageDefaults) -> Result<i32> {
    match (spec.stop_signal, image.stop_signal.as_str()) {
        (Some(signal), _) => Ok(signal),
        (None, "") => Ok(DEFAULT_STOP_SIGNAL),
        (None, text) => parse_signal(text).ok_or_else(|| Error::ImageStopSignal { signal: text.to_owned() }),
    }
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, in any case. Source: signal(7), numbers of x86 and ARM.
fn parse_signal(text: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse() {
        number
    } else if let Some(above) = name.strip_prefix("RTMIN") {
        SIGRTMIN.checked_add(offset(above)?)?
    } else if let Some(below) = name.strip_prefix("RTMAX") {
        SIGRTMAX.checked_add(offset(below)?)?
    } else {
        i32::try_from(NAMES.iter().position(|known| *known == name)?).ok()? + 1
    };
    (1..=SIGRTMAX).contains(&number).then_some(number)
}

fn offset(text: &str) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{spec, surroundings};

    fn own(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_command_drops_the_images_arguments_and_args_keep_its_entrypoint() {
        let image = ImageDefaults { entrypoint: own(&["e"]), cmd: own(&["c"]), ..ImageDefaults::default() };
        for (command, args, want) in [
            (&[][..], &[][..], own(&["e", "c"])),
            (&[], &["a"], own(&["e", "a"])),
            (&["x"], &[], own(&["x"])),
            (&["x"], &["a"], own(&["x", "a"])),
        ] {
            let spec = ContainerSpec { command: own(command), args: own(args), ..spec() };
            assert_eq!(command_line(&spec, &image).unwrap(), want, "{command:?} {args:?}");
        }
        let nothing = ContainerSpec { command: vec![], ..spec() };
        assert!(matches!(command_line(&nothing, &ImageDefaults::default()), Err(Error::NoCommand)));
    }

    #[test]
    fn later_variables_replace_earlier_ones_of_the_same_name() {
        let image = ImageDefaults { env: own(&["A=1", "PATH=/x"]), ..ImageDefaults::default() };
        let env = vec![("A".to_owned(), "2=3".to_owned()), ("B".to_owned(), String::new())];
        let spec = ContainerSpec { env, tty: true, ..spec() };
        let env = environment(&spec, &image, &surroundings());
        assert_eq!(env, ["PATH=/x", "HOSTNAME=pod", "TERM=xterm", "A=2=3", "B="]);
    }

    #[test]
    fn an_images_user_is_read_in_all_its_forms() {
        let (id, name) = (NameOrId::Id, |text: &str| NameOrId::Name(text.to_owned()));
        for (text, want) in [
            ("", (id(0), None)),
            ("1000", (id(1000), None)),
            ("1000:50", (id(1000), Some(id(50)))),
            ("web:staff", (name("web"), Some(name("staff")))),
            ("web:", (name("web"), None)),
            (":50", (id(0), Some(id(50)))),
        ] {
            assert_eq!(parse_image_user(text).unwrap(), want, "{text:?}");
        }
        for text in ["4294967296", "-1", "0:4294967295", "99999999999999999999"] {
            assert!(parse_image_user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("SIGFOO", None),
            ("RTMIN+2147483647", None),
            ("RTMAX+2147483647", None),
            ("RTMIN-2147483648", None),
        ] {
            assert_eq!(parse_signal(text), want, "{text:?}");
        }
    }

    #[test]
    fn no_score_is_promised_that_the_agent_cannot_give() {
        assert_eq!(oom_score(Some(-998), None), -998);
        assert_eq!(oom_score(Some(-998), Some(-500)), -500);
        assert_eq!(oom_score(Some(7), Some(-500)), 7);
        assert_eq!(oom_score(None, Some(0)), 0);
    }

    #[test]
    fn no_capability_is_promised_that_the_agent_lacks() {
        let mut spec = spec();
        spec.security.privileged = true;
        assert_eq!(capabilities(&spec, 0b101).unwrap().bounding, 0b101);
    }
}
