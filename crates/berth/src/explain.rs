//! `berth explain`: what is the matter with a pod, a container, or the node, as the agent knows it.
//!
//! ```text
//! pod default/web 3f2a81c09d11e: ready for 2 h
//!   ! monitor: process 812 is stopped by a signal, and does not answer
//!     → kill -CONT 812, or remove the pod: what does not answer is killed
//! container app 77b0c1e2aa90d: running for 2 h
//!   - 3 times it came to its memory limit
//! ```
//! Without a name, only what is unwell. Any trouble makes the exit status 1, but with a name only those of the node that
//! touch every pod. An agent that does not answer is told as
//! such, with what its process is about: that is an explanation, too.

use crate::client;
use anyhow::{Context, Result};
use berth_admin_proto::v1::admin_client::AdminClient;
use berth_admin_proto::v1::{Account, ExplainRequest, Trouble};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kind of the node's account.
const NODE: &str = "node";

/// What is wrong with the node and makes a pod unwell, too, whichever it is.
const OF_ALL_PODS: [&str; 2] = ["network", "storage"];

/// How much of an id is shown: as crictl does.
const SHOWN_ID: usize = 13;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Name of a pod, or id of a pod or container, or the beginning of one; all that is unwell when left out
    subject: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    state: &'a str,
    since_ns: Option<i64>,
    why: Option<&'a str>,
    notes: &'a [String],
    troubles: Vec<TroubleLine<'a>>,
}

#[derive(Debug, Serialize)]
struct TroubleLine<'a> {
    what: &'a str,
    detail: &'a str,
    advice: &'a str,
}

/// Asks, prints, and tells by the exit status whether anything is wrong.
pub(crate) async fn run(socket: &Path, args: ExplainArgs) -> Result<ExitCode> {
    let ask = async {
        let mut client = AdminClient::new(client::connect(socket).await?);
        let request = ExplainRequest { subject: args.subject.clone() };
        anyhow::Ok(client.explain(request).await.context("explain")?.into_inner().accounts)
    };
    let accounts = client::within(socket, client::LIMIT, ask).await?;
    let mut out = io::stdout().lock();
    match (args.json, &args.subject) {
        (true, _) => {
            for account in &accounts {
                writeln!(out, "{}", serde_json::to_string(&line_of(account))?)?;
            }
        }
        (false, None) if accounts.is_empty() => writeln!(out, "all well")?,
        (false, _) => write!(out, "{}", text_of(&accounts, SystemTime::now()))?,
    }
    let counts = |account: &Account, trouble: &Trouble| {
        args.subject.is_none() || account.kind != NODE || OF_ALL_PODS.contains(&trouble.what.as_str())
    };
    let is_well =
        accounts.iter().all(|account| !account.troubles.iter().any(|trouble| counts(account, trouble)));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line_of(account: &Account) -> Line<'_> {
    let Account { kind, id, name, pod, pod_name, attempt, state, since_ns, why, notes, troubles } = account;
    let troubles =
        troubles.iter().map(|Trouble { what, detail, advice }| TroubleLine { what, detail, advice });
    let troubles = troubles.collect();
    let (attempt, since_ns, why) = (*attempt, *since_ns, why.as_deref());
    Line { kind, id, name, pod, pod_name, attempt, state, since_ns, why, notes, troubles }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn text_of(accounts: &[Account], now: SystemTime) -> String {
    let mut text = String::new();
    let mut pod = "";
    for account in accounts {
        let is_told = !account.pod.is_empty() && account.pod == pod;
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}", headline(account, is_told, now));
        if account.pod.is_empty() {
            pod = &account.id;
        }
        for note in &account.notes {
            let _ = writeln!(text, "  - {note}");
        }
        for Trouble { what, detail, advice } in &account.troubles {
            let _ = writeln!(text, "  ! {what}: {detail}\n    → {advice}");
        }
    }
    text
}

/// A container is named with its pod, unless that was told of just before.
fn headline(account: &Account, pod_is_told: bool, now: SystemTime) -> String {
    let id = account.id.get(..SHOWN_ID).unwrap_or(&account.id);
    let name = match account.pod_name.as_str() {
        pod_name if !pod_name.is_empty() && !pod_is_told => format!("{pod_name}/{}", account.name),
        _ => account.name.clone(),
    };
    let attempt = if account.attempt == 0 { String::new() } else { format!("attempt {}", account.attempt) };
    let named = [account.kind.as_str(), &name, &attempt, id];
    let named: Vec<_> = named.into_iter().filter(|part| !part.is_empty()).collect();
    let since = account.since_ns.and_then(|since_ns| {
        let since = UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(since_ns).ok()?))?;
        Some(format!(" for {}", shown(now.duration_since(since).unwrap_or_default())))
    });
    // A trouble that says the same stands below.
    let is_below = |why: &&String| account.troubles.iter().any(|trouble| trouble.detail == **why);
    let why = account.why.as_ref().filter(|why| !is_below(why)).map(|why| format!(" ({why})"));
    format!("{}: {}{}{}", named.join(" "), account.state, since.unwrap_or_default(), why.unwrap_or_default())
}

/// In the largest unit that there are two of.
fn shown(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let advice = "kill -CONT 812".to_owned();
        Account {
            kind: "pod".to_owned(),
            id: "3f2a81c09d11".repeat(5),
            name: "default/web".to_owned(),
            state: "ready".to_owned(),
            since_ns: Some(1_000_000_000),
            notes: vec!["3 times it came to its memory limit".to_owned()],
            troubles: vec![Trouble {
                what: "monitor".to_owned(),
                detail: "it is stopped".to_owned(),
                advice,
            }],
            ..Account::default()
        }
    }

    #[test]
    fn a_person_reads_lines() {
        let now = UNIX_EPOCH + Duration::from_secs(7202);
        let expected = "\
pod default/web 3f2a81c09d113: ready for 2 h
  - 3 times it came to its memory limit
  ! monitor: it is stopped
    → kill -CONT 812
node: unwell (disk)
";
        let why = Some("disk".to_owned());
        let node = Account { kind: "node".to_owned(), state: "unwell".to_owned(), why, ..Account::default() };
        assert_eq!(text_of(&[account(), node], now), expected);

        let mut container = Account {
            kind: "container".to_owned(),
            id: "77b0c1e2aa90".to_owned(),
            name: "app".to_owned(),
            pod: account().id,
            pod_name: account().name,
            attempt: 4,
            state: "exited".to_owned(),
            why: Some("it is stopped".to_owned()),
            ..Account::default()
        };
        let named = "container default/web/app attempt 4 77b0c1e2aa90: exited (it is stopped)";
        assert_eq!(text_of(&[container.clone()], now).trim_end(), named);
        container.troubles = account().troubles;
        let text = text_of(&[account(), container], now);
        assert!(
            text.contains("\ncontainer app attempt 4 77b0c1e2aa90: exited\n  ! monitor: it is"),
            "{text}"
        );
    }

    #[test]
    fn a_program_reads_objects() {
        let line = serde_json::to_value(line_of(&account())).unwrap();
        assert_eq!(line["troubles"][0]["what"], "monitor");
        assert_eq!((&line["since_ns"], &line["why"]), (&1_000_000_000.into(), &serde_json::Value::Null));
        assert!(line.get("pod").is_none());
    }

    #[test]
    fn ages_are_short() {
        let check = |seconds, expected| assert_eq!(shown(Duration::from_secs(seconds)), expected);
        check(0, "0 s");
        check(119, "119 s");
        check(120, "2 min");
        check(7200, "2 h");
        check(172_800, "2 days");
    }
}
