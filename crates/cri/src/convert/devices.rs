//! Devices of the host that a container asks for. Whether they exist is seen when the container is made.

use std::collections::{BTreeMap, HashMap};

use berth_cdi::DeviceName;
use berth_cgroup::DeviceAccess;
use berth_container::spec::DeviceSpec;
use berth_cri_proto::v1::{CdiDevice, Device};

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

/// Annotations with this beginning name devices too, several in one value with commas between them.
const CDI_ANNOTATION: &str = "cdi.k8s.io/";

/// The qualified names of devices that specifications describe, each once: those of the field, then those of
/// annotations.
pub(crate) fn cdi_names_from(
    devices: &[CdiDevice],
    annotations: &HashMap<String, String>,
) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        add_name(&mut names, &format!("CDI_devices[{index}].name"), &device.name)?;
    }
    let annotations: BTreeMap<_, _> =
        annotations.iter().filter(|(key, _)| key.starts_with(CDI_ANNOTATION)).collect();
    for (key, value) in annotations {
        for name in value.split(',') {
            add_name(&mut names, &format!("annotations[{key:?}]"), name)?;
        }
    }
    Ok(names)
}

fn add_name(names: &mut Vec<String>, field: &str, name: &str) -> Result<()> {
    if name.parse::<DeviceName>().is_err() {
        return Err(Refusal::invalid(field, name, "is not of the form vendor.com/class=device"));
    }
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
    Ok(())
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
    fn names_come_from_the_field_and_from_annotations() {
        let devices = ["v/c=1", "v/c=2"].map(|name| CdiDevice { name: name.into() });
        let annotations = [("cdi.k8s.io/b", "v/c=4"), ("cdi.k8s.io/a", "v/c=2,v/c=3"), ("other", "x")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let names = cdi_names_from(&devices, &annotations).unwrap();
        assert_eq!(names, ["v/c=1", "v/c=2", "v/c=3", "v/c=4"]);
        let bad = [("cdi.k8s.io/a".to_owned(), "v/c=2, v/c=3".to_owned())].into();
        let text = cdi_names_from(&[], &bad).unwrap_err().to_string();
        assert!(text.starts_with("annotations[\"cdi.k8s.io/a\"]: \" v/c=3\" is not of the form"), "{text}");
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
