//! What can be done, by names that mean the same whatever was done before: so steps can be left out of a sequence.

/// How many identities of pods there are; the first two want the same port of the host.
pub(crate) const PODS: usize = 3;
/// How many containers a pod can have, by name and attempt.
pub(crate) const CONTAINERS: [(&str, u32); 3] = [("one", 0), ("one", 1), ("two", 0)];
/// The images; a container's is that of its place.
pub(crate) const IMAGES: [&str; 2] = ["registry.test/berth/busybox:latest", "registry.test/berth/web:latest"];

/// How an id is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// The beginning that crictl shows.
    Short,
    /// The first letter, which may be that of several.
    Letter,
    /// Of something that never was.
    Unknown,
    Nothing,
}

/// A pod: what was last made of an identity, if anything was, gone or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodRef(pub(crate) usize, pub(crate) Form);

/// A container: what was last made at a place in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContainerRef(pub(crate) usize, pub(crate) usize, pub(crate) Form);

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// It ends when asked.
    Polite,
    /// It does not hear.
    Deaf,
    /// It ends at once.
    Brief,
    /// Its program is not there.
    Absent,
}

/// A container's state, as filters have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Running,
    Exited,
}

/// One call, or something else that happens to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// With another configuration, or the usual one.
    RunPod {
        pod: usize,
        other: bool,
    },
    Pod(PodRef, PodCall),
    Container(ContainerRef, ContainerCall),
    Image(usize, ImageCall),
    ListPods {
        id: Option<PodRef>,
        ready: Option<bool>,
        label: Option<usize>,
    },
    ListContainers {
        id: Option<ContainerRef>,
        pod: Option<PodRef>,
        state: Option<Kind>,
        label: Option<Script>,
    },
    /// Without a warning; it is started again.
    KillAgent,
    /// With everything that it holds together.
    KillMonitor(usize),
}

/// A call about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodCall {
    Stop,
    Remove,
    Show,
    Create { place: usize, script: Script },
}

/// A call about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerCall {
    Start,
    Stop {
        grace: i64,
    },
    Remove,
    Exec {
        code: i32,
    },
    Update {
        shares: i64,
    },
    /// After the log has been taken away.
    Reopen,
    Show,
}

/// A call about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageCall {
    Pull,
    Remove,
    Show,
}

/// Who makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Alone,
    /// One of several at the same time, each with pods of its own. What is everybody's is left alone.
    Of(usize),
}

/// The same for each of the images.
pub(crate) fn on_all_images(call: ImageCall) -> impl Iterator<Item = Step> {
    (0..IMAGES.len()).map(move |image| Step::Image(image, call))
}

impl Step {
    /// What is done, and not to what: `Container(Start)`.
    pub(crate) fn name(&self) -> String {
        let word = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
        match self {
            Self::Pod(_, call) => format!("Pod({})", word(format!("{call:?}"))),
            Self::Container(_, call) => format!("Container({})", word(format!("{call:?}"))),
            Self::Image(_, call) => format!("Image({call:?})"),
            Self::RunPod { .. }
            | Self::ListPods { .. }
            | Self::ListContainers { .. }
            | Self::KillAgent
            | Self::KillMonitor(_) => word(format!("{self:?}")),
        }
    }
}
