//! How much a peer has room for. Pure.
//!
//! Every byte that is sent uses up the window of its stream and that of the connection; WINDOW_UPDATE frames give it
//! back. Some peers ignore all this: they never send such a frame, and a sender that waited for one would wait for
//! ever. So windows are counted from the start, but kept to only from the moment at which the peer shows, by a
//! WINDOW_UPDATE or by a SETTINGS frame with an initial window, that it counts as well. Source: SPDY protocol draft
//! 3.1, 2.6.8.

use std::collections::HashMap;

use super::frame::{INITIAL_WINDOW, Setting};

/// What every stream and every connection begins with.
pub(crate) const DEFAULT_WINDOW: u32 = 64 * 1024;

const MAX_WINDOW: i64 = 0x7fff_ffff;

/// The windows of one connection, as far as sending is concerned.
#[derive(Debug)]
pub(crate) struct SendWindows {
    is_kept: bool,
    initial: i64,
    connection: i64,
    streams: HashMap<u32, i64>,
}

/// The peer gave more room than a window can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

impl Default for SendWindows {
    fn default() -> Self {
        let initial = i64::from(DEFAULT_WINDOW);
        Self { is_kept: false, initial, connection: initial, streams: HashMap::new() }
    }
}

impl SendWindows {
    pub(crate) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(crate) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// A new initial window changes those of the streams that are open, which may leave them with less than nothing.
    pub(crate) fn set(&mut self, settings: &[Setting]) {
        for setting in settings.iter().filter(|setting| setting.id == INITIAL_WINDOW) {
            let initial = i64::from(setting.value).min(MAX_WINDOW);
            let change = initial - self.initial;
            self.is_kept = true;
            self.initial = initial;
            self.streams.values_mut().for_each(|window| *window = (*window + change).min(MAX_WINDOW));
        }
    }

    /// Adds to the window of a stream, or of the connection (0).
    pub(crate) fn update(&mut self, stream: u32, delta: u32) -> Result<(), Overflow> {
        self.is_kept = true;
        let window = match stream {
            0 => &mut self.connection,
            // It may have been closed meanwhile.
            stream => match self.streams.get_mut(&stream) {
                Some(window) => window,
                None => return Ok(()),
            },
        };
        *window += i64::from(delta);
        if *window > MAX_WINDOW { Err(Overflow) } else { Ok(()) }
    }

    /// Uses up room for at most `wanted` bytes, and answers for how many; for none, wait for an update.
    pub(crate) fn take(&mut self, stream: u32, wanted: usize) -> usize {
        let Some(window) = self.streams.get_mut(&stream) else { return wanted };
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let taken = if self.is_kept { wanted.min(*window).min(self.connection).max(0) } else { wanted };
        // A peer that never gives room back leaves these as low as it likes.
        *window = window.saturating_sub(taken);
        self.connection = self.connection.saturating_sub(taken);
        usize::try_from(taken).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: usize = DEFAULT_WINDOW as usize;

    fn settings(value: u32) -> [Setting; 2] {
        [Setting { id: 4, value: 1 }, Setting { id: INITIAL_WINDOW, value }]
    }

    fn windows() -> SendWindows {
        let mut windows = SendWindows::default();
        windows.open(1);
        windows
    }

    #[test]
    fn a_peer_that_says_nothing_has_room_for_all() {
        let mut windows = windows();
        for _ in 0..100 {
            assert_eq!(windows.take(1, INITIAL), INITIAL);
        }
        windows.set(&[Setting { id: 4, value: 1 }]);
        assert_eq!(windows.take(1, INITIAL), INITIAL);
    }

    #[test]
    fn a_peer_that_counts_gets_no_more_than_it_has_room_for() {
        let mut windows = windows();
        windows.set(&settings(10));
        assert_eq!(windows.take(1, 20), 10);
        assert_eq!(windows.take(1, 20), 0);
        windows.update(1, 5).unwrap();
        assert_eq!(windows.take(1, 20), 5);
        windows.open(3);
        assert_eq!(windows.take(3, 20), 10);
    }

    #[test]
    fn all_streams_share_the_window_of_the_connection() {
        let mut windows = windows();
        windows.set(&settings(1 << 20));
        windows.open(3);
        assert_eq!(windows.take(1, INITIAL - 1), INITIAL - 1);
        assert_eq!(windows.take(3, 10), 1);
        windows.update(0, 100).unwrap();
        assert_eq!(windows.take(3, 10), 10);
    }

    #[test]
    fn a_smaller_initial_window_may_leave_less_than_nothing() {
        let mut windows = windows();
        windows.update(0, 1 << 20).unwrap();
        assert_eq!(windows.take(1, 1000), 1000);
        windows.set(&settings(500));
        assert_eq!(windows.take(1, 1), 0);
        windows.update(1, 501).unwrap();
        assert_eq!(windows.take(1, 10), 1);
    }

    #[test]
    fn too_much_room_is_an_error() {
        let mut windows = windows();
        assert_eq!(windows.update(1, 0x7fff_ffff), Err(Overflow));
        assert_eq!(windows.update(0, 0x7fff_ffff), Err(Overflow));
        assert_eq!(windows.update(99, 0x7fff_ffff), Ok(()));
    }
}
