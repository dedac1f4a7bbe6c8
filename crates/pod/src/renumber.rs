//! A pod CIDR arrives while pods run (CRI `UpdateRuntimeConfig`).
//!
//! In: the subnets that a client gave. Out: gateways and rules for them in the kernel, the record, and an address pool
//! that leases from them. The kernel comes first, so that no pod gets an address that has no gateway; what has been in
//! force goes only after the last lease of it can have been made. An agent killed on the way has either the old record
//! or the new one, and its successor brings the kernel into line with it.

use std::net::IpAddr;
use std::sync::Arc;

use berth_net::{Network, ServedSubnets};
use berth_store::Change;
use ipnet::IpNet;

use crate::error::Result;
use crate::host::{Host, blocking};
use crate::record::NetworkRecord;

/// Carries the change out; one at a time.
pub(crate) async fn renumber(host: Arc<Host>, subnets: Vec<IpNet>) -> Result<()> {
    let wanted = host.network.check_pod_cidr(&subnets)?;
    // Whom nobody can ask for has no say in this, and nobody is made meanwhile who would have an address of before.
    let _none_is_made = host.spares.clear().await;
    host.departures.settle().await;
    let is_new = wanted != host.network.subnets();
    let served = if is_new {
        change(&host, move |network, leased| network.renumber(&wanted, leased)).await?
    } else {
        // In the kernel it is so already. The record may not say so: the settings may say the same today and something
        // else tomorrow; and an earlier change may have come this far and no further.
        host.network.served()
    };
    record(&host, served.clone()).await?;
    host.leases().renumber(&served.current);
    let pruned = change(&host, Network::prune).await?;
    if is_new {
        tracing::info!(subnets = ?pruned.current, retired = ?pruned.retired, "pod CIDR changed");
    }
    if pruned == served { Ok(()) } else { record(&host, pruned).await }
}

async fn change(
    host: &Arc<Host>,
    change: impl FnOnce(&Network, &[IpAddr]) -> berth_net::Result<ServedSubnets> + Send + 'static,
) -> Result<ServedSubnets> {
    let host = host.clone();
    blocking(move || {
        let leased = host.leases().taken();
        Ok(change(&host.network, &leased)?)
    })
    .await?
}

async fn record(host: &Host, subnets: ServedSubnets) -> Result<()> {
    host.commit(Change::new().put(&NetworkRecord { subnets })?).await
}
