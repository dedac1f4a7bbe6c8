//! What breaks a node, done to one on purpose: each part says in one line of a table how much it tried, how much of that
//! held, and what was left behind.
//!
//! `hack/chaos` builds what they need, runs them one after the other, and prints the table: a short pass, or a long one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic, and so may what it is made of"
)]

mod bystander;
mod faults;
mod hosts;
mod lab;
mod model;
mod restarts;
mod storage;
mod tally;
mod wire;
mod workloads;
