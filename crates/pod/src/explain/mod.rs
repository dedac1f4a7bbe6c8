//! What is the matter with a pod, a container, or the node: its state and since when, why, what is wrong around it, and
//! what to do.
//!
//! ```text
//! look (views, /proc, cgroups, links; each question with a deadline) ─facts─▶ judge (pure) ─▶ accounts
//! ```
//! It is asked when something hangs, so nothing here waits for a driver, nor for anything else without an end: a question
//! that is not answered in time is itself a finding. Nothing is repaired. What is fine now but was not is a *note*; what
//! is wrong now, a *trouble*.

mod judge;
mod look;

use berth_store::ErrorKind;

use crate::error::{Error, Result};
use crate::registry::Pods;
use crate::view::Snapshot;

/// What an account is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// This machine, as far as all pods depend on it.
    Node,
    /// A pod.
    Pod {
        /// Its id.
        id: String,
        /// Kubernetes' namespace and name, with a slash between.
        name: String,
    },
    /// A container.
    Container {
        /// Its id.
        id: String,
        /// Its name in its pod.
        name: String,
        /// The pod's id.
        pod: String,
        /// The pod's namespace and name, with a slash between.
        pod_name: String,
        /// How many of its name there were before it, by whom made it.
        attempt: u32,
    },
}

/// What there is to say of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Of what.
    pub subject: Subject,
    /// A word or two: `ready`, `running`.
    pub state: &'static str,
    /// Nanoseconds since the epoch.
    pub since_ns: Option<i64>,
    /// How it came into this state, where there is more to say.
    pub why: Option<String>,
    /// What was remarkable, and is no trouble now.
    pub notes: Vec<String>,
    /// What is wrong.
    pub troubles: Vec<Trouble>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it is about, in a word that stays the same: `monitor`, `network`.
    pub what: &'static str,
    /// What is the matter.
    pub detail: String,
    /// What to do about it.
    pub advice: String,
}

/// Of what an account is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Of all that is unwell.
    Unwell,
    /// Of the pods and containers with this name, id or beginning of an id; of the node too, if it is unwell.
    Named(&'a str),
}

impl Pods {
    /// Gives account. Takes a few seconds at most, whatever hangs.
    ///
    /// # Errors
    /// `NoPod`, when nothing is called so.
    pub async fn explain(&self, wanted: Wanted<'_>) -> Result<Vec<Account>> {
        let (snapshot, at_work) = (self.snapshot(), self.at_work());
        let chosen = |pod: &look::Known| match wanted {
            Wanted::Unwell => true,
            Wanted::Named(text) => pod.is_meant_by(text),
        };
        let known: Vec<_> = look::known(&snapshot, at_work).into_iter().filter(chosen).collect();
        if let (Wanted::Named(text), true) = (wanted, known.is_empty()) {
            return Err(Error::NoPod { id: text.to_owned() });
        }
        let (node, pods) = tokio::join!(look::node(self), look::pods(self, known));
        let mut accounts = vec![judge::node(node)];
        accounts.retain(|node| !node.troubles.is_empty());
        accounts.extend(pods.into_iter().flat_map(judge::pod).filter(|account| match wanted {
            Wanted::Unwell => !account.troubles.is_empty(),
            Wanted::Named(text) => is_wanted(&snapshot, account, text),
        }));
        Ok(accounts)
    }
}

/// Who asks for a pod wants its containers too; who asks for a container, its pod too, but no other container that is
/// well.
fn is_wanted(snapshot: &Snapshot, account: &Account, text: &str) -> bool {
    let means_container = snapshot.container(text).is_ok();
    match &account.subject {
        Subject::Container { id, name, .. } if means_container => {
            id.starts_with(text) || name == text || !account.troubles.is_empty()
        }
        Subject::Node | Subject::Pod { .. } | Subject::Container { .. } => true,
    }
}

/// What a question came to that has a deadline: what is wrong, if anything.
type Checked<T = ()> = std::result::Result<T, (ErrorKind, String)>;
