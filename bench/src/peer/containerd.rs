//! containerd, with an OCI runtime that makes the containers and CNI plugins that make the network, as kubelets have it:
//! the bridge plugin with addresses of `host-local`, and `portmap`.
//!
//! It gets what makes it as fast as it can be here: only the plugins that it needs, the cgroupfs driver, one address
//! family, and a pause image that holds one small static program. What it keeps outside of its home is the
//! directory of its shims' sockets, `/run/containerd`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use berth_e2e::{REGISTRY, repository, run};

use super::home::{BRIDGE, Home};
use super::{Peer, make_directory, write_file};
use crate::ground::Ground;

/// Where Debian's package has them.
pub(super) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Where its pods' addresses are from.
const SUBNET: &str = "10.211.0.0/16";

/// The image of the process that holds a pod's namespaces.
const PAUSE: &str = "localhost/berth/pause:latest";

/// Which programs take part.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// containerd; `ctr` and the shim are beside it.
    pub(crate) containerd: PathBuf,
    /// What makes the containers: runc, crun.
    pub(crate) runtime: PathBuf,
}

/// Starts one with the test images imported.
pub(crate) fn start(ground: &Ground, programs: &Programs) -> Result<Peer> {
    let runtime = programs.runtime.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("containerd+{runtime}");
    let home = Home::new(ground, &runtime)?;
    start_in(home, programs, &name).with_context(|| format!("start {name}"))
}

fn start_in(mut home: Home, programs: &Programs, name: &str) -> Result<Peer> {
    let (config, socket) = (home.dir().join("config.toml"), home.dir().join("containerd.sock"));
    write_file(&config, &settings(&home, programs, &socket))?;
    let registry = home.dir().join("certs.d").join(REGISTRY);
    make_directory(&registry)?;
    write_file(&registry.join("hosts.toml"), &format!("server = 'http://{REGISTRY}'\n"))?;
    make_directory(&home.dir().join("cni"))?;
    write_file(&home.dir().join("cni/bench.conflist"), &network(&home, SUBNET))?;
    let words = [programs.containerd.as_path(), Path::new("--config"), &config];
    let words = words.iter().map(|word| word.display().to_string());
    home.start(without_hybrid_cgroups(programs).into_iter().chain(words).collect(), &socket)?;
    let import = import_command(programs, &socket);
    for layout in ["out/busybox", "out/web", "out-bench/pause"] {
        import_layout(&home, &import, &repository().join("hack/images").join(layout));
    }
    let logs = home.dir().join("logs");
    make_directory(&logs)?;
    Ok(Peer {
        name: name.into(),
        versions: versions(programs),
        socket,
        handler: String::new(),
        cgroup_parent: home.pods_cgroup(),
        import,
        logs,
        home: Some(home),
    })
}

/// What a command begins with, so that crun works: it refuses a machine whose cgroup v2 hierarchy has controllers beside
/// those of v1, so it does not see that hierarchy. The shims, which inherit this, and crun itself run no slower for it.
fn without_hybrid_cgroups(programs: &Programs) -> Vec<String> {
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !programs.runtime.ends_with("crun") || controllers.trim().is_empty() {
        return Vec::new();
    }
    let hide = "umount --lazy /sys/fs/cgroup/unified; exec \"$@\"";
    ["unshare", "--mount", "--propagation", "slave", "sh", "-c", hide, "sh"].map(str::to_owned).to_vec()
}

fn settings(home: &Home, programs: &Programs, socket: &Path) -> String {
    let (dir, socket, runtime) = (home.dir().display(), socket.display(), programs.runtime.display());
    let unused = [
        "internal.v1.opt",
        "snapshotter.v1.aufs",
        "snapshotter.v1.btrfs",
        "snapshotter.v1.devmapper",
        "snapshotter.v1.zfs",
    ];
    let unused = unused.map(|plugin| format!("'io.containerd.{plugin}'")).join(", ");
    format!(
        "version = 2\n\
         root = '{dir}/root'\n\
         state = '{dir}/state'\n\
         disabled_plugins = [{unused}]\n\
         [grpc]\n\
         address = '{socket}'\n\
         [plugins.'io.containerd.grpc.v1.cri']\n\
         sandbox_image = '{PAUSE}'\n\
         restrict_oom_score_adj = true\n\
         netns_mounts_under_state_dir = true\n\
         [plugins.'io.containerd.grpc.v1.cri'.cni]\n\
         bin_dir = '{CNI_PLUGINS}'\n\
         conf_dir = '{dir}/cni'\n\
         [plugins.'io.containerd.grpc.v1.cri'.registry]\n\
         config_path = '{dir}/certs.d'\n\
         [plugins.'io.containerd.grpc.v1.cri'.containerd]\n\
         default_runtime_name = 'bench'\n\
         [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.bench]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.bench.options]\n\
         BinaryName = '{runtime}'\n\
         Root = '{dir}/runtime'\n\
         SystemdCgroup = false\n"
    )
}

/// What the CNI plugins make, for `podman` too.
pub(super) fn network(home: &Home, subnet: &str) -> String {
    let addresses = serde_json::json!({
        "type": "host-local",
        "dataDir": home.dir().join("addresses"),
        "ranges": [[{ "subnet": subnet }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let bridge = serde_json::json!({
        "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "promiscMode": false,
        "ipam": addresses,
    });
    let ports = serde_json::json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    serde_json::json!({ "cniVersion": "0.4.0", "name": "bench", "plugins": [bridge, ports] }).to_string()
}

/// What imports and unpacks an archive, as a kubelet's images are.
fn import_command(programs: &Programs, socket: &Path) -> Vec<String> {
    let (ctr, socket) = (programs.containerd.with_file_name("ctr"), socket.display().to_string());
    let ctr = ctr.display().to_string();
    [&ctr, "--address", &socket, "--namespace", "k8s.io", "images", "import"].map(str::to_owned).to_vec()
}

/// `ctr` takes a layout as a tar archive.
fn import_layout(home: &Home, import: &[String], layout: &Path) {
    let archive = home.dir().join("import.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(layout).arg("."));
    run(home.site().command(&import[0]).args(&import[1..]).arg(&archive));
    let _ = std::fs::remove_file(&archive);
}

/// The first line of what each says of itself; of the plugins, which do not say, the package.
fn versions(programs: &Programs) -> Vec<String> {
    let version = |program: &Path| {
        let text = run(Command::new(program).arg("--version"));
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let plugins = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${Version}", "containernetworking-plugins"])
        .output();
    let plugins = plugins.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    [version(&programs.containerd), version(&programs.runtime)].into_iter().chain(plugins).collect()
}
