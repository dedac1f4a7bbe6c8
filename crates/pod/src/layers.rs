//! How large the containers' writable layers are.
//!
//! Only a walk over a layer can tell, and a walk may take long. So nobody who asks waits for one: a thread of low
//! priority walks, rests four times as long as it has walked, and leaves what it found with the time at which it was
//! so. A container whose CPU time has not changed since the last walk has not written anything: what was found then is
//! still true, and the layer is not walked again. A node full of idle containers costs nothing.
//!
//! Until a container's first walk, what is told is what was true when it was made: an empty directory.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use berth_image::{DiskUsage, disk_usage};
use berth_monitor::id::ContainerId;

use crate::clock;
use crate::host::Host;
use crate::view::{ContainerState, ContainerView};

/// Between two looks at a container.
const PERIOD: Duration = Duration::from_secs(10);
/// Work between two rests.
const STRETCH: Duration = Duration::from_millis(5);
/// A rest, as a multiple of the work before it.
const REST: u32 = 4;
/// The upper directory of a container's overlay, below the container's own directory.
const UPPER: &str = "upper";
/// What an empty directory takes on most filesystems.
const EMPTY: DiskUsage = DiskUsage { bytes: 4096, inodes: 1 };

/// How large one container's layer was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// What the container has written over its image.
    pub layer: DiskUsage,
    /// What else its directory holds.
    pub(crate) besides: DiskUsage,
}

impl LayerUsage {
    /// A layer of this size, with nothing besides.
    pub fn new(at_ns: i64, layer: DiskUsage) -> Self {
        Self { at_ns, layer, besides: DiskUsage::default() }
    }
}

/// What the walks found.
#[derive(Debug, Default)]
pub(crate) struct Layers(Mutex<HashMap<ContainerId, Found>>);

#[derive(Debug, Clone, Copy)]
struct Found {
    usage: LayerUsage,
    /// The container's CPU time before the walk.
    cpu_ns: Option<u64>,
}

impl Layers {
    /// What is known of a container's layer.
    pub(crate) fn of(&self, container: &ContainerView) -> LayerUsage {
        let found = self.found().get(&container.id).copied();
        found.map_or_else(|| LayerUsage::new(container.created_at_ns, EMPTY), |found| found.usage)
    }

    fn found(&self) -> MutexGuard<'_, HashMap<ContainerId, Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the walks when it goes.
#[derive(Debug)]
pub(crate) struct Walking {
    _end: Sender<()>,
}

/// Starts the thread that walks.
pub(crate) fn start_walking(host: &Arc<Host>) -> std::io::Result<Walking> {
    let (end, ended) = channel();
    let host = Arc::downgrade(host);
    std::thread::Builder::new().name("berth-layers".to_owned()).spawn(move || {
        // Of this thread alone, on Linux. One that may not be nice can still rest.
        let _ = rustix::process::nice(19);
        while rest(&ended, PERIOD).is_ok() {
            if walk_all(&host, &ended).is_err() {
                return;
            }
        }
    })?;
    Ok(Walking { _end: end })
}

/// The agent stops.
struct Ended;

fn rest(ended: &Receiver<()>, time: Duration) -> Result<(), Ended> {
    match ended.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Ended),
    }
}

fn walk_all(host: &Weak<Host>, ended: &Receiver<()>) -> Result<(), Ended> {
    let host = host.upgrade().ok_or(Ended)?;
    let snapshot = host.snapshot();
    host.layers.found().retain(|id, _| snapshot.containers().any(|container| container.id == *id));
    for container in snapshot.containers() {
        let at_ns = clock::now_ns();
        let known = host.layers.found().get(&container.id).copied();
        let cpu_ns = match &container.state {
            ContainerState::Exited(ended) => {
                if known.is_some_and(|known| known.usage.at_ns > ended.finished_at_ns) {
                    continue;
                }
                None
            }
            ContainerState::Created | ContainerState::Running { .. } => {
                host.meters.of(&container.cgroup).and_then(|metered| metered.cpu_ns())
            }
        };
        let usage = match known {
            Some(known) if cpu_ns.is_some() && known.cpu_ns == cpu_ns => LayerUsage { at_ns, ..known.usage },
            _ => {
                let mut pace = Pace { begun: Instant::now(), entries: 0, ended, stopped: false };
                let measured = measure(&host.container_directory(&container.id), &mut pace);
                if pace.stopped {
                    return Err(Ended);
                }
                // It is being removed.
                let Ok((layer, besides)) = measured else { continue };
                LayerUsage { at_ns, layer, besides }
            }
        };
        host.layers.found().insert(container.id.clone(), Found { usage, cpu_ns });
    }
    Ok(())
}

/// Rests now and then.
struct Pace<'a> {
    begun: Instant,
    entries: u32,
    ended: &'a Receiver<()>,
    stopped: bool,
}

impl Pace<'_> {
    fn step(&mut self) {
        self.entries = self.entries.wrapping_add(1);
        // Most entries cost less than asking for the time.
        if !self.entries.is_multiple_of(64) || self.stopped {
            return;
        }
        let worked = self.begun.elapsed();
        if worked >= STRETCH {
            self.stopped = rest(self.ended, worked * REST).is_err();
            self.begun = Instant::now();
        }
    }
}

/// The upper directory, and all else in a container's directory.
fn measure(directory: &Path, pace: &mut Pace<'_>) -> std::io::Result<(DiskUsage, DiskUsage)> {
    let layer = disk_usage(&directory.join(UPPER), || pace.step())?;
    let mut besides = allocated(&std::fs::metadata(directory)?);
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.file_name() == UPPER {
            continue;
        }
        let usage = match entry.file_type()?.is_dir() {
            true => disk_usage(&entry.path(), || pace.step())?,
            false => allocated(&entry.metadata()?),
        };
        besides = besides.and(usage);
    }
    Ok((layer, besides))
}

fn allocated(metadata: &std::fs::Metadata) -> DiskUsage {
    DiskUsage { bytes: metadata.blocks() * 512, inodes: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_told_apart_from_what_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["upper/etc", "work/work", "root"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("upper/etc/hosts"), "x".repeat(10_000)).unwrap();
        std::fs::write(dir.path().join("note"), "x").unwrap();
        let (_end, ended) = channel();
        let mut pace = Pace { begun: Instant::now(), entries: 0, ended: &ended, stopped: false };
        let (layer, besides) = measure(dir.path(), &mut pace).unwrap();
        assert_eq!((layer.inodes, besides.inodes), (3, 5));
        assert_eq!(layer.and(besides), disk_usage(dir.path(), || {}).unwrap());
    }
}
