//! A process in namespaces of its own, and what waits for it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use berth_sys::clone::{Child, Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::exec::{block_signals, exit_now, reset_signals};
use berth_sys::mountattr::{MountAttributes, Propagation, Reach, set_attributes};
use berth_sys::termination;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, pidfd_send_signal, set_parent_process_death_signal, waitid,
};

use super::watch::Lap;

type Rounds = Vec<Vec<Lap>>;

/// Does `work` in a clone with a network and a mount namespace of its own, and waits for the clone's end. SIGTERM ends
/// it; a signal that the terminal sends to both ends only the clone, and the caller can clear up.
pub(super) fn in_namespaces(
    witness: &SingleThreaded,
    work: impl FnOnce() -> Result<Rounds>,
) -> Result<Rounds> {
    block_signals();
    let terminated = termination::open()?;
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let namespaces = NewNamespaces { net: true, mount: true, ..NewNamespaces::default() };
    let worker = match clone3(witness, namespaces, None).context("clone the worker")? {
        Cloned::Child => {
            drop(ours);
            let told = tell(theirs, &prepare().and_then(|()| work()));
            exit_now(told.is_err().into())
        }
        Cloned::Parent(worker) => worker,
    };
    drop(theirs);
    let said = hear(ours, &terminated, &worker);
    let waited = waitid(WaitId::PidFd(worker.pidfd.as_fd()), WaitIdOptions::EXITED);
    let said = said?;
    waited?;
    let outcome: std::result::Result<Rounds, String> =
        serde_json::from_slice(&said).context("the worker died before its time")?;
    outcome.map_err(|why| anyhow!(why))
}

fn prepare() -> Result<()> {
    reset_signals();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let private = MountAttributes { propagation: Some(Propagation::Private), ..Default::default() };
    set_attributes(root.as_fd(), Reach::Tree, private).context("make the mounts private")
}

fn tell(to: OwnedFd, outcome: &Result<Rounds>) -> Result<()> {
    let outcome = outcome.as_ref().map_err(|error| format!("{error:#}"));
    Ok(File::from(to).write_all(&serde_json::to_vec(&outcome)?)?)
}

/// Reads all that the worker says; kills it on a SIGTERM.
fn hear(from: OwnedFd, terminated: &OwnedFd, worker: &Child) -> Result<Vec<u8>> {
    let (mut from, mut said) = (File::from(from), Vec::new());
    loop {
        let mut waiting = [PollFd::new(&from, PollFlags::IN), PollFd::new(terminated, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        if !waiting[1].revents().is_empty() {
            pidfd_send_signal(&worker.pidfd, Signal::KILL)?;
            bail!("terminated");
        }
        let mut part = [0; 16 * 1024];
        match from.read(&mut part)? {
            0 => return Ok(said),
            length => said.extend_from_slice(&part[..length]),
        }
    }
}
