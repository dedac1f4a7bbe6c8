//! The steps of a pod's life, and a stopwatch that goes with the work from process to process.
//!
//! A clone inherits the stopwatch with the rest of the memory, so that its first lap begins where its parent began to
//! clone; it hands the laps back as text. All processes read the same monotonic clock.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Makes the enum, its words, and the call of the CRI that each step belongs to.
macro_rules! steps {
    ($($call:literal: { $($step:ident = $words:literal,)* })*) => {
        /// What is done for a pod, in its order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) enum Step {
            $($(#[doc = $words] $step,)*)*
        }

        impl Step {
            /// All, in their order.
            pub(super) const ALL: &[Self] = &[$($(Self::$step,)*)*];

            /// What is done.
            pub(super) fn words(self) -> &'static str {
                match self {
                    $($(Self::$step => $words,)*)*
                }
            }

            /// The call in which a runtime does it.
            pub(super) fn call(self) -> &'static str {
                match self {
                    $($(Self::$step => $call,)*)*
                }
            }
        }
    };
}

steps! {
    "RunPodSandbox": {
        MakePodCgroups = "make the pod's cgroups",
        WritePodFiles = "write the pod's files, mount its /dev/shm",
        ClonePause = "clone pause: net, ipc, uts",
        PreparePause = "pause: enter the cgroups, set the hostname, hand over its network namespace",
        MakeVeth = "make the veth pair, one end on the bridge",
        WirePod = "bring up loopback and eth0, add address and route",
    }
    "CreateContainer": {
        MakeContainerCgroups = "make the container's cgroups, limit its devices",
        MakeDirectories = "make the container's directories",
        CloneContainer = "clone the container: pid, mnt",
        EnterCgroups = "enter the cgroups",
        MountRoot = "mount the overlay",
        JoinPod = "join pause's namespaces",
        MountFilesystems = "mount the kernel's filesystems and the pod's files",
        MakeDevices = "make device nodes and links",
        ChangeRoot = "change the root",
    }
    "StartContainer": {
        Execute = "execute",
    }
    "ExecSync": {
        RunTrue = "clone into the container's namespaces and cgroups, execute true, reap it",
    }
    "StopContainer": {
        KillContainer = "kill the container, reap it",
    }
    "StopPodSandbox": {
        KillPause = "kill pause, reap it",
    }
    "RemovePodSandbox": {
        RemoveVeth = "remove the veth pair",
        RemoveCgroups = "remove the cgroups",
        UnmountShm = "unmount /dev/shm",
        RemoveFiles = "remove files and directories",
    }
}

/// One step and how long it took, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lap {
    pub(super) step: Step,
    pub(super) ns: u64,
}

/// Takes the time of one step after the other.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stopwatch {
    /// When the last step ended, in nanoseconds of the monotonic clock.
    last_ns: u64,
    laps: Vec<Lap>,
}

impl Stopwatch {
    /// Begins the first step.
    pub(super) fn start() -> Self {
        Self { last_ns: now_ns(), laps: Vec::with_capacity(Step::ALL.len()) }
    }

    /// Ends a step, and begins the next.
    pub(super) fn lap(&mut self, step: Step) {
        let now = now_ns();
        self.laps.push(Lap { step, ns: now - self.last_ns });
        self.last_ns = now;
    }

    /// For a clone: goes on from here, without the laps.
    pub(super) fn for_clone(&self) -> Self {
        Self { last_ns: self.last_ns, laps: Vec::with_capacity(Step::ALL.len()) }
    }

    /// Goes on where a clone has stopped.
    pub(super) fn follow(&mut self, clone: Self) {
        self.last_ns = clone.last_ns;
        self.laps.extend(clone.laps);
    }

    /// What was measured.
    pub(super) fn into_laps(self) -> Vec<Lap> {
        self.laps
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clones_laps_are_between_its_parents() {
        let mut watch = Stopwatch::start();
        watch.lap(Step::MakePodCgroups);
        let begun = watch.last_ns;
        let mut inherited = watch.for_clone();
        inherited.lap(Step::ClonePause);
        let ended = inherited.last_ns;
        watch.follow(inherited);
        watch.lap(Step::PreparePause);
        let laps = watch.into_laps();
        let steps: Vec<Step> = laps.iter().map(|lap| lap.step).collect();
        assert_eq!(steps, [Step::MakePodCgroups, Step::ClonePause, Step::PreparePause]);
        assert_eq!(laps[1].ns, ended - begun);
    }
}
