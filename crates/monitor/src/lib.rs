//! The process that stands between the agent and a pod, and the values by which the two understand each other.
//!
//! ```text
//! agent ──spawn──▶ zygote ──fork──▶ monitor (one for each pod, single-threaded, host namespaces, own session)
//!                                      ├─ fork ─▶ pause       holds the pod's net, ipc, uts (pid) namespaces
//!                                      ├─ fork ─▶ container   own pid, mnt (cgroup); joined to pause; gate; exec
//!                                      ├─ fork ─▶ errand      runs hooks in the monitor's namespaces
//!                                      └─ fork ─▶ exec session  in a container's namespaces
//! ```
//! For the agent: [`plan`] (what to make), [`protocol`] (how to ask), [`stage`] (what went wrong), [`id`], [`idmap`].
//! For the processes: `zygote` (a warm parent), `monitor` (the event loop), `pause`, `launch` (the checklist that turns
//! a fork into a workload), `exec`, `output` (bytes to log).
//!
//! The monitor is the parent of everything in the pod. It owns log files, pseudo-terminals and exit statuses, so the
//! agent may be killed, replaced or hang without a line or a status lost. It decides nothing: plans come ready.
//! Should the monitor itself be killed, its children die with it by parent-death signals, and the agent kills what is
//! left by cgroup.
//!
//! No threads and no tokio here: a multi-threaded process must not fork into namespaces, and every byte of memory
//! counts once for each pod. Everything waits in one epoll.

pub mod id;
pub mod idmap;
pub mod plan;
pub mod protocol;
pub mod stage;

mod bare;
mod birth;
mod child;
mod container;
mod copy;
mod credentials;
mod exec;
mod fifo;
mod foreign;
mod fork;
mod handshake;
mod hook;
mod image_source;
mod label;
mod launch;
mod mapped;
mod monitor;
mod output;
mod pause;
mod poller;
mod propagation;
mod root_dir;
mod rootfs;
mod session;
mod streams;
mod terminal;
mod user;
mod user_namespace;
mod viewers;
mod zygote;

pub use child::await_end;
pub use foreign::forget_container;
pub use fork::memfd_of;
pub use zygote::{ZYGOTE_ARGUMENT, main as zygote_main};
