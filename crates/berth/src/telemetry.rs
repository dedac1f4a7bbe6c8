//! Where log lines go: stderr, as text for people or as JSON for collectors. The environment variable `BERTH_LOG`, when
//! set, wins over the settings, so that one command can be looked at closely without editing a file.

use crate::settings::{Log, LogFormat};
use anyhow::{Result, anyhow};
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// The variable that overrides `log.level`.
const VARIABLE: &str = "BERTH_LOG";

/// Installs the process's one subscriber. To be called once, before the first event.
pub(crate) fn start(log: &Log) -> Result<()> {
    let directives = std::env::var(VARIABLE).unwrap_or_else(|_| log.level.clone());
    let filter =
        EnvFilter::try_new(&directives).map_err(|e| anyhow!("read log filter {directives:?}: {e}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // The default says so on stderr, and panics where that is what has gone.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|e| anyhow!("install the log writer: {e}"))
}
