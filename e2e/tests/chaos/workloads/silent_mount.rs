//! A filesystem whose server does not answer: mounted over `/dev/fuse`, greeted as the protocol wants it, and then left
//! alone. Whoever looks a name up in it waits.
//!
//! ```text
//! request: length u32, opcode u32, unique u64, node u64, uid, gid, pid, padding u32 …
//! answer:  length u32, error i32, unique u64, then the body
//! ```
//! Numbers in the host's order. Source: linux/fuse.h.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_e2e::eventually;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const INIT: u32 = 26;
const HEADER_BYTES: usize = 16;
const INIT_ANSWER_BYTES: usize = 64;
/// The protocol's version that is spoken here.
const VERSION: [u32; 2] = [7, 31];
/// More than any request here has; less, and the kernel refuses to hand one out.
const BUFFER_BYTES: usize = 1 << 20;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// Taken, and not answered: who waits can't even be killed.
    Taken,
    /// Left in the queue: who waits can be killed.
    Left,
}

/// The mount. When it goes the connection is given up, and whoever waits gets an error.
#[derive(Debug)]
pub(crate) struct SilentMount {
    point: PathBuf,
    is_over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl SilentMount {
    /// Mounts at a directory, which is made.
    pub(crate) fn new(point: &Path, requests: Requests) -> Self {
        fs::create_dir_all(point).unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = open("/dev/fuse", flags, Mode::empty()).unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let data = CString::new(data).unwrap();
        mount("silent", point, "fuse", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str()).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        eventually("the kernel's greeting", Duration::from_secs(10), || {
            let length = take(&device, &mut buffer)?;
            (length > 0 && number(&buffer, 4) == INIT).then_some(())
        });
        rustix::io::write(&device, &greeting(&buffer[8..16])).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let server = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match requests {
                    Requests::Taken => drop(take(&device, &mut buffer)),
                    Requests::Left => std::thread::park(),
                }
            }
            // Goes with the last descriptor of it.
            drop(device);
        });
        Self { point: point.to_owned(), is_over, server: Some(server) }
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            server.thread().unpark();
            let _ = server.join();
        }
        let _ = unmount(&self.point, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.point);
    }
}

/// Waits a little for a request, and takes it.
fn take(device: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&patience)).ok()?;
    rustix::io::read(device, buffer).ok()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn greeting(unique: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; HEADER_BYTES + INIT_ANSWER_BYTES];
    let length = u32::try_from(answer.len()).unwrap();
    answer[0..4].copy_from_slice(&length.to_ne_bytes());
    answer[8..16].copy_from_slice(unique);
    for (place, part) in VERSION.into_iter().enumerate() {
        let at = HEADER_BYTES + 4 * place;
        answer[at..at + 4].copy_from_slice(&part.to_ne_bytes());
    }
    // The most that a write may carry.
    answer[HEADER_BYTES + 20..HEADER_BYTES + 24].copy_from_slice(&4096_u32.to_ne_bytes());
    answer
}
