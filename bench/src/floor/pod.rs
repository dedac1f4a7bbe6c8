//! One pod of one container: made, and taken down again.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use berth_sys::clone::{Child, Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::packet::{self, Blocking};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::container::{self, Parts, become_container};
use super::groups::{Base, Group};
use super::network::Bridge;
use super::pause::{self, Network, become_pause};
use super::place::Place;
use super::session::run_true;
use super::watch::{Lap, Step, Stopwatch};

/// Where pods are made.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) witness: &'a SingleThreaded,
    pub(super) place: &'a Place,
    pub(super) base: &'a Base,
    pub(super) bridge: Bridge,
}

/// Makes a pod and takes it down. After an error the processes are left to die with this one, and the rest to whoever
/// removes the whole site.
pub(super) fn live_and_die(site: &Site<'_>) -> Result<Vec<Lap>> {
    // Their names are no part of the work.
    let (of_pod, of_container) = (site.base.child("pod")?, site.base.child("container")?);
    let mut watch = Stopwatch::start();
    let (pause, network) = make_sandbox(site, &of_pod, &mut watch)?;
    let container = make_container(site, &of_container, &pause, &mut watch)?;

    run_true(site.witness, &container, &of_container)?;
    watch.lap(Step::RunTrue);

    end(&container)?;
    watch.lap(Step::KillContainer);
    end(&pause)?;
    watch.lap(Step::KillPause);
    // As long as a handle keeps the namespace, it is this call that removes the pair, and not the namespace's end.
    site.bridge.remove_veth()?;
    drop(network);
    watch.lap(Step::RemoveVeth);
    of_container.remove()?;
    of_pod.remove()?;
    watch.lap(Step::RemoveCgroups);
    site.place.unmount_shm()?;
    watch.lap(Step::UnmountShm);
    site.place.remove_pod()?;
    watch.lap(Step::RemoveFiles);
    Ok(watch.into_laps())
}

fn make_sandbox(site: &Site<'_>, group: &Group, watch: &mut Stopwatch) -> Result<(Child, Network)> {
    group.make()?;
    watch.lap(Step::MakePodCgroups);
    site.place.make_pod()?;
    watch.lap(Step::WritePodFiles);

    let (ours, theirs) = packet::pair(Blocking::Yes)?;
    let namespaces = NewNamespaces { net: true, ipc: true, uts: true, ..NewNamespaces::default() };
    let directory = group.open()?;
    let pause = match clone3(site.witness, namespaces, directory.as_ref().map(AsFd::as_fd)) {
        Ok(Cloned::Child) => become_pause(group, &theirs, watch.for_clone()),
        Ok(Cloned::Parent(pause)) => pause,
        Err(errno) => return Err(errno).context("clone pause"),
    };
    drop(theirs);
    let network = pause::hear(&ours, watch)?;

    site.bridge.make_veth(network.namespace.as_fd())?;
    watch.lap(Step::MakeVeth);
    site.bridge.wire_pod(network.socket.as_fd())?;
    watch.lap(Step::WirePod);
    Ok((pause, network))
}

fn make_container(site: &Site<'_>, group: &Group, pause: &Child, watch: &mut Stopwatch) -> Result<Child> {
    group.make()?;
    group.limit()?;
    watch.lap(Step::MakeContainerCgroups);
    site.place.make_container()?;
    watch.lap(Step::MakeDirectories);

    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let namespaces = NewNamespaces { pid: true, mount: true, ..NewNamespaces::default() };
    let directory = group.open()?;
    let container = match clone3(site.witness, namespaces, directory.as_ref().map(AsFd::as_fd)) {
        Ok(Cloned::Child) => {
            drop(ours);
            let parts = Parts { place: site.place, group, pause: pause.pidfd.as_fd() };
            become_container(parts, theirs, watch.for_clone())
        }
        Ok(Cloned::Parent(container)) => container,
        Err(errno) => return Err(errno).context("clone the container"),
    };
    drop(theirs);
    container::hear(ours, watch)?;
    Ok(container)
}

fn end(child: &Child) -> Result<()> {
    pidfd_send_signal(&child.pidfd, Signal::KILL)?;
    waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    Ok(())
}
