//! The clients that are attached to one container, and see what it writes from then on.
//!
//! What a container writes is in its log before anybody else gets it, and no viewer can hold the container up: each has
//! a pipe, and one that lets its pipe fill up is cut off. It can read the log.

use std::os::fd::OwnedFd;

use berth_logs::Stream;
use rustix::io::{Errno, retry_on_intr, write};

use crate::container::ReplyTo;

/// Clients that one container can have.
pub(crate) const MAX_VIEWERS: usize = 16;

/// All of a container's viewers.
#[derive(Debug, Default)]
pub(crate) struct Viewers(Vec<Viewer>);

/// One client.
#[derive(Debug)]
pub(crate) struct Viewer {
    /// The request that attached it.
    pub(crate) owner: ReplyTo,
    /// Where standard output, or a terminal's, goes; it does not block.
    pub(crate) stdout: Option<OwnedFd>,
    /// The same for standard error.
    pub(crate) stderr: Option<OwnedFd>,
}

impl Viewers {
    /// Adds one, unless there are too many.
    pub(crate) fn add(&mut self, viewer: Viewer) -> Result<(), Viewer> {
        if self.0.len() >= MAX_VIEWERS {
            return Err(viewer);
        }
        self.0.push(viewer);
        Ok(())
    }

    /// Gives `bytes` to all who want this stream; returns those who could not take them, and are viewers no more.
    #[must_use]
    pub(crate) fn show(&mut self, stream: Stream, bytes: &[u8]) -> Vec<ReplyTo> {
        let too_slow = self.0.extract_if(.., |viewer| viewer.take(stream, bytes) == Taken::No);
        too_slow.map(|viewer| viewer.owner).collect()
    }

    /// Forgets those for which `which` holds.
    pub(crate) fn forget(&mut self, which: impl Fn(ReplyTo) -> bool) {
        self.0.retain(|viewer| !which(viewer.owner));
    }

    /// Forgets all, for whom there is no more to come.
    pub(crate) fn end(&mut self) -> Vec<ReplyTo> {
        std::mem::take(&mut self.0).into_iter().map(|viewer| viewer.owner).collect()
    }
}

/// Whether a viewer keeps up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

impl Viewer {
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> Taken {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(pipe) = slot else { return Taken::Yes };
        match retry_on_intr(|| write(&*pipe, bytes)) {
            Ok(written) if written == bytes.len() => Taken::Yes,
            Ok(_) | Err(Errno::AGAIN) => Taken::No,
            // It looks at this stream no more, or is about to leave.
            Err(_) => {
                *slot = None;
                Taken::Yes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::read;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn viewer(request: u64) -> (Viewer, OwnedFd, OwnedFd) {
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let ((out, stdout), (err, stderr)) = (pipe(), pipe());
        let owner = ReplyTo { client: 1, request };
        (Viewer { owner, stdout: Some(stdout), stderr: Some(stderr) }, out, err)
    }

    fn text(fd: &OwnedFd) -> String {
        let mut buffer = [0; 64];
        match read(fd, &mut buffer) {
            Ok(length) => String::from_utf8(buffer[..length].to_vec()).unwrap(),
            Err(errno) => format!("{errno:?}"),
        }
    }

    #[test]
    fn each_viewer_sees_each_stream_until_the_end() {
        let mut viewers = Viewers::default();
        let ((one, one_out, one_err), (two, two_out, _two_err)) = (viewer(1), viewer(2));
        viewers.add(one).unwrap();
        viewers.add(two).unwrap();
        assert_eq!(viewers.show(Stream::Stdout, b"out"), []);
        assert_eq!(viewers.show(Stream::Stderr, b"err"), []);
        assert_eq!(
            (text(&one_out), text(&one_err), text(&two_out)),
            ("out".into(), "err".into(), "out".into())
        );
        viewers.forget(|owner| owner.request == 2);
        assert_eq!(viewers.show(Stream::Stdout, b"more"), []);
        assert_eq!((text(&one_out), text(&two_out)), ("more".into(), String::new()));
        assert_eq!(viewers.end(), [ReplyTo { client: 1, request: 1 }]);
        assert_eq!(text(&one_out), "");
    }

    #[test]
    fn who_does_not_read_is_cut_and_who_has_left_is_not_missed() {
        let mut viewers = Viewers::default();
        let ((slow, _slow_out, _slow_err), (gone, gone_out, gone_err)) = (viewer(1), viewer(2));
        viewers.add(slow).unwrap();
        viewers.add(gone).unwrap();
        drop((gone_out, gone_err));
        let piece = vec![b'x'; 32 * 1024];
        let cut = (0..40).flat_map(|_| viewers.show(Stream::Stdout, &piece)).collect::<Vec<_>>();
        assert_eq!(cut, [ReplyTo { client: 1, request: 1 }]);
        assert_eq!(viewers.end(), [ReplyTo { client: 1, request: 2 }]);
    }

    #[test]
    fn there_is_a_bound() {
        let mut viewers = Viewers::default();
        let none = |request| Viewer { owner: ReplyTo { client: 1, request }, stdout: None, stderr: None };
        assert!((0..MAX_VIEWERS as u64).all(|request| viewers.add(none(request)).is_ok()));
        assert!(viewers.add(none(99)).is_err());
    }
}
