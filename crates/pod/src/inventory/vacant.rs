//! A node on which no agent runs, held as long as it is looked at: the locks that an agent takes keep one from starting
//! meanwhile, or tell that one runs that does not answer. Nothing is made but the files of those locks: what an agent has
//! not made is not there. A look reads a copy of the database: one that is ruined is for the next agent to set aside.

use std::path::PathBuf;

use berth_cgroup::{CgroupPath, Cgroups};
use berth_net::{NetworkConfig, Survey};
use berth_store::Store;

use super::look::object;
use super::owners::Rows;
use super::repair::{repair, settled};
use super::{Cure, Grip, Item, Judged, Keeper, Kind, Owners, Places, Standing, Tie, inspect, judge, look};
use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::host::blocking;

/// Where an agent would be.
#[derive(Debug, Clone)]
pub struct VacantSettings {
    /// Durable state.
    pub root: PathBuf,
    /// Volatile state.
    pub state: PathBuf,
    /// Parent of the pods' cgroups.
    pub cgroup_root: CgroupPath,
    /// The pod network.
    pub network: NetworkConfig,
}

/// The node, held.
#[derive(Debug)]
pub struct Vacant {
    places: Places,
    cure: Cure,
    /// A copy, where nothing is to be changed.
    store: Option<Store>,
    _claims: Claims,
}

impl Vacant {
    /// Takes hold of the node, to do no more than this.
    ///
    /// # Errors
    /// Busy, when an agent has its directories, bridge, table or cgroups.
    pub async fn hold(settings: VacantSettings, cure: Cure) -> Result<Self> {
        let VacantSettings { root, state, cgroup_root, network } = settings;
        let store = match cure {
            Cure::Report => Store::open_copy(&root).await?,
            Cure::Repair => Store::open_existing(&root).await?,
        };
        blocking(move || {
            let cgroups = Cgroups::detect()?;
            let claims = Claims::take_existing(&network, &cgroup_root)?;
            let survey = Survey::new(network);
            let places = Places { root, state, cgroup_root, cgroups, survey, agent: None };
            Ok(Self { places, cure, store, _claims: claims })
        })
        .await?
    }

    /// Everything that an agent's pods have left or should have; for a repair, what was done about it.
    ///
    /// # Errors
    /// Something can't be looked at; a repair without a database, as nobody could tell what is owned.
    pub async fn inventory(&self) -> Result<Vec<Item>> {
        let judged = inspect(|| self.pass()).await?;
        let outcomes = match self.cure {
            Cure::Report => vec![None; judged.len()],
            Cure::Repair
                if self.store.is_none() && judged.iter().any(|found| found.standing == Standing::Left) =>
            {
                return Err(Error::NoDatabase { root: self.places.root.clone() });
            }
            Cure::Repair => {
                let outcomes = repair(&self.places, &Keeper::Nobody(self.store.clone()), &judged).await;
                settled(&judged, outcomes, &self.pass().await?)
            }
        };
        Ok(judged.iter().zip(outcomes).map(|(found, outcome)| found.item(outcome)).collect())
    }

    /// Lets go of the node; when this returns, an agent can start.
    pub async fn release(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }

    async fn pass(&self) -> Result<Vec<Judged>> {
        let places = self.places.clone();
        let mut objects = blocking(move || look(&places)).await??;
        let mut rows = match &self.store {
            Some(store) => Rows::read(store).await?,
            None => Rows::default(),
        };
        objects.append(&mut rows.objects);
        // One that a repair has set aside lies among the others.
        let ruin = self.store.as_ref().and_then(Store::ruin).filter(|ruin| ruin.path.ends_with("berth.db"));
        objects.extend(ruin.map(|ruin| {
            let name = format!("{}: {}", ruin.path.display(), ruin.reason);
            object(Kind::File, &name, Tie::Unreadable(ruin.reason.clone()), Grip::None)
        }));
        let places = self.places.clone();
        blocking(move || {
            objects.extend(rows.doubted_cgroups(&places));
            let owners = Owners::new(rows.known_without_agent(&places), &rows, &places);
            judge(objects, &owners)
        })
        .await
    }
}
