//! Changing limits of what exists. The cgroup is changed first, whole or not at all, and then the record: what status
//! tells has been applied, and an agent that starts anew knows it.

use berth_cgroup::Limits;
use berth_fault::point;
use berth_monitor::id::ContainerId;

use crate::driver::Driver;
use crate::error::Result;
use crate::host::blocking;
use crate::lifecycle::container::Request;
use crate::spec::PodResources;

impl Driver {
    /// Changes what `change` gives of a container's limits, before or while it runs.
    ///
    /// # Errors
    /// `WrongState` for a container that has ended and for memory that is in use; a value that the kernel refuses. All
    /// limits are as before then.
    pub(crate) async fn update_container(&mut self, id: &ContainerId, change: Limits) -> Result<()> {
        self.admit(Request::Update, id)?;
        let workload = self.workload_mut(id)?;
        let (name, current) = (workload.record.spec.name.clone(), workload.limits());
        let cgroup = self.container_cgroup(id)?;
        let update = async { Ok(blocking(move || cgroup.update(&current, &change)).await??) };
        // Not given up after a while: the kernel may take the limits even then, and the record would have the former
        // ones. Its attempts to reclaim memory are counted.
        let limits = self.whole_step(point!("change limits of container"), &name, update).await?;
        self.workload_mut(id)?.record.limits = Some(limits);
        self.save_container(id).await;
        tracing::info!(pod.id = %self.id, container.id = %id, container.name = name, "limits changed");
        Ok(())
    }

    /// Notes what the pod needs from now on; see [`PodResources`] for why nothing is enforced.
    ///
    /// # Errors
    /// The database refused.
    pub(crate) async fn update_sandbox(&mut self, resources: PodResources) -> Result<()> {
        let former = std::mem::replace(&mut self.resources, resources);
        if let Err(error) = self.commit(berth_store::Change::new()).await {
            self.resources = former;
            return Err(error);
        }
        self.publish();
        Ok(())
    }
}
