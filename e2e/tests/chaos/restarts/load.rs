//! What a pod of the test does all the time, and how it is told that nothing of it was lost.

use std::fs;
use std::path::PathBuf;

use berth_cri_proto::v1::*;
use berth_e2e::{Node, Pod, requests, whole_lines};

/// The container that counts.
pub(crate) const COUNTER: &str = "count";
/// The container that ends, again and again: each attempt with a code of its own.
pub(crate) const MORTAL: &str = "mortal";
/// The exit code of a counter that is asked to stop.
pub(crate) const STOPPED: i32 = 7;

/// Waits by reading what nobody writes: a program to wait with would be a process more.
const COUNT: &str = "trap 'exit 7' TERM; mkfifo /tmp/f; exec 3<>/tmp/f; i=0; \
                     while :; do echo $((i=i+1)); read -t PACE x <&3; done";

/// A pod with its two containers.
#[derive(Debug)]
pub(crate) struct LoadedPod {
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) counter: String,
}

impl LoadedPod {
    /// Makes one, with an agent that is there.
    pub(crate) fn make(node: &Node, number: usize, pace_s: f32) -> Self {
        let pod = Pod::run(node, node.sandbox(&format!("load-{number}")));
        let counter = pod.shell(COUNTER, &COUNT.replace("PACE", &pace_s.to_string()));
        Self { number, counter, id: pod.id, config: pod.config }
    }

    /// The next life of the container that ends, after so many seconds.
    pub(crate) fn mortal(&self, attempt: u32, life_s: usize) -> ContainerConfig {
        let code = self.code_of(attempt);
        let script = format!("mkfifo /tmp/f; exec 3<>/tmp/f; read -t {life_s} x <&3; exit {code}");
        let mut config = requests::shell(MORTAL, &script);
        config.metadata.as_mut().unwrap().attempt = attempt;
        config.log_path = format!("{MORTAL}-{attempt}.log");
        config
    }

    /// How an attempt ends: not with 0, and not like its neighbours.
    pub(crate) fn code_of(&self, attempt: u32) -> i32 {
        1 + (self.number as i32 * 7 + attempt as i32 * 13) % 120
    }

    /// The counter's log, which is rotated.
    pub(crate) fn log(&self) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{COUNTER}.log"))
    }

    /// Where the log goes in its nth rotation.
    pub(crate) fn rotated(&self, rotation: usize) -> PathBuf {
        self.log().with_extension(format!("log.{rotation}"))
    }

    /// How far it has counted, with no line missing or doubled over all of its files.
    pub(crate) fn counted(&self) -> Result<usize, String> {
        let rotated = (0..).map(|rotation| self.rotated(rotation)).take_while(|path| path.exists());
        let files: Vec<_> = rotated.chain(Some(self.log()).filter(|path| path.exists())).collect();
        let lines: Vec<_> = files.iter().flat_map(|path| whole_lines(path)).collect();
        match lines.iter().zip(1..).find(|(line, number)| **line != number.to_string()) {
            Some((line, number)) => Err(format!(
                "pod {}: line {number} of its counter, in {} files, is {line:?}",
                self.number,
                files.len()
            )),
            None => Ok(lines.len()),
        }
    }

    /// Removes what the kubelet would: the logs.
    pub(crate) fn remove_logs(&self) {
        let _ = fs::remove_dir_all(&self.config.log_directory);
    }
}
