//! RuntimeConfig: the cgroup driver, which a kubelet takes over. The zero value would say systemd.

use berth_cri_proto::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse};

pub(crate) fn handle() -> RuntimeConfigResponse {
    let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
    RuntimeConfigResponse { linux: Some(linux) }
}
