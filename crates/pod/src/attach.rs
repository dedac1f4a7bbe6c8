//! A client joined to a container's first process: it sees what that writes from now on, and can write to its input.
//!
//! The monitor writes into the client's pipes what it has logged, and waits for nobody. So what comes through a pipe is
//! taken out at once, and kept here for a client that reads slowly; one that falls further behind than that is cut off,
//! with an error that says so. It can read the log.

use std::os::fd::{AsFd, OwnedFd};

use berth_monitor::id::ContainerId;
use berth_monitor::protocol::AttachEnd;
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::{BufReader, Interest, copy_buf, duplex};
use tokio::net::unix;

use crate::error::{Error, Result};
use crate::link::{Attached, Link};
use crate::process::{Input, Output, Process, Terminal, Wanted, pipe};

/// What the pipe of a client may hold; the kernel's bound for anybody (`fs.pipe-max-size`). A flood that comes while
/// the agent waits for the processor must fit in.
const PIPE_BYTES: usize = 1024 * 1024;

/// What is kept for a client that reads slowly, for each stream.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Bytes taken from a pipe at once.
const READ_BYTES: usize = 64 * 1024;

/// Attaches a client.
///
/// A client that has closed its input leaves, as it does with the keys of its program for that: peers end the session then,
/// and clients wait for it. Only with `stdin_once` and no terminal the input's end is the container's, which may have more
/// to say.
pub(crate) async fn attach(
    link: &Link,
    container: &ContainerId,
    stdin_once: bool,
    wanted: Wanted,
) -> Result<Process> {
    let stream = |wanted: bool| wanted.then(stream).transpose();
    let (stdout, stderr) = (stream(wanted.stdout)?, stream(wanted.stderr)?);
    let writers = [&stdout, &stderr].map(|stream| stream.as_ref().map(|(_, writer)| writer.as_fd()));
    let attached = link.attach(container.clone(), wanted.stdin, writers).await?;
    let Attached { hold, end, tty, stdin, handle } = attached;
    let (stdin, terminal) = match (handle, tty) {
        (Some(master), true) => {
            let terminal = Terminal::new(master, Interest::WRITABLE)?;
            (stdin.then(|| Input::terminal(terminal.clone())), Some(terminal))
        }
        (Some(writer), false) => (Some(Input::pipe(writer)?), None),
        (None, _) => (None, None),
    };
    let exit = Box::pin(async move {
        let end = end.await.map_err(|_| Error::MonitorGone)?;
        hold.has_ended();
        match end {
            AttachEnd::Exited => Ok(0),
            AttachEnd::TooSlow => Err(Error::TooSlow),
        }
    });
    let [stdout, stderr] = [stdout, stderr].map(|stream| stream.map(|(output, _)| output));
    Ok(Process { stdin, stdout, stderr, terminal, exit, ends_with_stdin: tty || !stdin_once })
}

/// A client's end of a stream, and the write side of the monitor's.
fn stream() -> Result<(Output, OwnedFd)> {
    let (read, write) = pipe()?;
    // With a smaller one a client is only cut off sooner.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    let source = unix::pipe::Receiver::from_owned_fd(read).map_err(Error::Spawn)?;
    let mut source = BufReader::with_capacity(READ_BYTES, source);
    let (client, mut buffer) = duplex(BUFFER_BYTES);
    // Ends when the monitor lets go of the pipe, at the latest.
    tokio::spawn(async move { copy_buf(&mut source, &mut buffer).await });
    Ok((Output::buffer(client), write))
}
