//! The ends of a process that a client is joined to: pipes, or a terminal.
//!
//! ```text
//! Input ───write──▶ pipe ──▶ process ──▶ pipe ───read──▶ Output        or one terminal in place of the pipes
//! ```
//! Everything here is a descriptor of the agent's that waits in its runtime; bytes pass through no other process. The
//! end of a command's output is the end of its pipe, or else what the pipe held when the command ended: what it left
//! running in the background may hold the pipe open for ever.

use std::fmt;
use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::{Error, Result};

/// A process with a client. Dropping it lets go of the process: an exec session is ended, an attached client detached.
pub struct Process {
    /// What goes to its standard input; absent where there is none, or nothing is taken.
    pub stdin: Option<Input>,
    /// What comes from its standard output or its terminal, if asked for.
    pub stdout: Option<Output>,
    /// What comes from its standard error, if asked for; with a terminal there is none.
    pub stderr: Option<Output>,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// Of an exec: the exit code, or 128 plus the signal. Of an attach: 0 when the container has ended.
    pub exit: Exit,
    /// Whether the client has left when it has closed its input: of an attach, unless that is the container's own end.
    pub ends_with_stdin: bool,
}

/// What comes of a process.
pub type Exit = Pin<Box<dyn Future<Output = Result<i32>> + Send>>;

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stdin, stdout, stderr, terminal, exit: _, ends_with_stdin: _ } = self;
        let mut shown = f.debug_struct("Process");
        shown.field("stdin", stdin).field("stdout", stdout).field("stderr", stderr);
        shown.field("terminal", terminal).finish_non_exhaustive()
    }
}

/// The streams that a client wants to be joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The client sends input.
    pub stdin: bool,
    /// The client takes output.
    pub stdout: bool,
    /// The client takes errors.
    pub stderr: bool,
}

/// The master side of a terminal.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(crate) fn new(master: OwnedFd, interest: Interest) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).map_err(spawn_error)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that change their descriptor; OwnedFd never does"
        )]
        let master = AsyncFd::with_interest(master, interest).map_err(Error::Spawn)?;
        Ok(Self(Arc::new(master)))
    }

    /// Tells the programs in it how large it is, in characters.
    pub fn resize(&self, width: u16, height: u16) {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        // Nobody is left to be told once it has hung up.
        let _ = tcsetwinsize(&*self.0, size);
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<IoResult<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|master| Ok(retry_on_intr(|| rustix::io::read(master, &mut *room))?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // The last process has let go of the terminal. Source: the kernel's pty driver.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<IoResult<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|master| Ok(retry_on_intr(|| rustix::io::write(master, bytes))?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

/// Where a client's input goes. Shutting it down closes it.
#[derive(Debug)]
pub struct Input(Option<InputEnd>);

#[derive(Debug)]
enum InputEnd {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

impl Input {
    /// The write side of a pipe.
    pub(crate) fn pipe(writer: OwnedFd) -> Result<Self> {
        Ok(Self(Some(InputEnd::Pipe(pipe::Sender::from_owned_fd(writer).map_err(Error::Spawn)?))))
    }

    /// A terminal's keyboard.
    pub(crate) fn terminal(terminal: Terminal) -> Self {
        Self(Some(InputEnd::Terminal(terminal)))
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<IoResult<usize>> {
        match &mut self.0 {
            Some(InputEnd::Pipe(pipe)) => Pin::new(pipe).poll_write(cx, bytes),
            Some(InputEnd::Terminal(terminal)) => terminal.poll_write(cx, bytes),
            None => Poll::Ready(Err(IoError::from(Errno::PIPE))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<IoResult<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// Where a client's output comes from.
#[derive(Debug)]
pub struct Output(OutputEnd);

#[derive(Debug)]
enum OutputEnd {
    Command(CommandOutput),
    Terminal(Terminal),
    Buffer(DuplexStream),
}

/// The pipe of a command, which ends with it.
#[derive(Debug)]
struct CommandOutput {
    pipe: pipe::Receiver,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What the pipe held when the command ended, once that is known.
    left: Option<u64>,
}

impl Output {
    /// A command's pipe; `ended` says that the command has.
    pub(crate) fn command(reader: OwnedFd, ended: CancellationToken) -> Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(reader).map_err(Error::Spawn)?;
        let ended = Box::pin(ended.cancelled_owned());
        Ok(Self(OutputEnd::Command(CommandOutput { pipe, ended, left: None })))
    }

    /// A terminal's screen.
    pub(crate) fn terminal(terminal: Terminal) -> Self {
        Self(OutputEnd::Terminal(terminal))
    }

    /// What somebody else has read.
    pub(crate) fn buffer(buffer: DuplexStream) -> Self {
        Self(OutputEnd::Buffer(buffer))
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        match &mut self.0 {
            OutputEnd::Command(output) => output.poll_read(cx, buffer),
            OutputEnd::Terminal(terminal) => terminal.poll_read(cx, buffer),
            OutputEnd::Buffer(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl CommandOutput {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<IoResult<()>> {
        if self.left.is_none() && self.ended.as_mut().poll(cx).is_ready() {
            self.left = Some(rustix::io::ioctl_fionread(&self.pipe)?);
        }
        let Some(left) = self.left else {
            return Pin::new(&mut self.pipe).poll_read(cx, buffer);
        };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        // The pipe itself is asked, and not the runtime, which knows of what was written only when it has polled: the
        // exit, on another descriptor, may be known before. So many bytes are there; nobody else reads them.
        let room = buffer.initialize_unfilled_to(wanted);
        let length = retry_on_intr(|| rustix::io::read(&self.pipe, &mut *room))?;
        buffer.advance(length);
        self.left = Some(if length == 0 { 0 } else { left - length as u64 });
        Poll::Ready(Ok(()))
    }
}

/// A pipe as `(read side, write side)`.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(spawn_error)
}

/// For a stream that nobody wants.
pub(crate) fn null() -> Result<OwnedFd> {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(spawn_error)
}

fn spawn_error(errno: Errno) -> Error {
    Error::Spawn(errno.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::tcgetwinsize;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn output_ends_with_the_last_writer() {
        let (read, write) = pipe().unwrap();
        let mut output = Output::command(read, CancellationToken::new()).unwrap();
        File::from(write).write_all(b"all of it").unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "all of it");
    }

    #[tokio::test]
    async fn output_ends_with_the_command_although_another_goes_on_writing() {
        let (read, write) = pipe().unwrap();
        let (ended, mut writer) = (CancellationToken::new(), File::from(write));
        let mut output = Output::command(read, ended.clone()).unwrap();
        writer.write_all(&[b'a'; 60_000]).unwrap();
        let mut first = [0; 10];
        output.read_exact(&mut first).await.unwrap();
        ended.cancel();
        let mut rest = Vec::new();
        let mut buffer = [0; 1000];
        while let length @ 1.. = output.read(&mut buffer).await.unwrap() {
            rest.extend_from_slice(&buffer[..length]);
            writer.write_all(b"b").unwrap();
        }
        assert_eq!(rest, vec![b'a'; 59_990]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_hears_of_the_commands_end() {
        let (read, _write) = pipe().unwrap();
        let ended = CancellationToken::new();
        let mut output = Output::command(read, ended.clone()).unwrap();
        let waiting = tokio::spawn(async move { output.read(&mut [0; 10]).await });
        tokio::task::yield_now().await;
        ended.cancel();
        assert_eq!(waiting.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn input_that_is_shut_down_has_ended_for_the_process() {
        let (read, write) = pipe().unwrap();
        let mut input = Input::pipe(write).unwrap();
        input.write_all(b"words").await.unwrap();
        input.shutdown().await.unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "words");
        assert_eq!(input.write(b"more").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_terminal_takes_input_and_size_and_ends_when_it_hangs_up() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let mut slave = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
        let terminal = Terminal::new(master, Interest::READABLE | Interest::WRITABLE).unwrap();
        let (mut input, mut output) = (Input::terminal(terminal.clone()), Output::terminal(terminal.clone()));
        terminal.resize(91, 37);
        let size = tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (91, 37));
        input.write_all(b"typed\n").await.unwrap();
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"typed\n");
        slave.write_all(b"shown\n").unwrap();
        drop(slave);
        let mut screen = String::new();
        output.read_to_string(&mut screen).await.unwrap();
        assert_eq!(screen, "typed\r\nshown\r\n");
    }
}
