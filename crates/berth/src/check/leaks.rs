//! `berth check --leaks`: what pods that are gone have left on the machine, and what is missing of those that there are;
//! `--repair` takes away what is left. The agent is asked, which knows what is being made; where none runs, the same is
//! found from its settings and its database, and nothing is made.
//!
//! ```text
//! left|missing|unreadable  kind  name  owner  what was done
//! ```
//! Whatever stays makes the exit status 1.

use super::Format;
use crate::client;
use crate::listener::{Occupant, occupant};
use crate::settings::Settings;
use anyhow::{Context, Result};
use berth_admin_proto::v1::admin_client::AdminClient;
use berth_admin_proto::v1::{InventoryItem, TakeInventoryRequest};
use berth_cgroup::CgroupPath;
use berth_pod::inventory::{Cure, Item, Vacant, VacantSettings};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// What to do and what to show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) cure: Cure,
    /// Also what is as it should be.
    pub(crate) all: bool,
    pub(crate) format: Format,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    standing: String,
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
}

/// Looks, repairs if that is wished, prints, and tells by the exit status whether anything stays.
pub(crate) async fn run(settings: &Settings, wish: Wish) -> Result<ExitCode> {
    let socket = settings.socket();
    let mut rows = match occupant(&socket).with_context(|| format!("look at {}", socket.display()))? {
        Occupant::Live => client::attended(&socket, ask_agent(&socket, wish.cure)).await?,
        Occupant::Nobody | Occupant::Stale | Occupant::File => {
            look_without_agent(settings, wish.cure).await?
        }
    };
    let (looked_at, stays) = (rows.len(), rows.iter().any(Row::stays));
    rows.retain(|row| wish.all || row.standing != "owned");
    let mut out = io::stdout().lock();
    match wish.format {
        Format::Json => {
            for row in &rows {
                writeln!(out, "{}", serde_json::to_string(row)?)?;
            }
        }
        Format::Text if rows.is_empty() => writeln!(out, "ok: nothing is left among {looked_at} things")?,
        Format::Text => write!(out, "{}", table(&rows))?,
    }
    Ok(if stays { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn ask_agent(socket: &Path, cure: Cure) -> Result<Vec<Row>> {
    let mut client = AdminClient::new(client::connect(socket).await?);
    let request = TakeInventoryRequest { repair: cure == Cure::Repair };
    let mut messages = client.take_inventory(request).await.context("take inventory")?.into_inner();
    let mut rows = Vec::new();
    while let Some(message) = messages.message().await.context("take inventory")? {
        rows.extend(message.items.into_iter().map(Row::from));
    }
    Ok(rows)
}

async fn look_without_agent(settings: &Settings, cure: Cure) -> Result<Vec<Row>> {
    let places = VacantSettings {
        root: settings.root.clone(),
        state: settings.state.clone(),
        cgroup_root: CgroupPath::new(&settings.cgroup.root)?,
        network: settings.network.clone(),
    };
    let vacant = Vacant::hold(places, cure).await?;
    let items = vacant.inventory().await;
    vacant.release().await;
    Ok(items?.into_iter().map(Row::from).collect())
}

impl Row {
    fn stays(&self) -> bool {
        let removed = self.outcome.as_deref().is_some_and(|outcome| outcome == berth_pod::inventory::REMOVED);
        self.standing != "owned" && !removed
    }
}

impl From<InventoryItem> for Row {
    fn from(item: InventoryItem) -> Self {
        let InventoryItem { standing, kind, name, owner, outcome } = item;
        Self { standing, kind, name, owner, outcome }
    }
}

impl From<Item> for Row {
    fn from(item: Item) -> Self {
        let Item { standing, kind, name, owner, outcome } = item;
        Self { standing: standing.to_string(), kind: kind.to_string(), name, owner, outcome }
    }
}

fn table(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let owner = row.owner.as_deref().unwrap_or("nobody");
        [&*row.standing, &*row.kind, &*row.name, owner, row.outcome.as_deref().unwrap_or_default()]
            .map(str::to_owned)
            .to_vec()
    });
    crate::table::align(&cells.collect::<Vec<_>>())
}
