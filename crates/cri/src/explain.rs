//! Explain, of the service `berth.v1.Admin`: accounts to messages.

use berth_admin_proto::v1::{Account as Told, ExplainRequest, ExplainResponse, Trouble as ToldTrouble};
use berth_pod::explain::{Account, Subject, Trouble, Wanted};

use crate::convert::Refusal;
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge, request: ExplainRequest) -> Result<ExplainResponse, Failure> {
    let wanted = match request.subject.as_deref() {
        None => Wanted::Unwell,
        Some("") => return Err(Refusal::missing("subject").into()),
        Some(text) => Wanted::Named(text),
    };
    let accounts = edge.pods.explain(wanted).await?;
    Ok(ExplainResponse { accounts: accounts.into_iter().map(told).collect() })
}

fn told(account: Account) -> Told {
    let Account { subject, state, since_ns, why, notes, troubles } = account;
    let (kind, id, name, pod) = match subject {
        Subject::Node => ("node", String::new(), String::new(), String::new()),
        Subject::Pod { id, name } => ("pod", id, name, String::new()),
        Subject::Container { id, name, pod } => ("container", id, name, pod),
    };
    let trouble = |Trouble { what, detail, advice }| ToldTrouble { what: what.to_owned(), detail, advice };
    let troubles = troubles.into_iter().map(trouble).collect();
    Told { kind: kind.to_owned(), id, name, pod, state: state.to_owned(), since_ns, why, notes, troubles }
}
