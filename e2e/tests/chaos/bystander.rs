//! Another pod, which must not notice what becomes of its neighbours.

use std::time::Duration;

use berth_cri_proto::v1::ContainerState;
use berth_e2e::{Node, Pod, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits by reading what nobody writes: a program to wait with would be a process that comes and goes.
const SCRIPT: &str =
    "mkfifo /tmp/f; exec 3<>/tmp/f; i=0; while :; do echo $((i=i+1)); read -t 0.05 x <&3; done";

/// A container that writes numbered lines.
#[derive(Debug)]
pub(crate) struct Bystander<'a> {
    pod: Pod<'a>,
    container: String,
    started_at: i64,
    lines: usize,
}

impl<'a> Bystander<'a> {
    pub(crate) fn start(node: &'a Node) -> Self {
        let pod = node.pod("bystander");
        let container = pod.shell("main", SCRIPT);
        let started_at = pod.status(&container).started_at;
        Self { pod, container, started_at, lines: 0 }
    }

    /// Its id.
    pub(crate) fn pod(&self) -> &str {
        &self.pod.id
    }

    /// The id of its container.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    pub(crate) fn end(self) {
        self.pod.take_down();
    }

    /// It runs as ever, and no line is missing or doubled.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        let status = self.pod.status(&self.container);
        let before = std::mem::replace(&mut self.started_at, status.started_at);
        if (status.state(), status.started_at) != (ContainerState::ContainerRunning, before) {
            return Err(format!(
                "the other pod's container is {:?} since {}",
                status.state(),
                status.started_at
            ));
        }
        let lines = eventually("a line of the other pod's", PATIENCE, || {
            Some(self.pod.log("main")).filter(|lines| lines.len() > self.lines)
        });
        self.lines = lines.len();
        let wrong = lines.iter().zip(1..).find(|(line, number)| **line != format!("{number}"));
        wrong.map_or(Ok(()), |(line, number)| Err(format!("line {number} of the other pod is {line:?}")))
    }
}
