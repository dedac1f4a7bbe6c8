//! The command line: words in, one call out. Every command that needs the settings reads them through the same four
//! flags, so `berth ns --config FILE` finds the agent that `berth serve --config FILE` started.

use crate::settings::{self, Flags, Settings};
use crate::{check, explain, image, ns, run, serve, telemetry};
use anyhow::Result;
use berth_pod::inventory::Cure;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// A pod runtime for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "berth", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(subcommand)]
    command: Command,
}

/// Where the settings come from, and the three that are often given by hand.
#[derive(Debug, Args)]
struct SettingsFlags {
    /// Settings file; its drop-ins lie in the directory of the same name ending in .d [default: /etc/berth/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the durable state: database and images
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what a reboot may forget: sockets and mounts
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Unix socket on which the agent answers
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: the container runtime interface on a Unix socket
    Serve,
    /// Run pods from Kubernetes manifests, with no kubelet
    Run(run::RunArgs),
    /// Look at this machine: can it run pods, and what would be missing? Or: what have pods left behind?
    Check(CheckArgs),
    /// Say what is the matter with a pod, a container, or whatever is unwell on this node, and what to do
    Explain(explain::ExplainArgs),
    /// Show which process of a pod shares which namespace
    Ns {
        /// Name of the pod, or the beginning of its id; all pods when left out
        pod: Option<String>,
    },
    /// Pull, import, export, list and prune images
    Image {
        #[command(subcommand)]
        command: image::Command,
    },
    /// Print or validate the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Print the version
    Version,
    /// Print the points at which a test can break this build
    #[cfg(feature = "faults")]
    #[command(hide = true)]
    Faults,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Name what pods that are gone have left in kernel, on disk and in the database, and what others have lost
    #[arg(long)]
    leaks: bool,
    /// The same, and take away what nobody owns, and all that a record which can't be read names: also of a pod that
    /// lives, whose processes are killed
    #[arg(long)]
    repair: bool,
    /// With --leaks or --repair: show also what is as it should be, and whose it is
    #[arg(long)]
    all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its explanation and default, commented out
    Default,
    /// Read the settings as the agent would, look for the files that they name, and say what is wrong
    Check,
}

impl Cli {
    /// Runs the command to its end and returns the exit status that it asks for.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let flags = Flags::from(self.settings);
        match self.command {
            Command::Serve => serve::run(&start(&flags)?)?,
            Command::Run(args) => return run::run(&flags, args),
            Command::Check(args) => return check(&start(&flags)?, &args),
            Command::Explain(args) => return block_on(explain::run(&start(&flags)?.socket(), args)),
            Command::Ns { pod } => block_on(ns::run(&start(&flags)?.socket(), pod.as_deref()))?,
            Command::Image { command } => block_on(image::run(&start(&flags)?.socket(), command))?,
            Command::Config { command: ConfigCommand::Default } => {
                write!(io::stdout(), "{}", settings::explain())?
            }
            Command::Config { command: ConfigCommand::Check } => {
                let loaded = settings::load(&flags)?;
                loaded.check_files()?;
                for file in loaded.files() {
                    writeln!(io::stdout(), "{}: ok", file.display())?;
                }
                if loaded.files().next().is_none() {
                    writeln!(io::stdout(), "no settings file: every key has its default")?;
                }
            }
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "berth", &mut io::stdout());
            }
            #[cfg(feature = "faults")]
            Command::Faults => {
                for point in berth_fault::points() {
                    writeln!(io::stdout(), "{point}")?;
                }
            }
            Command::Version => writeln!(io::stdout(), "berth {}", env!("CARGO_PKG_VERSION"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What a command that works on an agent or a node does first.
fn start(flags: &Flags) -> Result<Settings> {
    let settings = settings::load(flags)?.settings;
    telemetry::start(&settings.log)?;
    Ok(settings)
}

fn check(settings: &Settings, args: &CheckArgs) -> Result<ExitCode> {
    let format = if args.json { check::Format::Json } else { check::Format::Text };
    let cure = if args.repair { Cure::Repair } else { Cure::Report };
    match args.leaks || args.repair {
        true => block_on(check::leaks::run(settings, check::leaks::Wish { cure, all: args.all, format })),
        false => block_on(check::run(settings, format)),
    }
}

/// Runs a command that only waits for the agent: one thread is enough.
fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

impl From<SettingsFlags> for Flags {
    fn from(flags: SettingsFlags) -> Self {
        Self { config: flags.config, root: flags.root, state: flags.state, socket: flags.socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
