//! Where the lines of all containers come together.
//!
//! `NAME | line`, the name padded so that the lines of all start in one column, and coloured by container on a
//! terminal. Lines come from the follower threads; one is written whole under a lock. Blocks as the sink does.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

/// Colours that can be read on light and dark: cyan, yellow, green, magenta, blue, red.
const COLORS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// A sink for the lines of containers.
pub struct Output {
    sink: Mutex<Box<dyn Write + Send>>,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Colored,
}

/// Whose line it is.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    padded_name: String,
    color: u8,
}

impl Label {
    /// `index` picks the colour.
    pub(crate) fn new(name: &str, width: usize, index: usize) -> Self {
        Self { padded_name: format!("{name:width$}"), color: COLORS[index % COLORS.len()] }
    }
}

impl Output {
    /// Standard output, in colour if it is a terminal.
    pub fn stdout() -> Self {
        let style = if io::stdout().is_terminal() { Style::Colored } else { Style::Plain };
        Self { sink: Mutex::new(Box::new(io::stdout())), style }
    }

    /// Any sink, without colour.
    pub fn plain(sink: impl Write + Send + 'static) -> Self {
        Self { sink: Mutex::new(Box::new(sink)), style: Style::Plain }
    }

    /// Writes one line; `line` has no end. What can't be written is dropped: a reader that went away ends no pod.
    pub(crate) fn line(&self, label: &Label, line: &[u8]) {
        let Label { padded_name, color } = label;
        let mut text = match self.style {
            Style::Plain => format!("{padded_name} | ").into_bytes(),
            Style::Colored => format!("\x1b[{color}m{padded_name} |\x1b[0m ").into_bytes(),
        };
        text.extend_from_slice(line);
        text.push(b'\n');
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let _gone = sink.write_all(&text).and_then(|()| sink.flush());
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("style", &self.style).finish_non_exhaustive()
    }
}
