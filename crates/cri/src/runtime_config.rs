//! RuntimeConfig: the cgroup driver, which a kubelet takes over. The zero value would say systemd.

use berth_cgroup::Driver;
use berth_cri_proto::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse};

use crate::Edge;

pub(crate) fn handle(edge: &Edge) -> RuntimeConfigResponse {
    let driver = match edge.pods.cgroup_driver() {
        Driver::Cgroupfs => CgroupDriver::Cgroupfs,
        Driver::Systemd => CgroupDriver::Systemd,
    };
    RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}
