//! Requests and limits of a container become the settings of its cgroup, by the kubelet's arithmetic.
//!
//! Pure: manifest in, `LinuxContainerResources` out. The out-of-memory score depends on the pod's quality of service
//! and on the machine's memory, which the caller brings.
//! Source: Kubernetes 1.37, pkg/kubelet/cm (shares, quota), pkg/kubelet/qos (oom_score_adj), component-helpers (QoS).

use berth_cri_proto::v1::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::{error::FieldError, quantity::Quantity};

const QUOTA_PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// How the kubelet ranks a pod when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// What a container asks for, in the API's units; a limit without a request is a request too.
#[derive(Default)]
struct Wanted {
    cpu_request_milli: Option<i64>,
    cpu_limit_milli: Option<i64>,
    memory_request_bytes: Option<i64>,
    memory_limit_bytes: Option<i64>,
    hugepages: Vec<HugepageLimit>,
}

/// The cgroup settings of `container`, which stands at `path`.
///
/// Errors: a malformed quantity, a resource that is neither cpu, memory nor huge pages, a request above its limit.
pub(crate) fn container_resources(
    container: &Container,
    path: &str,
    qos: Qos,
    machine_memory_bytes: u64,
) -> Result<LinuxContainerResources, FieldError> {
    let wanted = read_wanted(container, path)?;
    Ok(LinuxContainerResources {
        cpu_period: if wanted.cpu_limit_milli.is_some() { QUOTA_PERIOD_US } else { 0 },
        cpu_quota: wanted.cpu_limit_milli.map_or(0, quota_us),
        cpu_shares: shares(wanted.cpu_request_milli.unwrap_or(0)),
        memory_limit_in_bytes: wanted.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: oom_score_adj(qos, wanted.memory_request_bytes.unwrap_or(0), machine_memory_bytes),
        hugepage_limits: wanted.hugepages,
        ..Default::default()
    })
}

/// Guaranteed when every container limits cpu and memory and asks for just that; best effort when none asks for any.
pub(crate) fn qos(spec: &PodSpec) -> Result<Qos, FieldError> {
    let (mut all_guaranteed, mut any_wanted) = (true, false);
    let containers = crate::parse::containers(spec);
    for (path, container) in &containers {
        let wanted = read_wanted(container, path)?;
        let guaranteed = |request: Option<i64>, limit: Option<i64>| limit.is_some() && request == limit;
        all_guaranteed &= guaranteed(wanted.cpu_request_milli, wanted.cpu_limit_milli)
            && guaranteed(wanted.memory_request_bytes, wanted.memory_limit_bytes);
        any_wanted |= wanted.cpu_request_milli.is_some() || wanted.memory_request_bytes.is_some();
    }
    Ok(match (all_guaranteed, any_wanted) {
        (true, true) => Qos::Guaranteed,
        (false, true) => Qos::Burstable,
        (_, false) => Qos::BestEffort,
    })
}

fn read_wanted(container: &Container, path: &str) -> Result<Wanted, FieldError> {
    let mut wanted = Wanted::default();
    let Some(resources) = &container.resources else {
        return Ok(wanted);
    };
    for (name, quantity) in resources.requests.iter().flatten() {
        let path = format!("{path}.resources.requests.{name}");
        let quantity = parse(&quantity.0, &path)?;
        match name.as_str() {
            "cpu" => wanted.cpu_request_milli = positive(quantity.milli()),
            "memory" => wanted.memory_request_bytes = positive(quantity.units()),
            _ => return Err(FieldError::new(path, "is not a resource that berth supports")),
        }
    }
    for (name, quantity) in resources.limits.iter().flatten() {
        let path = format!("{path}.resources.limits.{name}");
        let quantity = parse(&quantity.0, &path)?;
        match (name.as_str(), name.strip_prefix("hugepages-")) {
            ("cpu", _) => wanted.cpu_limit_milli = positive(quantity.milli()),
            ("memory", _) => wanted.memory_limit_bytes = positive(quantity.units()),
            (_, Some(size)) => wanted.hugepages.push(hugepage_limit(size, quantity, &path)?),
            _ => return Err(FieldError::new(path, "is not a resource that berth supports")),
        }
    }
    wanted.cpu_request_milli = request_within(wanted.cpu_request_milli, wanted.cpu_limit_milli, path, "cpu")?;
    wanted.memory_request_bytes =
        request_within(wanted.memory_request_bytes, wanted.memory_limit_bytes, path, "memory")?;
    Ok(wanted)
}

fn parse(text: &str, path: &str) -> Result<Quantity, FieldError> {
    Quantity::parse(text)
        .ok_or_else(|| FieldError::new(path, format!("{text:?} is no quantity such as 0.5, 500m or 64Mi")))
}

fn positive(amount: i64) -> Option<i64> {
    (amount > 0).then_some(amount)
}

fn request_within(
    request: Option<i64>,
    limit: Option<i64>,
    path: &str,
    name: &str,
) -> Result<Option<i64>, FieldError> {
    match (request, limit) {
        (Some(request), Some(limit)) if request > limit => {
            Err(FieldError::new(format!("{path}.resources.requests.{name}"), "is more than the limit"))
        }
        _ => Ok(request.or(limit)),
    }
}

/// The kernel's name of a page size has decimal-looking units for binary sizes: 2Mi is 2MB.
fn hugepage_limit(size: &str, limit: Quantity, path: &str) -> Result<HugepageLimit, FieldError> {
    let bytes = parse(size, path)?.units();
    let page_size = match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    };
    Ok(HugepageLimit { page_size, limit: limit.units().unsigned_abs() })
}

fn shares(cpu_milli: i64) -> i64 {
    (cpu_milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota_us(cpu_milli: i64) -> i64 {
    (cpu_milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(MIN_QUOTA_US)
}

fn oom_score_adj(qos: Qos, memory_request_bytes: i64, machine_memory_bytes: u64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = i128::from(memory_request_bytes) * 1000 / i128::from(machine_memory_bytes.max(1));
            i64::try_from(1000 - share).unwrap_or(0).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(resources: &str) -> Container {
        serde_norway::from_str(&format!("{{name: a, resources: {resources}}}")).unwrap()
    }

    #[test]
    fn resources_follow_the_kubelets_arithmetic() {
        const GIB: i64 = 1 << 30;
        // resources, then (period, quota, shares, memory, oom score) in a Burstable pod on a machine with 4 GiB
        for (resources, expected) in [
            ("{}", (0, 0, 2, 0, 999)),
            ("{requests: {cpu: 250m, memory: 1Gi}}", (0, 0, 256, 0, 750)),
            ("{limits: {cpu: 500m}}", (100_000, 50_000, 512, 0, 999)),
            ("{limits: {cpu: 1m}}", (100_000, 1000, 2, 0, 999)),
            ("{limits: {memory: 1Gi}, requests: {cpu: '1'}}", (0, 0, 1024, GIB, 750)),
            ("{requests: {cpu: '1000', memory: 4Gi}}", (0, 0, 262_144, 0, 3)),
        ] {
            let r = container_resources(&container(resources), "c", Qos::Burstable, 4 << 30).unwrap();
            let actual = (r.cpu_period, r.cpu_quota, r.cpu_shares, r.memory_limit_in_bytes, r.oom_score_adj);
            assert_eq!(actual, expected, "{resources}");
        }
    }

    #[test]
    fn huge_pages_get_the_kernels_names() {
        let limits = "{limits: {hugepages-2Mi: 4Mi, hugepages-1Gi: 1Gi}}";
        let resources = container_resources(&container(limits), "c", Qos::Burstable, 1).unwrap();
        let pairs: Vec<_> = resources.hugepage_limits.iter().map(|l| (&*l.page_size, l.limit)).collect();
        assert_eq!(pairs, [("1GB", 1 << 30), ("2MB", 4 << 20)]);
    }

    #[test]
    fn bad_resources_name_their_path() {
        for (resources, path) in [
            ("{limits: {cpu: lots}}", "c.resources.limits.cpu"),
            ("{limits: {nvidia.com/gpu: '1'}}", "c.resources.limits.nvidia.com/gpu"),
            ("{requests: {cpu: '2'}, limits: {cpu: '1'}}", "c.resources.requests.cpu"),
        ] {
            let error = container_resources(&container(resources), "c", Qos::Burstable, 1).unwrap_err();
            assert_eq!(error.path, path);
        }
    }

    #[test]
    fn quality_of_service_is_the_kubelets() {
        let both = "{limits: {cpu: '1', memory: 1Gi}}";
        for (first, second, expected) in [
            ("{}", "{}", Qos::BestEffort),
            (both, both, Qos::Guaranteed),
            (both, "{}", Qos::Burstable),
            ("{requests: {cpu: 1m}}", "{}", Qos::Burstable),
            ("{requests: {cpu: 500m}, limits: {cpu: '1', memory: 1Gi}}", both, Qos::Burstable),
        ] {
            let spec =
                PodSpec { containers: vec![container(first), container(second)], ..Default::default() };
            assert_eq!(qos(&spec).unwrap(), expected, "{first} {second}");
        }
    }
}
