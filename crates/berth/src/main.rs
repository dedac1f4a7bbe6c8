//! berth, the one binary. It parses the command line and hands over to the module that bears the command's name;
//! decisions live in the crates below. Errors arrive here and are printed once, with all their causes.

mod agent;
mod check;
mod cli;
mod client;
mod detached;
mod explain;
mod image;
mod lifecycle;
mod listener;
mod memory;
mod ns;
mod run;
mod serve;
mod settings;
mod table;
mod telemetry;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    // Before anything else: a zygote has one thread, and every page that it touches counts once for each pod.
    if env::args_os().nth(1).is_some_and(|first| first == berth_monitor::ZYGOTE_ARGUMENT) {
        return berth_monitor::zygote_main();
    }
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The terminal may be gone, which is no reason to panic.
            let _ = writeln!(io::stderr(), "berth: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read the output has seen enough, as `head` does.
fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The causes, outermost first. Of an agent's answer only the words: its code is for programs.
fn describe(error: &anyhow::Error) -> String {
    let words = error.chain().map(|cause| {
        let boxed = cause.downcast_ref::<Box<tonic::Status>>().map(AsRef::as_ref);
        let status = cause.downcast_ref::<tonic::Status>().or(boxed);
        status.map_or_else(
            || cause.to_string(),
            |status| match status.message() {
                "" => status.code().description().to_owned(),
                message => message.to_owned(),
            },
        )
    });
    words.collect::<Vec<_>>().join(": ")
}
