//! A manifest file becomes pods that can be run.
//!
//! In: a YAML file of one or several documents. Out: a [`PodManifest`] each, in their order, checked as far as anything
//! can be checked before a runtime is asked: only supported fields (see `fields`), types, names, and every conversion
//! to a CRI config tried once. So whatever is wrong in a file is said before anything has been started.
//!
//! Blocks on reading the file; keeps nothing open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::Deserialize;
use serde_norway::Value;

use crate::{
    container::container_config,
    dns::HostDns,
    error::{Error, FieldError},
    fields::check_fields,
    sandbox::sandbox_config,
};

/// One pod of a manifest file. Its fields are those that berth supports; their values convert to CRI configs.
#[derive(Debug, Clone)]
pub struct PodManifest {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, or `default`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec`.
    pub spec: PodSpec,
}

/// What becomes known about a pod only when it is run.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodFacts {
    /// Made for this run; part of the identity of its sandbox.
    pub(crate) uid: String,
    /// The pod's addresses, the main one first; empty before its sandbox runs, and on the host's network.
    pub(crate) ips: Vec<IpAddr>,
    /// Private directory of the pod on the host: its volumes, its hosts file.
    pub(crate) dir: PathBuf,
    /// Where the containers' logs go.
    pub(crate) log_dir: PathBuf,
    /// The host's resolver, which pods use.
    pub(crate) host_dns: HostDns,
    /// Memory of the machine.
    pub(crate) machine_memory_bytes: u64,
}

/// Reads the pods in `file`.
///
/// Errors: the file can't be read, is not YAML, holds no pod, or holds one that berth can't run as it is written; the
/// error names the document and the path of the field.
pub fn load(file: impl AsRef<Path>) -> Result<Vec<PodManifest>, Error> {
    let file = file.as_ref();
    let text = fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
    let mut pods = Vec::new();
    for (i, document) in serde_norway::Deserializer::from_str(&text).enumerate() {
        let (file, document_no) = (|| file.to_owned(), i + 1);
        let value = Value::deserialize(document).map_err(|source| Error::Syntax {
            file: file(),
            document: document_no,
            source,
        })?;
        if !value.is_null() {
            let pod = pod_from_value(value).map_err(|source| Error::Field {
                file: file(),
                document: document_no,
                source,
            })?;
            pods.push(pod);
        }
    }
    if pods.is_empty() { Err(Error::Empty { file: file.to_owned() }) } else { Ok(pods) }
}

fn pod_from_value(mut value: Value) -> Result<PodManifest, FieldError> {
    for (field, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match value.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => {
                let reason = format!("{found:?} is not {wanted:?}: only pods are supported");
                return Err(FieldError::new(field, reason));
            }
            None => return Err(FieldError::new(field, format!("is not {wanted}: only pods are supported"))),
        }
    }
    check_fields(&mut value)?;
    let pod: Pod = serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError::new(error.path().to_string(), error.inner().to_string()))?;
    let required = |field: &str| FieldError::new(field, "is required");
    let manifest = PodManifest {
        name: pod.metadata.name.ok_or_else(|| required("metadata.name"))?,
        namespace: pod.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        labels: pod.metadata.labels.unwrap_or_default(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
        spec: pod.spec.ok_or_else(|| required("spec"))?,
    };
    check_manifest(&manifest)?;
    Ok(manifest)
}

/// The containers of a pod with their paths: first the init containers, then the others.
pub(crate) fn containers(spec: &PodSpec) -> Vec<(String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let main = spec.containers.iter().enumerate();
    init.map(|(i, container)| (format!("spec.initContainers[{i}]"), container))
        .chain(main.map(|(i, container)| (format!("spec.containers[{i}]"), container)))
        .collect()
}

fn check_manifest(manifest: &PodManifest) -> Result<(), FieldError> {
    let spec = &manifest.spec;
    check_name("metadata.name", &manifest.name, 253, true)?;
    check_name("metadata.namespace", &manifest.namespace, 63, false)?;
    check_choice("spec.restartPolicy", &spec.restart_policy, &["Always", "OnFailure", "Never"])?;
    check_false("spec.automountServiceAccountToken", spec.automount_service_account_token)?;
    check_false("spec.enableServiceLinks", spec.enable_service_links)?;
    let grace = spec.termination_grace_period_seconds;
    if let Some(seconds) = grace.filter(|seconds| !(0..=86_400).contains(seconds)) {
        let reason = format!("{seconds} is not between 0 and 86400");
        return Err(FieldError::new("spec.terminationGracePeriodSeconds", reason));
    }
    if spec.containers.is_empty() {
        return Err(FieldError::new("spec.containers", "is empty"));
    }
    check_containers(manifest)?;
    // The conversions have their own refusals: meet them all now, with facts that stand in for the real ones.
    let facts = PodFacts { dir: "/".into(), log_dir: "/".into(), ..Default::default() };
    sandbox_config(manifest, &facts)?;
    containers(spec)
        .iter()
        .try_for_each(|(path, container)| container_config(manifest, container, path, &facts).map(drop))
}

fn check_containers(manifest: &PodManifest) -> Result<(), FieldError> {
    let mut names = BTreeSet::new();
    for (path, container) in containers(&manifest.spec) {
        check_name(&format!("{path}.name"), &container.name, 63, false)?;
        if !names.insert(&container.name) {
            let reason = format!("{:?} is the name of another container too", container.name);
            return Err(FieldError::new(format!("{path}.name"), reason));
        }
        if container.image.as_deref().unwrap_or("").is_empty() {
            return Err(FieldError::new(format!("{path}.image"), "is required"));
        }
        let pull_policies = &["Always", "IfNotPresent", "Never"];
        check_choice(&format!("{path}.imagePullPolicy"), &container.image_pull_policy, pull_policies)?;
        check_choice(&format!("{path}.restartPolicy"), &container.restart_policy, &["Always"])?;
    }
    Ok(())
}

/// A DNS label, or with dots a DNS subdomain (RFC 1123). It also becomes part of paths on the host.
fn check_name(path: &str, name: &str, max_bytes: usize, dots: bool) -> Result<(), FieldError> {
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let good = if dots { name.split('.').all(is_label) } else { is_label(name) };
    if good && name.len() <= max_bytes {
        return Ok(());
    }
    let reason = format!("{name:?} is not a name: lower case letters, digits and -, at most {max_bytes}");
    Err(FieldError::new(path, reason))
}

/// Refuses a value that is not among `choices`; absent is good.
pub(crate) fn check_choice(path: &str, value: &Option<String>, choices: &[&str]) -> Result<(), FieldError> {
    match value {
        Some(value) if !choices.contains(&value.as_str()) => {
            Err(FieldError::new(path, format!("{value:?} is not one of {}", choices.join(", "))))
        }
        _ => Ok(()),
    }
}

fn check_false(path: &str, value: Option<bool>) -> Result<(), FieldError> {
    if value == Some(true) { Err(FieldError::new(path, "is supported only as false")) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The pod of a document without its head, for the tests of the other modules.
    pub(crate) fn manifest(body: &str) -> PodManifest {
        parse(body).unwrap()
    }

    pub(crate) fn parse(body: &str) -> Result<PodManifest, FieldError> {
        let document = format!("apiVersion: v1\nkind: Pod\n{body}");
        pod_from_value(serde_norway::from_str(&document).unwrap())
    }

    /// The path that is refused in a pod whose spec, with a container given, is `spec`.
    pub(crate) fn refused_path(spec: &str) -> String {
        parse(&format!("metadata: {{name: p}}\nspec: {spec}")).unwrap_err().path
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (spec, path) in [
            ("{}", "spec.containers"),
            ("{containers: []}", "spec.containers"),
            ("{containers: {}}", "spec.containers"),
            ("{containers: [{name: a}]}", "spec.containers[0].image"),
            ("{containers: [{name: A, image: i}]}", "spec.containers[0].name"),
            ("{containers: [{name: ../x, image: i}]}", "spec.containers[0].name"),
            ("{containers: [{name: a, image: i}, {name: a, image: i}]}", "spec.containers[1].name"),
            ("{containers: [{name: a, image: i, tty: maybe}]}", "spec.containers[0].tty"),
            ("{containers: [{name: a, image: i, command: ls}]}", "spec.containers[0].command"),
            (
                "{containers: [{name: a, image: i, imagePullPolicy: Maybe}]}",
                "spec.containers[0].imagePullPolicy",
            ),
            ("{restartPolicy: Sometimes, containers: [{name: a, image: i}]}", "spec.restartPolicy"),
            ("{enableServiceLinks: true, containers: [{name: a, image: i}]}", "spec.enableServiceLinks"),
            (
                "{terminationGracePeriodSeconds: -1, containers: [{name: a, image: i}]}",
                "spec.terminationGracePeriodSeconds",
            ),
            (
                "{initContainers: [{name: a, image: i}], containers: [{name: a, image: i}]}",
                "spec.containers[0].name",
            ),
            (
                "{initContainers: [{name: s, image: i, restartPolicy: Never}], containers: [{name: a, image: i}]}",
                "spec.initContainers[0].restartPolicy",
            ),
            (
                "{containers: [{name: a, image: i, env: [{name: X, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]}]}",
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
            ),
        ] {
            assert_eq!(refused_path(spec), path, "{spec}");
        }
        assert_eq!(parse("metadata: {}\nspec: {containers: []}").unwrap_err().path, "metadata.name");
    }

    #[test]
    fn a_file_holds_several_pods_and_errors_name_the_document() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pods.yaml");
        let pod = |name: &str, rest: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]{rest}}}\n"
            )
        };
        let write = |documents: &[String]| fs::write(&file, documents.join("---\n")).unwrap();

        write(&[pod("a", ""), "# nothing here\n".to_owned(), pod("b", "")]);
        let names: Vec<_> = load(&file).unwrap().into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["a", "b"]);

        write(&[pod("a", ""), pod("b", ", tolerations: []")]);
        let error = load(&file).unwrap_err();
        assert!(error.to_string().ends_with("pods.yaml, document 2"), "{error}");
        assert!(
            matches!(&error, Error::Field { source, .. } if source.path == "spec.tolerations"),
            "{error:?}"
        );

        write(&["kind: Deployment\napiVersion: apps/v1\n".to_owned()]);
        assert!(
            matches!(load(&file).unwrap_err(), Error::Field { source, .. } if source.path == "apiVersion")
        );
        write(&["a: [".to_owned()]);
        assert!(matches!(load(&file).unwrap_err(), Error::Syntax { document: 1, .. }));
        write(&[]);
        assert!(matches!(load(&file).unwrap_err(), Error::Empty { .. }));
        assert!(matches!(load(dir.path().join("absent")).unwrap_err(), Error::Read { .. }));
    }

    #[test]
    fn the_samples_can_be_loaded() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
        let files = fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path());
        let yaml: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "yaml")).collect();
        assert!(!yaml.is_empty());
        for file in yaml {
            load(&file).unwrap_or_else(|error| panic!("{file:?}: {error:?}"));
        }
    }
}
