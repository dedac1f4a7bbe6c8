//! The fields of a Pod that berth supports: one table, which is also their documentation.
//!
//! In: the raw YAML tree of one document. Out: an error that names the path of the first field which is not in the
//! table, so that nothing a person wrote is ever ignored; or the tree, where quantities written as plain numbers have
//! become text, as the typed parser wants them. What a field means is decided elsewhere; here only that it may be
//! there.
//!
//! An absent field and an explicit null are the same. In a pattern, `[]` stands for the items of a list.

use serde_norway::Value;

use crate::error::FieldError;

/// What may stand at a path.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Text, a number or a yes/no.
    Scalar,
    /// Any keys, with scalars.
    Map,
    /// A quantity: text such as 500m or 1Gi, or a plain number.
    Quantity,
    /// Any keys, with quantities.
    QuantityMap,
    /// Only an empty mapping.
    Nothing,
}

use Shape::{Map, Nothing, Quantity, QuantityMap, Scalar};

/// Pattern, shape, and what berth does with it where the Kubernetes reference does not say.
/// Everything below `spec.containers[]` holds for `spec.initContainers[]` too.
#[rustfmt::skip]
const SUPPORTED: &[(&str, Shape, &str)] = &[
    ("apiVersion", Scalar, "v1"),
    ("kind", Scalar, "Pod"),
    ("metadata.name", Scalar, "required"),
    ("metadata.namespace", Scalar, "default when absent"),
    ("metadata.labels", Map, ""),
    ("metadata.annotations", Map, ""),
    ("metadata.creationTimestamp", Nothing, "as kubectl writes it in a dry run"),
    ("status", Nothing, "as kubectl writes it in a dry run"),

    ("spec.restartPolicy", Scalar, "restarts back off as the kubelet's"),
    ("spec.terminationGracePeriodSeconds", Scalar, ""),
    ("spec.hostname", Scalar, ""),
    ("spec.hostNetwork", Scalar, ""),
    ("spec.hostPID", Scalar, ""),
    ("spec.hostIPC", Scalar, ""),
    ("spec.shareProcessNamespace", Scalar, ""),
    ("spec.dnsPolicy", Scalar, "there is no cluster DNS: all but None mean the host's resolver"),
    ("spec.dnsConfig.nameservers[]", Scalar, ""),
    ("spec.dnsConfig.searches[]", Scalar, ""),
    ("spec.dnsConfig.options[].name", Scalar, ""),
    ("spec.dnsConfig.options[].value", Scalar, ""),
    ("spec.hostAliases[].ip", Scalar, ""),
    ("spec.hostAliases[].hostnames[]", Scalar, ""),
    ("spec.automountServiceAccountToken", Scalar, "only false: there is no API server"),
    ("spec.enableServiceLinks", Scalar, "only false: there are no services"),

    ("spec.securityContext.runAsUser", Scalar, ""),
    ("spec.securityContext.runAsGroup", Scalar, ""),
    ("spec.securityContext.runAsNonRoot", Scalar, ""),
    ("spec.securityContext.supplementalGroups[]", Scalar, ""),
    ("spec.securityContext.supplementalGroupsPolicy", Scalar, ""),
    ("spec.securityContext.fsGroup", Scalar, "given to emptyDir volumes"),
    ("spec.securityContext.sysctls[].name", Scalar, "the runtime decides which are safe"),
    ("spec.securityContext.sysctls[].value", Scalar, ""),
    ("spec.securityContext.seccompProfile.localhostProfile", Scalar, "below /var/lib/kubelet/seccomp"),
    ("spec.securityContext.seccompProfile.type", Scalar, ""),
    ("spec.securityContext.appArmorProfile.type", Scalar, ""),
    ("spec.securityContext.appArmorProfile.localhostProfile", Scalar, ""),
    ("spec.securityContext.seLinuxOptions.user", Scalar, ""),
    ("spec.securityContext.seLinuxOptions.role", Scalar, ""),
    ("spec.securityContext.seLinuxOptions.type", Scalar, ""),
    ("spec.securityContext.seLinuxOptions.level", Scalar, ""),

    ("spec.volumes[].name", Scalar, ""),
    ("spec.volumes[].emptyDir.medium", Scalar, "Memory is a tmpfs of its own"),
    ("spec.volumes[].emptyDir.sizeLimit", Quantity, "only with medium Memory, where it is the tmpfs's size"),
    ("spec.volumes[].hostPath.path", Scalar, ""),
    ("spec.volumes[].hostPath.type", Scalar, ""),

    ("spec.initContainers[].restartPolicy", Scalar, "Always makes a sidecar: started in turn, stopped last"),
    ("spec.containers[].name", Scalar, ""),
    ("spec.containers[].image", Scalar, "required"),
    ("spec.containers[].imagePullPolicy", Scalar, "looked at once per run, not at each restart"),
    ("spec.containers[].command[]", Scalar, ""),
    ("spec.containers[].args[]", Scalar, ""),
    ("spec.containers[].workingDir", Scalar, ""),
    ("spec.containers[].env[].name", Scalar, ""),
    ("spec.containers[].env[].value", Scalar, ""),
    ("spec.containers[].env[].valueFrom.fieldRef.apiVersion", Scalar, "v1"),
    ("spec.containers[].env[].valueFrom.fieldRef.fieldPath", Scalar, "metadata.* and status.podIP(s)"),
    ("spec.containers[].ports[].name", Scalar, ""),
    ("spec.containers[].ports[].containerPort", Scalar, ""),
    ("spec.containers[].ports[].protocol", Scalar, ""),
    ("spec.containers[].ports[].hostPort", Scalar, "only on the host's network, equal to containerPort"),
    ("spec.containers[].resources.requests", QuantityMap, "cpu, memory"),
    ("spec.containers[].resources.limits", QuantityMap, "cpu, memory, hugepages-SIZE"),
    ("spec.containers[].volumeMounts[].name", Scalar, ""),
    ("spec.containers[].volumeMounts[].mountPath", Scalar, ""),
    ("spec.containers[].volumeMounts[].readOnly", Scalar, ""),
    ("spec.containers[].volumeMounts[].subPath", Scalar, "no symlinks on the way"),
    ("spec.containers[].volumeMounts[].mountPropagation", Scalar, ""),
    ("spec.containers[].stdin", Scalar, ""),
    ("spec.containers[].stdinOnce", Scalar, ""),
    ("spec.containers[].tty", Scalar, ""),
    ("spec.containers[].securityContext.runAsUser", Scalar, ""),
    ("spec.containers[].securityContext.runAsGroup", Scalar, ""),
    ("spec.containers[].securityContext.runAsNonRoot", Scalar, ""),
    ("spec.containers[].securityContext.privileged", Scalar, ""),
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Scalar, ""),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Scalar, ""),
    ("spec.containers[].securityContext.procMount", Scalar, ""),
    ("spec.containers[].securityContext.capabilities.add[]", Scalar, ""),
    ("spec.containers[].securityContext.capabilities.drop[]", Scalar, ""),
    ("spec.containers[].securityContext.seccompProfile.localhostProfile", Scalar, "below /var/lib/kubelet/seccomp"),
    ("spec.containers[].securityContext.seccompProfile.type", Scalar, ""),
    ("spec.containers[].securityContext.appArmorProfile.type", Scalar, ""),
    ("spec.containers[].securityContext.appArmorProfile.localhostProfile", Scalar, ""),
    ("spec.containers[].securityContext.seLinuxOptions.user", Scalar, ""),
    ("spec.containers[].securityContext.seLinuxOptions.role", Scalar, ""),
    ("spec.containers[].securityContext.seLinuxOptions.type", Scalar, ""),
    ("spec.containers[].securityContext.seLinuxOptions.level", Scalar, ""),
];

/// Every supported field and what berth does with it where the Kubernetes reference does not say, for help texts.
/// `[]` stands for the items of a list; what holds below `spec.containers[]` holds for `spec.initContainers[]` too.
pub fn supported_fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    SUPPORTED.iter().map(|(pattern, _, note)| (*pattern, *note))
}

/// Refuses `document` if it has a field that is not supported, and writes its quantities as text.
pub(crate) fn check_fields(document: &mut Value) -> Result<(), FieldError> {
    check_node(document, "", "")
}

/// `path` is what a person reads (`spec.containers[1].image`), `pattern` is its row (`spec.containers[].image`).
fn check_node(node: &mut Value, path: &str, pattern: &str) -> Result<(), FieldError> {
    let unsupported = || FieldError::new(path, "is not a field that berth supports");
    match (node, shape_of(pattern)) {
        (Value::Null, _) => Ok(()),
        (Value::Mapping(children), Some(Nothing)) if children.is_empty() => Ok(()),
        (_, Some(Nothing)) => Err(unsupported()),
        (Value::Mapping(children), Some(QuantityMap)) => {
            children.values_mut().for_each(write_as_text);
            Ok(())
        }
        (node, Some(Quantity)) => {
            write_as_text(node);
            Ok(())
        }
        // The typed parser says what is wrong when a scalar stands where a list belongs, or the other way round.
        (_, Some(Scalar | Map | QuantityMap)) => Ok(()),
        (_, None) if !has_rows_below(pattern) => Err(unsupported()),
        (Value::Mapping(children), None) => children.iter_mut().try_for_each(|(key, child)| {
            let key = key.as_str().ok_or_else(|| FieldError::new(path, "has a key that is not text"))?;
            check_node(child, &join(path, key), &join(pattern, key))
        }),
        (Value::Sequence(items), None) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| check_node(item, &format!("{path}[{i}]"), &format!("{pattern}[]"))),
        (_, None) => Ok(()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn write_as_text(node: &mut Value) {
    if let Value::Number(number) = node {
        *node = Value::String(number.to_string());
    }
}

fn shape_of(pattern: &str) -> Option<Shape> {
    let row = |wanted: &str| SUPPORTED.iter().find(|(row, ..)| *row == wanted).map(|(_, shape, _)| *shape);
    row(pattern).or_else(|| row(&as_container(pattern)?))
}

fn has_rows_below(pattern: &str) -> bool {
    let below = |wanted: &str| {
        SUPPORTED.iter().any(|(row, ..)| {
            row.strip_prefix(wanted).is_some_and(|rest| wanted.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    below(pattern) || as_container(pattern).is_some_and(|pattern| below(&pattern))
}

fn as_container(pattern: &str) -> Option<String> {
    pattern.strip_prefix("spec.initContainers[]").map(|rest| format!("spec.containers[]{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Result<Value, String> {
        let mut value: Value = serde_norway::from_str(yaml).unwrap();
        check_fields(&mut value).map(|()| value).map_err(|error| error.path)
    }

    #[test]
    fn unsupported_fields_are_named_by_their_path() {
        for (yaml, path) in [
            (
                "spec: {containers: [{name: a}, {livenessProbe: {exec: {}}}]}",
                "spec.containers[1].livenessProbe",
            ),
            ("spec: {containers: [{livenessProbe: {}}]}", "spec.containers[0].livenessProbe"),
            ("spec: {initContainers: [{lifecycle: {preStop: 1}}]}", "spec.initContainers[0].lifecycle"),
            ("spec: {containers: [{restartPolicy: Always}]}", "spec.containers[0].restartPolicy"),
            ("spec: {volumes: [{configMap: {name: c}}]}", "spec.volumes[0].configMap"),
            ("spec: {nodeNaem: x}", "spec.nodeNaem"),
            ("status: {phase: Running}", "status"),
            ("metadata: {generateName: x}", "metadata.generateName"),
            ("data: {}", "data"),
            ("metadata: {1: x}", "metadata"),
        ] {
            assert_eq!(check(yaml), Err(path.to_owned()), "{yaml}");
        }
    }

    #[test]
    fn what_is_absent_or_null_or_supported_passes() {
        for yaml in [
            "{metadata: {creationTimestamp: null, labels: {a.b/c: d}}, status: {}}",
            "spec: {containers: [{livenessProbe: null, resources: {}, env: []}], volumes: [{emptyDir: {}}]}",
            "spec: {initContainers: [{restartPolicy: Always, command: [a, b]}]}",
        ] {
            assert!(check(yaml).is_ok(), "{yaml}");
        }
    }

    #[test]
    fn plain_numbers_become_quantities() {
        let value = check("spec: {containers: [{resources: {limits: {cpu: 2, memory: 1Gi}}}]}").unwrap();
        let limits = &value["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!((limits["cpu"].as_str(), limits["memory"].as_str()), (Some("2"), Some("1Gi")));
    }

    #[test]
    fn no_row_is_listed_twice() {
        let rows: std::collections::BTreeSet<_> = SUPPORTED.iter().map(|(row, ..)| row).collect();
        assert_eq!(rows.len(), SUPPORTED.len());
    }
}
