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
    let of_whom = match subject {
        Subject::Node => Told { kind: "node".to_owned(), ..Told::default() },
        Subject::Pod { id, name } => Told { kind: "pod".to_owned(), id, name, ..Told::default() },
        Subject::Container { id, name, pod, pod_name, attempt } => {
            Told { kind: "container".to_owned(), id, name, pod, pod_name, attempt, ..Told::default() }
        }
    };
    let trouble = |Trouble { what, detail, advice }| ToldTrouble { what: what.to_owned(), detail, advice };
    let troubles = troubles.into_iter().map(trouble).collect();
    Told { state: state.to_owned(), since_ns, why, notes, troubles, ..of_whom }
}
