//! `berth check`: looks at the machine and says whether it can run pods, what is missing, and what to do about it.
//! Nothing is changed: where a thing can only be known by trying it, it is tried on something that disappears with its
//! descriptor.
//!
//! ```text
//! ok|warn|fail  what  detail → what to do
//! ```
//! `warn` means that pods run and something is lost; `fail` that they don't. One `fail` makes the exit status 1.
//!
//! `leaks` is another look, at what pods have left behind; it alone changes something, and only if it is told to.

mod capabilities;
mod cgroup;
mod kernel;
pub(crate) mod leaks;
mod network;
mod node;

use crate::settings::Settings;
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// How the findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Aligned columns.
    Text,
    /// One object per line.
    Json,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    detail: String,
    /// What the operator can do; absent when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// Looks, prints, and tells by the exit status whether anything failed.
pub(crate) async fn run(settings: &Settings, format: Format) -> Result<ExitCode> {
    let mut findings = kernel::findings(settings);
    findings.extend(cgroup::findings());
    findings.extend(network::findings());
    findings.extend(node::findings(settings).await);
    findings.extend(capabilities::findings());
    let mut out = io::stdout().lock();
    for finding in &findings {
        match format {
            Format::Text => writeln!(out, "{finding}")?,
            Format::Json => writeln!(out, "{}", serde_json::to_string(finding)?)?,
        }
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, detail: detail.into(), advice: None }
    }

    fn warn(what: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn fail(what: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, detail: detail.into(), advice: Some(advice.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:<5} {:<14} {}", self.what, self.detail)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, " → {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_in_both_formats() {
        let finding = Finding::warn("sysctls", "ip_forward is 0", "turn it on");
        assert_eq!(finding.to_string(), "warn  sysctls        ip_forward is 0 → turn it on");
        let json = r#"{"level":"warn","what":"sysctls","detail":"ip_forward is 0","advice":"turn it on"}"#;
        assert_eq!(serde_json::to_string(&finding).unwrap(), json);
        assert_eq!(Finding::ok("lsm", "none").to_string(), "ok    lsm            none");
    }
}
