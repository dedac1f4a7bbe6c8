//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::{floor, report, run};

/// How fast and how small berth is, beside its peers.
#[derive(Debug, Parser)]
#[command(name = "berth-bench")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure berth and its peers.
    Run(run::Run),
    /// Make the kernel objects of a pod with nothing else, and tell how long that takes.
    Floor(floor::Floor),
    /// Draw what a run has written.
    Plot(Plot),
}

#[derive(Debug, Args)]
struct Plot {
    /// The JSON file of a run.
    run: PathBuf,
    /// Where the SVG files go.
    #[arg(long, default_value = ".")]
    to: PathBuf,
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Floor(floor) => floor.run(),
            Command::Plot(plot) => plot.draw(),
        }
    }
}

impl Plot {
    fn draw(&self) -> Result<()> {
        let paths = report::plot::draw(&report::Run::read(&self.run)?, &self.to)?;
        if paths.is_empty() {
            bail!("there is nothing to draw in {}", self.run.display());
        }
        paths.iter().for_each(|path| println!("{}", path.display()));
        Ok(())
    }
}
