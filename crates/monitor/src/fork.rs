//! The parent's side of every birth: pipes, the handshake's socket, the fork, and what the parent keeps.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_cgroup::Entry;
use berth_fault::point;
use berth_logs::{LogError, LogFile, Stream};
use berth_sys::clone::{Child, Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::packet::{self, Blocking, Packet};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use crate::birth::{Entrance, PodUsers};
use crate::container::{Container, ReplyTo};
use crate::foreign::{become_attendant, become_deletion};
use crate::handshake::{ChildMessage, Gate, open_gate};
use crate::hook::outside::{Call, OutsideHooks, become_errand};
use crate::launch::{Birthright, become_container};
use crate::output::Output;
use crate::pause::become_pause;
use crate::plan::{ForeignPlan, LaunchPlan, PidNamespace, SandboxPlan, Sharing, StdioPlan};
use crate::protocol::Failure;
use crate::stage::{Stage, StageError};
use crate::streams::Streams;
use crate::user_namespace;

/// Pause at rest, and what the monitor keeps of it.
#[derive(Debug)]
pub(crate) struct Resting {
    pub(crate) pause: Child,
    /// `[netlink socket, network namespace]` of a pod with its own network.
    pub(crate) handles: Vec<OwnedFd>,
    /// The pod's own user namespace.
    pub(crate) user_namespace: Option<OwnedFd>,
}

/// Forks pause into the plan's namespaces, and into a copy of the bare one, and waits until it rests.
pub(crate) fn fork_pause(
    witness: &SingleThreaded,
    plan: &SandboxPlan,
    bare: Option<OwnedFd>,
) -> Result<Resting, Failure> {
    point!("fork pause").pass()?;
    let bare = bare.filter(|_| plan.user_namespace.is_none());
    // In a user namespace the shared ones wait for its ids: what the kernel makes with them is to be its root's.
    let shared = match plan.user_namespace {
        None => shared_namespaces(plan),
        Some(_) => NewNamespaces::default(),
    };
    let namespaces = NewNamespaces {
        user: plan.user_namespace.is_some(),
        pid: plan.shared_pid,
        mount: bare.is_none(),
        ..shared
    };
    let (ours, theirs) = packet::pair(Blocking::Yes).map_err(fork_error("socket"))?;
    let pause = match clone3(witness, namespaces, None).map_err(fork_error("pause"))? {
        Cloned::Child => become_pause(witness.in_child(), plan, bare, theirs),
        Cloned::Parent(child) => child,
    };
    drop(theirs);
    match attend_pause(&pause, plan, &ours) {
        Ok((handles, user_namespace)) => Ok(Resting { pause, handles, user_namespace }),
        Err(failure) => {
            let _ = pidfd_send_signal(&pause.pidfd, Signal::KILL);
            Err(failure)
        }
    }
}

/// The new namespaces that all containers of the pod are in.
pub(crate) fn shared_namespaces(plan: &SandboxPlan) -> NewNamespaces {
    NewNamespaces {
        net: plan.net == Sharing::Own,
        ipc: plan.ipc == Sharing::Own,
        uts: plan.hostname.is_some(),
        ..NewNamespaces::default()
    }
}

/// Does what pause needs done from outside, and waits for its word that it rests.
fn attend_pause(
    pause: &Child,
    plan: &SandboxPlan,
    gate: &OwnedFd,
) -> Result<(Vec<OwnedFd>, Option<OwnedFd>), Failure> {
    let mut user_namespace = None;
    if let Some(maps) = &plan.user_namespace {
        user_namespace = Some(user_namespace::establish(pause, maps)?);
        open_gate(gate).map_err(fork_error("pause"))?;
    }
    match hear(gate) {
        Heard::Ready { handles, .. } => Ok((handles, user_namespace)),
        Heard::Failed(failure) => Err(failure),
        Heard::Born(_) | Heard::AwaitsHooks | Heard::Nothing | Heard::End => {
            Err(Failure::Other { detail: "pause died before it was ready".to_owned() })
        }
    }
}

/// The pod that a container is made in.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    pub(crate) plan: &'a SandboxPlan,
    pub(crate) pause: &'a Child,
    pub(crate) user_namespace: Option<&'a OwnedFd>,
}

impl Home<'_> {
    fn entrance(&self) -> Entrance<'_> {
        let user = self.plan.user_namespace.as_ref().zip(self.user_namespace);
        Entrance {
            pause: self.pause.pidfd.as_fd(),
            namespaces: namespaces_of(self.plan),
            user: user.map(|(maps, namespace)| PodUsers { namespace: namespace.as_fd(), maps }),
        }
    }
}

/// Forks a container's child, which works through [`crate::launch`] on its own. `pid_target` is the process whose pid
/// namespace it joins, if it gets none of its own.
pub(crate) fn fork_container(
    witness: &SingleThreaded,
    home: &Home<'_>,
    plan: LaunchPlan,
    pid_target: Option<BorrowedFd<'_>>,
    reply: ReplyTo,
) -> Result<Container, Failure> {
    let log = open_log(&plan.stdio).map_err(|error| Failure::Other { detail: chain(&error) })?;
    // Another runtime's container comes into its cgroup by itself, and into its pid namespace.
    let cgroup = if plan.foreign.is_some() { None } else { open_cgroup(&plan.cgroup)? };
    let pid_target = pid_target.filter(|_| plan.foreign.is_none());
    let (gate, child_gate) = packet::pair(Blocking::Yes).map_err(fork_error("socket"))?;
    let (streams, stdin, outputs) = make_streams(&plan).map_err(fork_error("standard streams"))?;
    let namespaces = NewNamespaces {
        // One that is to belong to the pod's user namespace is made in there.
        pid: plan.pid_namespace == PidNamespace::Own
            && home.user_namespace.is_none()
            && plan.foreign.is_none(),
        mount: true,
        ..NewNamespaces::default()
    };

    let forked =
        in_pid_namespace(pid_target, || clone3(witness, namespaces, cgroup.as_ref().map(AsFd::as_fd)));
    let child = match forked.map_err(fork_error("process"))? {
        Cloned::Child => {
            let birthright = Birthright { gate: Gate::new(child_gate), entrance: home.entrance(), streams };
            match &plan.foreign {
                Some(foreign) => become_attendant(&plan, foreign, birthright),
                None => become_container(&plan, birthright),
            }
        }
        Cloned::Parent(child) => child,
    };
    let mut container = Container::new(plan, child, reply);
    container.user_namespace = home.plan.user_namespace;
    let _ = rustix::io::ioctl_fionbio(&gate, true);
    container.gate = Some(gate);
    (container.stdin, container.outputs, container.sinks.log) = (stdin, outputs, log);
    Ok(container)
}

/// Forks a child that has another runtime forget a container.
pub(crate) fn fork_deletion(
    witness: &SingleThreaded,
    foreign: &ForeignPlan,
    container: &str,
) -> Result<Child, Errno> {
    match clone3(witness, NewNamespaces::default(), None)? {
        Cloned::Child => become_deletion(foreign, container),
        Cloned::Parent(child) => Ok(child),
    }
}

/// Forks a child that runs hooks outside of a container; with it comes its leash.
pub(crate) fn fork_errand(
    witness: &SingleThreaded,
    outside: &OutsideHooks,
    call: Call,
) -> Result<(Child, OwnedFd), Errno> {
    let (ours, theirs) = packet::pair(Blocking::Yes)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    match clone3(witness, NewNamespaces::default(), None)? {
        Cloned::Child => become_errand(outside, call, theirs),
        Cloned::Parent(child) => Ok((child, ours)),
    }
}

/// Moves this process into its cgroups on v1; on v2 it was born there. It has one thread.
pub(crate) fn join_cgroup(entry: &Entry) -> Result<(), StageError> {
    entry.tasks.iter().try_for_each(|file| {
        std::fs::write(file, "0").map_err(|error| StageError {
            stage: Stage::JoinCgroup,
            object: file.display().to_string(),
            errno: Errno::from_io_error(&error),
        })
    })
}

/// The directory to clone into, where there is a cgroup v2 hierarchy.
pub(crate) fn open_cgroup(entry: &Entry) -> Result<Option<OwnedFd>, Failure> {
    let Some(directory) = &entry.directory else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fail = StageError::at(Stage::JoinCgroup, directory.display().to_string());
    open(directory, flags, Mode::empty()).map(Some).map_err(|errno| fail(errno).into())
}

/// Runs `fork` so that the child lands in the pid namespace of `target`.
///
/// setns(2) with a pid namespace moves only children born later, so the monitor enters it for the length of one fork
/// and returns: the child stays its own child, with no process in between.
#[expect(clippy::disallowed_methods, reason = "the monitor enters the pod's pid namespace for one fork")]
pub(crate) fn in_pid_namespace(
    target: Option<BorrowedFd<'_>>,
    fork: impl FnOnce() -> Result<Cloned, Errno>,
) -> Result<Cloned, Errno> {
    let Some(target) = target else { return fork() };
    let home = open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_thread_name_spaces(target, ThreadNameSpaceType::PROCESS_ID)?;
    let forked = fork();
    if let Ok(Cloned::Child) = forked {
        return forked;
    }
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    forked
}

/// Does `work` in the uts namespace of `target`, which the monitor enters for as long as that takes.
#[expect(
    clippy::disallowed_methods,
    reason = "the monitor enters the pod's uts namespace to set its hostname"
)]
pub(crate) fn in_uts_namespace<T>(
    target: impl AsFd,
    work: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let home = open("/proc/self/ns/uts", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_thread_name_spaces(
        target.as_fd(),
        ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
    )?;
    let done = work();
    let uts = Some(LinkNameSpaceType::HostNameAndNISDomainName);
    rustix::thread::move_into_link_name_space(home.as_fd(), uts)?;
    done
}

/// What a child has said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing more for now.
    Nothing,
    /// It is ready; `handles` are what it hands over.
    Ready { user: crate::protocol::ResolvedUser, warnings: Vec<String>, handles: Vec<OwnedFd> },
    /// It has taken the place of the child that was forked; its pidfd.
    Born(Option<OwnedFd>),
    /// It waits for hooks to run outside.
    AwaitsHooks,
    /// A step failed.
    Failed(Failure),
    /// It has closed its end: exec, or death.
    End,
}

/// Reads one message of a handshake. What can't be understood counts as the end.
pub(crate) fn hear(gate: &OwnedFd) -> Heard {
    let Packet { bytes, fds } = match packet::receive(gate) {
        Ok(Some(packet)) => packet,
        Err(Errno::AGAIN) => return Heard::Nothing,
        Ok(None) | Err(_) => return Heard::End,
    };
    match serde_json::from_slice(&bytes) {
        Ok(ChildMessage::Ready { user, warnings }) => Heard::Ready { user, warnings, handles: fds },
        Ok(ChildMessage::Born) => Heard::Born(fds.into_iter().next()),
        Ok(ChildMessage::AwaitsHooks) => Heard::AwaitsHooks,
        Ok(ChildMessage::Failed(failure)) => Heard::Failed(failure),
        Err(_) => Heard::End,
    }
}

fn open_log(stdio: &StdioPlan) -> Result<Option<LogFile>, LogError> {
    match (&stdio.log, &stdio.log_directory) {
        (Some(log), Some(directory)) => LogFile::open_below(directory, log).map(Some),
        (Some(log), None) => LogFile::open(log).map(Some),
        (None, _) => Ok(None),
    }
}

/// The child's streams, and the parent's side of them. With a terminal the child replaces its streams itself, and the
/// parent's side comes with the handshake.
#[expect(clippy::type_complexity, reason = "three values for one caller")]
fn make_streams(plan: &LaunchPlan) -> Result<(Streams, Option<OwnedFd>, [Option<Output>; 2]), Errno> {
    let null = || open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    if plan.stdio.tty {
        return Ok((Streams { stdin: null()?, stdout: null()?, stderr: null()? }, None, [None, None]));
    }
    let (stdin, stdin_writer) = match plan.stdio.stdin {
        true => pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (read, Some(write)))?,
        false => (null()?, None),
    };
    let output = |stream| {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok::<_, Errno>((write, Some(Output::new(read, stream, plan.stdio.log_line_bytes))))
    };
    let (stdout, out) = output(Stream::Stdout)?;
    let (stderr, err) = output(Stream::Stderr)?;
    Ok((Streams { stdin, stdout, stderr }, stdin_writer, [out, err]))
}

fn namespaces_of(pod: &SandboxPlan) -> ThreadNameSpaceType {
    let mut namespaces = ThreadNameSpaceType::empty();
    namespaces.set(ThreadNameSpaceType::NETWORK, pod.net == Sharing::Own);
    namespaces.set(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, pod.ipc == Sharing::Own);
    namespaces.set(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, pod.hostname.is_some());
    namespaces
}

/// A copy of a value in memory, for a process that gets it as a descriptor.
///
/// # Errors
/// The memory can't be had.
pub fn memfd_of(value: &impl serde::Serialize) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("berth", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(value)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a plan from the memfd that came with a request.
pub(crate) fn read_plan<T: serde::de::DeserializeOwned>(memfd: Option<OwnedFd>) -> Result<T, Failure> {
    let memfd = memfd.ok_or_else(|| Failure::Other { detail: "the request brought no plan".to_owned() })?;
    let plan = serde_json::from_reader(std::io::BufReader::new(File::from(memfd)));
    plan.map_err(|error| Failure::Other { detail: format!("read the plan: {error}") })
}

pub(crate) fn fork_error(object: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| StageError::at(Stage::Fork, object)(errno).into()
}

/// An error with all its sources, for a failure that travels as text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
