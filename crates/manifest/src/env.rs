//! The environment of a container, and `$(NAME)` in its command, arguments and values.
//!
//! Pure. A value sees the variables before it in the list; command and arguments see all. `$(NAME)` of an unknown name
//! stays as it is, and `$$` is a dollar sign. Values from `fieldRef` come from the pod's own facts.
//! Source: Kubernetes API reference, Container.command and EnvVar.

use k8s_openapi::api::core::v1::{Container, EnvVar};

use crate::{
    error::FieldError,
    parse::{PodFacts, PodManifest},
};

/// A container's variables in their order; a later one of the same name wins.
pub(crate) type Env = Vec<(String, String)>;

/// The variables of `container`, which stands at `path`.
///
/// Errors: a `fieldRef` to what can't be known here.
pub(crate) fn container_env(
    manifest: &PodManifest,
    container: &Container,
    path: &str,
    facts: &PodFacts,
) -> Result<Env, FieldError> {
    let mut env = Env::new();
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{i}]");
        if variable.name.is_empty() || variable.name.contains('=') {
            let reason = format!("{:?} is empty or contains =", variable.name);
            return Err(FieldError::new(format!("{path}.name"), reason));
        }
        let value = value(manifest, variable, &path, facts, &env)?;
        env.push((variable.name.clone(), value));
    }
    Ok(env)
}

fn value(
    manifest: &PodManifest,
    variable: &EnvVar,
    path: &str,
    facts: &PodFacts,
    before: &Env,
) -> Result<String, FieldError> {
    let field = variable.value_from.as_ref().map(|from| from.field_ref.as_ref());
    match (&variable.value, field) {
        (Some(_), Some(_)) => Err(FieldError::new(path, "has both value and valueFrom")),
        (None, Some(None)) => Err(FieldError::new(format!("{path}.valueFrom"), "is empty")),
        (None, Some(Some(field))) => field_value(manifest, &field.field_path, facts).ok_or_else(|| {
            let reason = format!("{:?} is not a field that berth can give", field.field_path);
            FieldError::new(format!("{path}.valueFrom.fieldRef.fieldPath"), reason)
        }),
        (value, None) => Ok(expand(value.as_deref().unwrap_or(""), before)),
    }
}

/// A pod on the host's network has no address of its own to give.
fn field_value(manifest: &PodManifest, field: &str, facts: &PodFacts) -> Option<String> {
    let key = |field: &str| Some(field.strip_prefix("['")?.strip_suffix("']")?.to_owned());
    let own_network = manifest.spec.host_network != Some(true);
    let addresses: Vec<_> = facts.ips.iter().map(ToString::to_string).collect();
    match field {
        "metadata.name" => Some(manifest.name.clone()),
        "metadata.namespace" => Some(manifest.namespace.clone()),
        "metadata.uid" => Some(facts.uid.clone()),
        "status.podIP" if own_network => Some(addresses.first().cloned().unwrap_or_default()),
        "status.podIPs" if own_network => Some(addresses.join(",")),
        _ => {
            let (map, rest) = match field.strip_prefix("metadata.labels") {
                Some(rest) => (&manifest.labels, rest),
                None => (&manifest.annotations, field.strip_prefix("metadata.annotations")?),
            };
            Some(map.get(&key(rest)?).cloned().unwrap_or_default())
        }
    }
}

/// `text` with every `$(NAME)` that `env` knows replaced.
pub(crate) fn expand(text: &str, env: &Env) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        let reference = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some((name, after)) = reference {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = rest.strip_prefix('$').unwrap_or(rest);
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::manifest;

    #[test]
    fn references_expand_as_kubernetes_says() {
        let env = vec![
            ("A".to_owned(), "old".to_owned()),
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "$(A)".to_owned()),
        ];
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("cost: 5$", "cost: 5$"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn values_see_what_stands_before_them_and_the_pods_facts() {
        let manifest = manifest(
            "metadata: {name: p, labels: {app: shop}}
spec:
  containers:
  - name: a
    image: i
    env:
    - {name: EARLY, value: $(LATE)}
    - {name: LATE, value: now}
    - {name: BOTH, value: $(EARLY)-$(LATE)}
    - {name: NONE}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}
    - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}",
        );
        let ips = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let facts = PodFacts { ips, ..Default::default() };
        let env = container_env(&manifest, &manifest.spec.containers[0], "c", &facts).unwrap();
        let values: Vec<_> = env.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["$(LATE)", "now", "$(LATE)-now", "", "p", "default", "shop", "10.0.0.2,fd00::2"]);
    }
}
