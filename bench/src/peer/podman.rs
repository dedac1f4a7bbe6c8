//! podman, for a second opinion on the start of a single container: a program that makes one with a network of its own on
//! the same kind of bridge, and that answers no CRI.
//!
//! It is as Debian's package has it, but for what would meet that of another, and for what not every machine has: systemd,
//! a journal, the right to raise limits. Its containers are made by runc: crun, its default, refuses a machine whose cgroup
//! v2 hierarchy has controllers beside those of v1. What it keeps outside of its home is a cache of where blobs come from,
//! in `/var/lib/containers/cache`, and while a container runs what runc and CNI have in `/run/runc` and `/var/lib/cni`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_e2e::{repository, requests};

use super::home::Home;
use super::{containerd, make_directory, write_file};
use crate::ground::Ground;
use crate::load::IDLE;
use crate::report::Contender;

/// Where its containers' addresses are from.
const SUBNET: &str = "10.212.0.0/16";

/// One that has the test images.
#[derive(Debug)]
pub(crate) struct Podman {
    program: PathBuf,
    home: Home,
    contender: Contender,
}

impl Podman {
    /// Prepares one, and has it start a first container.
    pub(crate) fn start(ground: &Ground, program: &Path, runtime: &Path) -> Result<Self> {
        if !program.is_file() {
            bail!("there is no {}", program.display());
        }
        let home = Home::new(ground, "podman")?;
        let name = format!("podman+{}", runtime.file_name().unwrap_or_default().display());
        let contender = Contender { name, versions: Vec::new() };
        let mut podman = Self { program: program.to_owned(), home, contender };
        let dir = podman.home.dir();
        write_file(&dir.join("containers.conf"), &settings(dir, runtime))?;
        make_directory(&dir.join("cni"))?;
        write_file(&dir.join("cni/bench.conflist"), &containerd::network(&podman.home, SUBNET))?;
        let version = podman.run(&["--version"])?;
        podman.contender.versions = vec![version.trim().to_owned(), "a single container, no pod".into()];
        podman.load(&repository().join("hack/images/out/busybox"))?;
        podman.start_and_stop("warm-up")?;
        podman.home.remember();
        Ok(podman)
    }

    /// As in the columns.
    pub(crate) fn name(&self) -> &str {
        &self.contender.name
    }

    /// Who it is.
    pub(crate) fn contender(&self) -> Contender {
        self.contender.clone()
    }

    /// A container from nothing to its first line of output and back again; how long both took, by the names that pods
    /// have for it.
    pub(crate) fn start_and_stop(&self, name: &str) -> Result<[(&'static str, Duration); 2]> {
        let parent = self.home.pods_cgroup();
        let place = ["--name", name, "--network", "bench", "--cgroup-parent", &parent];
        let begun = Instant::now();
        let mut container = self
            .command(&[&["run"], &place[..], &[requests::BUSYBOX, "sh", "-c", IDLE]].concat())
            .stdout(Stdio::piped())
            .spawn()
            .context("run podman")?;
        let mut line = String::new();
        let output = container.stdout.take().context("podman run has an output")?;
        BufReader::new(output).read_line(&mut line)?;
        let started = begun.elapsed();
        if line.trim() != "ready" {
            bail!("podman run said {line:?}, and ended with {}", container.wait()?);
        }
        let begun = Instant::now();
        self.run(&["stop", "--time", "30", name])?;
        self.run(&["rm", name])?;
        let stopped = begun.elapsed();
        container.wait()?;
        Ok([("pod start to first log line", started), ("stop + remove", stopped)])
    }

    /// What it has left behind.
    pub(crate) fn end(self) -> Vec<String> {
        let left = self.home.end();
        left.into_iter().map(|problem| format!("{}: {problem}", self.contender.name)).collect()
    }

    /// It takes a layout as a tar archive.
    fn load(&self, layout: &Path) -> Result<()> {
        let archive = self.home.dir().join("import.tar");
        berth_e2e::run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(layout).arg("."));
        self.run(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
    }

    /// Runs one to its end, which must be a success; returns what it prints.
    fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("run podman")?;
        if !output.status.success() {
            bail!("podman {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, words: &[&str]) -> Command {
        let dir = self.home.dir();
        let mut command = self.home.site().command(&self.program);
        for (option, place) in [("--root", "root"), ("--runroot", "state/run"), ("--tmpdir", "state/tmp")] {
            command.arg(option).arg(dir.join(place));
        }
        command.args(["--storage-driver", "overlay"]).args(words);
        command.env("CONTAINERS_CONF", dir.join("containers.conf")).stdin(Stdio::null());
        command
    }
}

/// Source: containers.conf(5).
fn settings(dir: &Path, runtime: &Path) -> String {
    let (dir, runtime) = (dir.display(), runtime.display());
    format!(
        "[containers]\n\
         default_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']\n\
         log_driver = 'k8s-file'\n\
         pids_limit = 0\n\
         [engine]\n\
         cgroup_manager = 'cgroupfs'\n\
         events_logger = 'none'\n\
         lock_type = 'file'\n\
         runtime = '{runtime}'\n\
         [network]\n\
         cni_plugin_dirs = ['{}']\n\
         default_network = 'bench'\n\
         network_backend = 'cni'\n\
         network_config_dir = '{dir}/cni'\n",
        containerd::CNI_PLUGINS
    )
}
