//! The heart: pods, their containers, and everything that must happen to them in an order.
//!
//! ```text
//!  cri ──SandboxSpec, ContainerSpec──▶ Pods ──Order──▶ Driver (one task for each pod) ──▶ Link ──▶ monitor
//!   ▲                                   │  ▲              │        ▲                        │
//!   └────────── Snapshot, events ◀──────┘  └── view ◀─────┘        └──── events ◀───────────┘
//! ```
//! - [`registry`]: [`Pods`], the handle that the edge holds: finds or starts a pod's driver, never works itself.
//! - `driver`: the task that owns one pod. Work belongs to it and not to the request that asked for it: a client
//!   that hangs up cancels nothing, and one that asks again gets the result of the first.
//! - `lifecycle`: the states of pods and containers, and what each answers to a request; pure, and asked by all others.
//! - `sandbox`, `workload`: the steps of a pod's and of a container's life. `planning`: what a container needs.
//! - `exec`, `attach`, `port_forward`: clients of containers and pods, past the driver; `process`: the ends they hold.
//! - `confinement`: what holds a container's process back, as this kernel can.
//! - [`explain`]: what is the matter with a pod, a container or the node; `waiting`: what processes wait for.
//! - [`inventory`]: whose every thing in kernel and on disk is, what is left of pods that are gone, and its removal.
//! - `link`, `zygote`: the way to monitors. `recover`: what an agent finds after a restart. `renumber`: a new pod CIDR.
//! - [`stats`]: what pods and containers use; `meters`, `layers` and `processes` read it, none of them through a
//!   driver.
//! - [`spec`], [`view`], [`timeline`]: what was asked, what is seen, what happened. `record`: what is stored.
//!
//! **Undo.** There is one way to take a pod or a container down, and every step of it treats absent as done. A create
//! that fails at any step takes that same way, as does recovery with whatever a killed agent left half made. So
//! no list of undo steps exists that could miss one, and the path that cleans after failures is exercised by every
//! stop.
//!
//! **Reads never wait.** Drivers publish immutable views; [`Pods::snapshot`] is one atomic load.

pub mod clock;
pub mod error;
pub mod events;
pub mod explain;
pub mod host;
pub mod inventory;
pub mod registry;
mod spares;
pub mod spec;
pub mod stats;
pub mod timeline;
pub mod view;

mod attach;
mod cdi;
mod claims;
mod confinement;
mod contact;
mod departures;
mod devices;
mod doubt;
mod driver;
mod exec;
mod files;
mod foreign;
mod id_maps;
mod late;
mod launching;
mod layers;
mod lifecycle;
mod link;
mod lookout;
mod meters;
mod pins;
mod planning;
mod port_forward;
mod process;
mod processes;
mod record;
mod recover;
mod renumber;
mod sandbox;
mod steps;
mod stop;
mod storage;
mod system;
mod update;
mod waiting;
mod workload;
mod zygote;

pub use berth_container::spec::ProfileSpec;
pub use claims::Claims;
pub use devices::{DeviceError, DeviceSettings};
pub use error::{Error, Result};
pub use exec::{Command, ExecOutput};
pub use foreign::{ForeignHandler, OWN_HANDLER};
pub use host::{Host, HostSettings};
pub use process::{Exit, Input, Output, Process, Terminal, Wanted};
pub use recover::Records;
pub use registry::Pods;
pub use system::SYSTEM_DIRECTORIES;
