//! The kernel's own part of a pod: the same objects as a runtime makes for one with one container, with nothing else.
//!
//! ```text
//! floor ──clone3──▶ worker   network and mount namespaces of its own; one pod after the other
//!                     ├─clone3─▶ pause      net, ipc, uts; cgroups
//!                     ├─clone3─▶ container  pid, mnt; cgroups, overlay, pause's namespaces, mounts, devices, root, exec
//!                     └─clone3─▶ session    the container's namespaces and cgroups; exec
//! ```
//! Each step is timed apart (`watch`), in the cheapest way that gives the same object: one netlink batch for each
//! namespace, plain mount(2), cgroup directories below a parent that is ready. What no runtime can do without is here
//! and nothing else: no plan, no record, no check of an image's paths, no user, capability or system call filter, no log.
//!
//! A clone copies its parent's memory and counts its threads, so all of this is done in a small process of its own with
//! one thread. The outermost process only waits, and clears up whatever becomes of the worker: namespaces end with
//! their processes, and cgroups and directories are removed by it.

mod container;
mod groups;
mod image;
mod network;
mod pause;
mod place;
mod pod;
mod rows;
mod session;
mod watch;
mod worker;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use berth_e2e::repository;
use berth_sys::clone::SingleThreaded;
use clap::Args;

use self::groups::Base;
use self::network::Bridge;
use self::place::Place;
use self::pod::{Site, live_and_die};
use self::rows::Rows;
use self::watch::Lap;
use crate::load::rest;

/// Pods before those that are measured: the kernel loads modules and fills its caches.
const WARM_UP_PODS: usize = 5;

/// Make the kernel objects of a pod with nothing else, and tell how long that takes.
#[derive(Debug, Args)]
pub(crate) struct Floor {
    /// How many pods.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Where the rows go as JSON; `-` prints them in the place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The image of the containers: an OCI layout with a static busybox; that of the tests, if none is given.
    #[arg(long, value_name = "LAYOUT")]
    image: Option<PathBuf>,
    /// Where the pods' directories are made, on the filesystem that runtimes use.
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
}

impl Floor {
    /// Measures and prints it.
    pub(crate) fn run(self) -> Result<()> {
        let rounds = self.measure()?;
        let rows = rows::of(&rounds);
        match self.json {
            Some(file) if file.as_os_str() == "-" => println!("{}", serde_json::to_string(&rows)?),
            Some(file) => {
                let written = std::fs::write(&file, serde_json::to_string(&rows)?);
                written.with_context(|| format!("write {}", file.display()))?;
                print!("{}", rows::table(&rows));
            }
            None => print!("{}", rows::table(&rows)),
        }
        Ok(())
    }

    /// The laps of each pod; nothing is left, whatever happens.
    fn measure(&self) -> Result<Vec<Vec<Lap>>> {
        let witness = SingleThreaded::verify().context("this process has threads")?;
        let name = format!("berth-floor-{}", std::process::id());
        let image = self.image.clone().unwrap_or_else(|| repository().join("hack/images/out/busybox"));
        let place = Place::make(self.directory.join(&name), &image)?;
        let measured = measure_in(&witness, &name, &place, self.pods);
        // What failed first is what is told.
        let removed = place.remove();
        measured.and_then(|rounds| removed.map(|()| rounds))
    }
}

fn measure_in(witness: &SingleThreaded, name: &str, place: &Place, pods: usize) -> Result<Vec<Vec<Lap>>> {
    let base = Base::make(name)?;
    let measured = worker::in_namespaces(witness, || {
        place.mount_volatile()?;
        let site = Site { witness, place, base: &base, bridge: Bridge::make()? };
        let rounds = (0..WARM_UP_PODS + pods).map(|_| {
            rest();
            live_and_die(&site)
        });
        let mut rounds: Vec<_> = rounds.collect::<Result<_>>()?;
        Ok(rounds.split_off(WARM_UP_PODS))
    });
    let removed = base.remove();
    measured.and_then(|rounds| removed.map(|()| rounds))
}

/// Makes so many pods, one after the other, and takes them down again, in a process of its own; blocks. The results are
/// under [`crate::report::FLOOR`].
pub(crate) fn measure(directory: &Path, pods: usize) -> Result<Rows> {
    let mut floor = Command::new("/proc/self/exe");
    floor.args(["floor", "--json", "-", "--pods", &pods.to_string()]).arg("--directory").arg(directory);
    let output = floor.stderr(Stdio::inherit()).output().context("run the floor")?;
    if !output.status.success() {
        bail!("the floor ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read what the floor has found")
}
