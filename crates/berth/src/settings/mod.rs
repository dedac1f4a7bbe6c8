//! The agent's settings: every key, its meaning and its default stand here, once. `berth config default` prints them
//! from these very doc comments, which is why they speak to an operator.
//!
//! A value is found in the flags, else in the drop-ins (the last in name order wins, key by key; tables merge, lists
//! are replaced), else in the settings file, else in [`Default`]. An unknown key is an error, never ignored. Nothing
//! here touches the system: [`load()`] reads files, [`Settings::problems`] judges values. Whether files are there that
//! the values name, `berth config check` asks ([`Settings::file_problems`]).

mod explain;
mod files;
mod load;

pub(crate) use explain::explain;
pub(crate) use load::{Flags, load};

use berth_image::RegistryConfig;
use berth_net::NetworkConfig;
use berth_pod::{ForeignHandler, SYSTEM_DIRECTORIES};
use berth_stream::StreamingConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// All settings of one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Directory of the durable state: the database, images and the writable layers of containers.
    pub(crate) root: PathBuf,
    /// Directory of what a reboot may forget: sockets, mounts and the files made for each pod. Belongs on a tmpfs.
    pub(crate) state: PathBuf,
    /// The interface that the kubelet, crictl and the other commands of berth speak to.
    pub(crate) cri: Cri,
    /// The server that clients of exec, attach and port-forward are sent to.
    pub(crate) streaming: StreamingConfig,
    /// What the agent writes to its standard error.
    pub(crate) log: Log,
    /// How pods are connected to each other, to the host and to the world.
    pub(crate) network: NetworkConfig,
    /// Where images are pulled from, and with what patience.
    pub(crate) registries: RegistryConfig,
    /// Images that a node has without a registry.
    pub(crate) images: Images,
    /// How sandboxes of pods are made.
    pub(crate) sandboxes: Sandboxes,
    /// Where pods stand in the control groups of the machine.
    pub(crate) cgroup: Cgroup,
    /// What containers may do when nobody says.
    pub(crate) security: Security,
    /// How containers are given devices of this machine.
    pub(crate) devices: Devices,
    /// Other runtimes for pods that ask for them: [handlers.NAME], where NAME is the handler of a RuntimeClass. The
    /// agent's own handler is "berth", and needs no table.
    pub(crate) handlers: BTreeMap<String, Handler>,
    /// How the agent keeps what it has recorded and what there is the same.
    pub(crate) reconciliation: Reconciliation,
    /// Bounds on what a container can make the agent hold.
    pub(crate) limits: Limits,
}

/// `[devices]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Devices {
    /// Directories of Container Device Interface specifications; where two describe the same device, the later one
    /// wins.
    pub(crate) cdi_directories: Vec<PathBuf>,
    /// Whether devices belong to the container's user and group, where it asks for them by number, instead of to their
    /// owner on the host.
    pub(crate) ownership_from_security_context: bool,
}

/// `[cri]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cri {
    /// Unix socket to listen on, mode 0660. When not set: berth.sock in the state directory.
    pub(crate) socket: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// Least severity that is written (error, warn, info, debug, trace), or a list such as "info,berth_net=debug".
    /// The environment variable BERTH_LOG wins over it.
    pub(crate) level: String,
    /// "text" for people, "json" for log collectors.
    pub(crate) format: LogFormat,
}

/// How log lines are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// `[images]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Images {
    /// Directory of archives and OCI layouts that the agent imports when it starts. When not set: none.
    pub(crate) import: Option<PathBuf>,
    /// Make no directories for what images declare as volumes. By default each container gets one of its own for each,
    /// with a copy of what the image has there.
    pub(crate) ignore_volumes: bool,
    /// Names of images that a kubelet's garbage collection and `berth image prune` leave alone; `*` stands for any
    /// text.
    pub(crate) pinned: Vec<String>,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cgroup {
    /// Parent of the pods that name no parent of their own, as a path in the cgroup hierarchy.
    pub(crate) root: String,
    /// Who makes the cgroups of pods: with "cgroupfs" the kubelet writes to the cgroup file system, with "systemd" it
    /// has systemd make slices. The kubelet takes over this choice. berth itself writes to the file system below a
    /// pod's own cgroup, with either.
    pub(crate) driver: CgroupDriver,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    /// The kubelet writes to the cgroup file system.
    Cgroupfs,
    /// systemd makes slices.
    Systemd,
}

/// `[security]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Security {
    /// The system call filter of containers that ask for none and don't ask to be without: "unconfined", as the API has
    /// it, or "runtime-default", which is berth's own profile. A kubelet with seccompDefault asks for the latter by
    /// itself.
    pub(crate) unset_seccomp: UnsetSeccomp,
}

/// The filter of containers that say nothing of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UnsetSeccomp {
    /// None.
    Unconfined,
    /// The default profile.
    RuntimeDefault,
}

/// `[handlers.NAME]`: a runtime that makes containers by its command line, as the OCI runtime-spec has it (runc, crun).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Handler {
    /// The program.
    pub(crate) path: PathBuf,
    /// Arguments before each of its commands.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// Directory of its containers' states. When not set: one in the directory of each pod.
    #[serde(default)]
    pub(crate) root: Option<PathBuf>,
}

impl From<Handler> for ForeignHandler {
    fn from(Handler { path, args, root }: Handler) -> Self {
        Self { program: path, args, root }
    }
}

/// `[sandboxes]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sandboxes {
    /// How many wait, with namespaces and network, for pods that are asked for next, so that these start faster. Each
    /// takes an address, some 100 KiB of memory, and 400 KiB of the kernel's. There are none before the first pod, and
    /// none with 0.
    pub(crate) spare: u32,
}

/// `[reconciliation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reconciliation {
    /// How often the agent looks for what pods that are gone have left behind, and removes what it has found twice, in
    /// seconds. With 0 it does so when it starts only; `berth check --leaks` looks at any time.
    pub(crate) period_seconds: u32,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Longest line of a container's output, in bytes, that becomes one record of its log; a longer one is split.
    pub(crate) log_line_bytes: u32,
    /// Most output, in bytes and per stream, that one ExecSync call keeps; what comes after is dropped.
    pub(crate) exec_output_bytes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: "/var/lib/berth".into(),
            state: "/run/berth".into(),
            cri: Cri::default(),
            streaming: StreamingConfig::default(),
            log: Log::default(),
            network: NetworkConfig::default(),
            registries: RegistryConfig::default(),
            images: Images::default(),
            sandboxes: Sandboxes::default(),
            cgroup: Cgroup::default(),
            security: Security::default(),
            devices: Devices::default(),
            handlers: BTreeMap::new(),
            reconciliation: Reconciliation::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Sandboxes {
    fn default() -> Self {
        Self { spare: 10 }
    }
}

impl Default for Devices {
    fn default() -> Self {
        let cdi_directories = vec!["/etc/cdi".into(), "/var/run/cdi".into()];
        Self { cdi_directories, ownership_from_security_context: false }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { root: "/berth".into(), driver: CgroupDriver::Cgroupfs }
    }
}

impl Default for Security {
    fn default() -> Self {
        Self { unset_seccomp: UnsetSeccomp::Unconfined }
    }
}

impl Default for Reconciliation {
    fn default() -> Self {
        Self { period_seconds: 300 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_line_bytes: 16 * 1024, exec_output_bytes: 16 * 1024 * 1024 }
    }
}

/// A value that has the right type and still makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Path of the key, such as `cri.socket`.
    pub(crate) key: String,
    /// The value and what it should be.
    pub(crate) fault: String,
}

impl Settings {
    /// The socket on which the agent answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.cri.socket.clone().unwrap_or_else(|| self.state.join("berth.sock"))
    }

    /// Everything that is wrong with the values, in the order of the keys.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, key: &str, value: &dyn fmt::Debug, rule: &str| {
            if !holds {
                problems.push(Problem { key: key.into(), fault: format!("{value:?} must {rule}") });
            }
        };
        const PLAIN: &str = "be an absolute path without `..`";
        expect(is_plain_absolute(&self.root), "root", &self.root, PLAIN);
        expect(is_plain_absolute(&self.state), "state", &self.state, PLAIN);
        const OWN: &str = "be a directory of berth's own, such as the default";
        expect(!is_of_the_system(&self.root), "root", &self.root, OWN);
        expect(!is_of_the_system(&self.state), "state", &self.state, OWN);
        expect(self.root != self.state, "state", &self.state, "differ from root");
        let socket = self.socket();
        let plain = self.cri.socket.as_deref().is_none_or(is_plain_absolute);
        expect(plain, "cri.socket", &socket, PLAIN);
        // sockaddr_un, unix(7): 108 bytes with the closing NUL.
        expect(socket.as_os_str().len() < 108, "cri.socket", &socket, "be shorter than 108 bytes");
        let level = &self.log.level;
        // A word that is no severity would be taken for the name of a part that logs all, and all others nothing.
        let is_severity = |word: &str| word.contains(['=', '[']) || word.parse::<LevelFilter>().is_ok();
        let known =
            EnvFilter::try_new(level).is_ok() && level.split(',').all(|word| is_severity(word.trim()));
        const SEVERITY: &str =
            "be off, error, warn, info, debug or trace, or a list of these and part=severity";
        expect(known, "log.level", level, SEVERITY);
        let import = self.images.import.as_deref();
        expect(
            import.is_none_or(is_plain_absolute),
            "images.import",
            &import.unwrap_or(Path::new("")),
            PLAIN,
        );
        let cgroup = Path::new(&self.cgroup.root);
        let below = is_plain_absolute(cgroup) && cgroup != Path::new("/");
        expect(below, "cgroup.root", &cgroup, "be an absolute path below the root of the hierarchy");
        for directory in &self.devices.cdi_directories {
            expect(is_plain_absolute(directory), "devices.cdi_directories", directory, PLAIN);
        }
        for (name, handler) in &self.handlers {
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let plain = !name.is_empty() && name.bytes().all(is_name) && name != berth_pod::OWN_HANDLER;
            expect(plain, "handlers", name, "be lower-case letters, digits and -, and not berth");
            let key = format!("handlers.{name}");
            expect(is_plain_absolute(&handler.path), &format!("{key}.path"), &handler.path, PLAIN);
            let root = handler.root.as_deref().unwrap_or(Path::new("/"));
            expect(is_plain_absolute(root), &format!("{key}.root"), &root, PLAIN);
        }
        let spare = self.sandboxes.spare;
        expect(spare <= 64, "sandboxes.spare", &spare, "be at most 64");
        let period = self.reconciliation.period_seconds;
        expect(period <= 86_400, "reconciliation.period_seconds", &period, "be at most 86400, a day");
        let (line, output) = (self.limits.log_line_bytes, self.limits.exec_output_bytes);
        expect((256..=1 << 20).contains(&line), "limits.log_line_bytes", &line, "be from 256 to 1048576");
        expect(
            (4096..=256 << 20).contains(&output),
            "limits.exec_output_bytes",
            &output,
            "be from 4096 to 268435456",
        );
        match self.streaming.validate() {
            Ok(()) => {}
            Err(berth_stream::Error::Config { key, reason }) => {
                problems.push(Problem { key: format!("streaming.{key}"), fault: reason.to_owned() });
            }
            Err(error) => problems.push(Problem { key: "streaming".into(), fault: error.to_string() }),
        }
        match self.network.validate() {
            Ok(()) => {}
            Err(berth_net::Error::Config { key, value, problem }) => {
                problems.push(Problem { key: format!("network.{key}"), fault: format!("{value} {problem}") });
            }
            Err(error) => problems.push(Problem { key: "network".into(), fault: error.to_string() }),
        }
        if let Err(error) = self.registries.validate() {
            problems.push(Problem { key: "registries".into(), fault: error.to_string() });
        }
        problems
    }
}

/// A directory that is there for everybody: files of ours would be among theirs, and be removed with them.
fn is_of_the_system(path: &Path) -> bool {
    // As paths, so that slashes at the end don't matter.
    SYSTEM_DIRECTORIES.iter().any(|system| path == Path::new(system))
}

/// Absolute, and means what it says.
fn is_plain_absolute(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, RootDir | Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().problems(), []);
        assert_eq!(Settings::default().socket(), Path::new("/run/berth/berth.sock"));
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        check("root = 'var/lib'", &["root"]);
        check("state = '/run/../etc'", &["state"]);
        check("root = '/'\nstate = '/run/'", &["root", "state"]);
        check("network.bridge = 'lo'", &["network.bridge"]);
        check("root = '/x'\nstate = '/x'", &["state"]);
        check("cri.socket = 'berth.sock'", &["cri.socket"]);
        check(&format!("cri.socket = '/{}'", "a".repeat(108)), &["cri.socket"]);
        check("streaming.tls_cert_file = '/x'", &["streaming.tls_key_file"]);
        check("log.level = 'berth=loud'", &["log.level"]);
        check("log.level = 'loud'", &["log.level"]);
        check("log.level = 'warn,berth_pod=debug'", &[]);
        check("images.import = 'images'", &["images.import"]);
        check("cgroup.root = '/'", &["cgroup.root"]);
        check("devices.cdi_directories = ['cdi']", &["devices.cdi_directories"]);
        check("handlers.berth.path = '/usr/bin/runc'", &["handlers"]);
        check("[handlers.runc]\npath = 'runc'\nroot = 'x'", &["handlers.runc.path", "handlers.runc.root"]);
        check("network.subnets = []", &["network.subnets"]);
        check("registries.parallel_layers = 0", &["registries"]);
        check(
            "limits.log_line_bytes = 1\nlimits.exec_output_bytes = 1",
            &["limits.log_line_bytes", "limits.exec_output_bytes"],
        );
    }

    fn check(text: &str, keys: &[&str]) {
        let settings: Settings = toml::from_str(text).unwrap();
        let found: Vec<_> = settings.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(found, keys, "{text}");
    }
}
