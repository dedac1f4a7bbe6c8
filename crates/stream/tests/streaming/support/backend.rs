//! A backend whose commands, containers and ports are tasks.
//!
//! Commands: `cat`; `exit CODE`; `both` writes to both outputs; `yes` writes for ever; `deaf` reads nothing until it is
//! let go; `sizes` writes each size of its terminal; `broken` can't be started. Ports: 1 is closed; 2 reads all, then
//! sends 1 MiB; 3 accepts and reads nothing; 4 never answers; others send back what they get.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_stream::{AttachRequest, Backend, BackendError, Duplex, ExecRequest, Process, TerminalSize};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{Notify, mpsc};

#[derive(Default)]
pub(crate) struct Fake {
    /// How much `yes` has been able to write.
    pub(crate) written: Arc<AtomicUsize>,
    /// How many clients' ends are still there.
    pub(crate) joined: Arc<AtomicUsize>,
    /// Lets `deaf` go.
    pub(crate) let_go: Arc<Notify>,
}

const PIPE_BYTES: usize = 64 * 1024;

/// Counts for as long as it is kept.
struct Joined(Arc<AtomicUsize>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The other sides of a process's ends.
struct Inside {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    sizes: mpsc::UnboundedReceiver<TerminalSize>,
}

impl Fake {
    fn join(&self) -> Joined {
        self.joined.fetch_add(1, Ordering::SeqCst);
        Joined(Arc::clone(&self.joined))
    }

    /// A process that `run` plays, and the clients' ends of it.
    fn process<R>(&self, request: (bool, bool), run: impl FnOnce(Inside) -> R) -> Process
    where
        R: Future<Output = i32> + Send + 'static,
    {
        let (tty, stderr) = request;
        let [input, output, error] = [(); 3].map(|()| duplex(PIPE_BYTES));
        let (set, sizes) = mpsc::unbounded_channel();
        let running = tokio::spawn(run(Inside { stdin: input.1, stdout: output.1, stderr: error.1, sizes }));
        let joined = self.join();
        let exit = async move {
            let _joined = joined;
            Ok(running.await?)
        };
        Process {
            stdin: Some(Box::new(input.0)),
            stdout: Some(Box::new(output.0)),
            stderr: stderr.then(|| Box::new(error.0) as _),
            resize: tty.then(|| Box::new(move |size| set.send(size).unwrap_or_default()) as _),
            exit: exit.boxed(),
            ends_with_stdin: false,
        }
    }
}

impl Backend for Fake {
    async fn exec(&self, request: ExecRequest) -> Result<Process, BackendError> {
        let words: Vec<_> = request.command.iter().map(String::as_str).collect();
        let ends = (request.tty, request.stderr);
        Ok(match words[..] {
            ["cat"] => self.process(ends, cat),
            ["exit", code] => {
                let code = code.parse()?;
                self.process(ends, move |_| std::future::ready(code))
            }
            ["both"] => self.process(ends, |mut inside: Inside| async move {
                let inside = &mut inside;
                inside.stdout.write_all(b"out").await.unwrap();
                inside.stderr.write_all(b"err").await.unwrap();
                0
            }),
            ["yes"] => {
                let written = Arc::clone(&self.written);
                self.process(ends, move |mut inside: Inside| async move {
                    let inside = &mut inside;
                    while let Ok(length) = inside.stdout.write(&[b'y'; 8192]).await {
                        written.fetch_add(length, Ordering::SeqCst);
                    }
                    1
                })
            }
            ["deaf"] => {
                let let_go = Arc::clone(&self.let_go);
                self.process(ends, move |mut inside: Inside| async move {
                    let inside = &mut inside;
                    inside.stdout.write_all(b"deaf").await.unwrap();
                    let_go.notified().await;
                    0
                })
            }
            ["sizes"] => self.process(ends, |mut inside: Inside| async move {
                let inside = &mut inside;
                while let Some(size) = inside.sizes.recv().await {
                    let text = format!("{}x{} ", size.width, size.height);
                    inside.stdout.write_all(text.as_bytes()).await.unwrap();
                    if size.width == 1 {
                        break;
                    }
                }
                0
            }),
            _ => return Err("no such command".into()),
        })
    }

    async fn attach(&self, request: AttachRequest) -> Result<Process, BackendError> {
        Ok(self.process((request.tty, request.stderr), |inside: Inside| async move {
            cat(inside).await;
            // A container's own exit code is none of a client's that was attached to it.
            7
        }))
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<Box<dyn Duplex>, BackendError> {
        let (ours, mut theirs) = duplex(PIPE_BYTES);
        let joined = self.join();
        match port {
            1 => return Err("connection refused".into()),
            2 => tokio::spawn(async move {
                let _joined = joined;
                let mut received = Vec::new();
                theirs.read_to_end(&mut received).await.unwrap();
                let _ = theirs.write_all(&vec![b'x'; 1 << 20]).await;
            }),
            3 => tokio::spawn(async move {
                let _joined = joined;
                let _held = theirs;
                std::future::pending::<()>().await;
            }),
            4 => {
                let _joined = joined;
                return std::future::pending().await;
            }
            _ => tokio::spawn(async move {
                let _joined = joined;
                let (mut read, mut write) = tokio::io::split(theirs);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            }),
        };
        Ok(Box::new(ours))
    }
}

async fn cat(mut inside: Inside) -> i32 {
    let _ = tokio::io::copy(&mut inside.stdin, &mut inside.stdout).await;
    0
}
