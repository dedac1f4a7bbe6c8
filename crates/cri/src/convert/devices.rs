//! Devices of the host that a container asks for. Whether they exist is seen when the container is made.

use berth_cgroup::DeviceAccess;
use berth_container::spec::DeviceSpec;
use berth_cri_proto::v1::Device;

use super::{Refusal, Result, check};

/// Reads the list; a device without a path in the container appears where it is on the host.
pub(crate) fn devices_from(devices: &[Device]) -> Result<Vec<DeviceSpec>> {
    let device = |(index, device): (usize, &Device)| {
        device_from(device).map_err(|refusal| refusal.within(&format!("devices[{index}]")))
    };
    devices.iter().enumerate().map(device).collect()
}

fn device_from(device: &Device) -> Result<DeviceSpec> {
    let host_path = check::absolute_path("host_path", &device.host_path)?;
    let container_path = match device.container_path.as_str() {
        "" => host_path.clone(),
        path => check::absolute_path("container_path", path)?,
    };
    Ok(DeviceSpec { host_path, container_path, access: access_from(&device.permissions)? })
}

fn access_from(permissions: &str) -> Result<DeviceAccess> {
    match permissions {
        "" => Ok(DeviceAccess::ALL),
        _ => DeviceAccess::parse(permissions).ok_or_else(|| {
            Refusal::invalid("permissions", permissions, "is not made of the letters r, w and m")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host_path: &str, container_path: &str, permissions: &str) -> Device {
        let own = str::to_owned;
        Device {
            host_path: own(host_path),
            container_path: own(container_path),
            permissions: own(permissions),
        }
    }

    #[test]
    fn a_short_request_has_the_hosts_path_and_all_permissions() {
        let read = |given| {
            let spec = device_from(&given).unwrap();
            (spec.container_path.to_str().unwrap().to_owned(), spec.access.to_string())
        };
        assert_eq!(read(device("/dev/fuse", "", "")), ("/dev/fuse".into(), "rwm".into()));
        assert_eq!(read(device("/dev/fuse", "/dev/x", "wr")), ("/dev/x".into(), "rw".into()));
    }

    #[test]
    fn nonsense_is_named() {
        let check = |given, want: &str| {
            let text = devices_from(&[given]).unwrap_err().to_string();
            assert!(text.starts_with(&format!("devices[0].{want}")), "{text}");
        };
        check(device("", "", ""), "host_path: must be given");
        check(device("dev/fuse", "", ""), "host_path: \"dev/fuse\" is not an absolute");
        check(device("/dev/fuse", "x", ""), "container_path: \"x\" is not an absolute");
        check(device("/dev/fuse", "", "rx"), "permissions: \"rx\" is not made of");
    }
}
