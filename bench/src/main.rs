//! berth-bench: how fast and how small berth is, beside other runtimes and beside the kernel's own part of the work.
//!
//! `hack/bench` builds what this needs and runs it. One run starts berth and its peers, each with directories, cgroups,
//! network namespace and bridge of its own, does the same to each of them by turns over its CRI socket, prints a table,
//! and writes all that was measured to a JSON file, with what the machine was.
//!
//! ```text
//! peer/      a runtime under test: start, find its processes, stop, leave nothing
//! load/      what a kubelet would ask: a CRI client, closed loops (N at a time) and open ones (N a second)
//! scenario/  one question to the runtimes for each file: what is done, what is timed
//! measure/   quantiles, memory, CPU time
//! report/    the rows of a run: JSON, a table, plots
//! floor/     the same kernel objects with nothing else
//! ```
//!
//! Times are taken in this process, from before a request is sent until its answer has been read. A failed call ends the
//! run with an error: a runtime that answers wrongly has no speed. Nothing here asserts that anything is fast.

mod cli;
mod floor;
mod ground;
mod load;
mod measure;
mod peer;
mod report;
mod run;
mod scenario;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
