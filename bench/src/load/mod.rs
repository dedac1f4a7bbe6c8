//! What a kubelet would ask, and how often: the calls of a pod's life, and loops that make many of them.
//!
//! Every caller is a thread with a connection of its own. Calls have a deadline; one that fails ends the loop, and the
//! run with it.

mod fleet;
mod interrupt;
mod life;
mod loops;

pub(crate) use fleet::{Fleet, Voyage};
pub(crate) use interrupt::{catch_interrupts, check_interrupt};
pub(crate) use life::{IDLE, Life, Pod};
pub(crate) use loops::{closed, open, rest};
