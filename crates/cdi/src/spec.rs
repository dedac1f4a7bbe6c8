//! One specification file: its fields as they are spelled, and what they mean once they have been judged.
//!
//! Unknown fields are refused, as by other readers: what they ask for would silently be missing. Every refusal names
//! the field and its value.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::directory::Format;
use crate::edits::{Edits, Hook, HookPoint, Mount, Node, NodeKind};
use crate::name::{is_device, is_kind};

/// What a file says.
#[derive(Debug)]
pub(crate) struct Spec {
    /// `vendor.com/class` of all its devices.
    pub(crate) kind: String,
    /// What every container gets that has one of them.
    pub(crate) common: Part,
    pub(crate) devices: Vec<(String, Part)>,
}

/// Edits, and what besides them is asked for that nobody does here.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) edits: Edits,
    pub(crate) unsupported: Option<String>,
}

/// Reads the text of a file.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse(text: &str, format: Format) -> Result<Spec, String> {
    let file: SpecFile = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Format::Yaml => serde_norway::from_str(text).map_err(|error| error.to_string())?,
    };
    check_version(&file.cdi_version)?;
    if !is_kind(&file.kind) {
        return Err(format!("kind {:?} is not of the form vendor.com/class", file.kind));
    }
    if file.devices.is_empty() {
        return Err("devices: there are none".to_owned());
    }
    let common = file.container_edits.judge("containerEdits")?;
    let (mut names, mut devices) = (BTreeSet::new(), Vec::new());
    for device in file.devices {
        let name = device.name;
        if !is_device(&name) {
            return Err(format!("device name {name:?} is none"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("device name {name:?} is there twice"));
        }
        let part = device.container_edits.judge(&format!("devices[{name}].containerEdits"))?;
        devices.push((name, part));
    }
    Ok(Spec { kind: file.kind, common, devices })
}

/// 0.3.0 to 1.x: a later minor version adds fields, which are refused by name if a file has them.
fn check_version(version: &str) -> Result<(), String> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(str::parse::<u32>);
    let known = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(minor)), Some(Ok(_)), None) => minor >= 3,
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => true,
        _ => false,
    };
    if known { Ok(()) } else { Err(format!("cdiVersion {version:?} is not one from 0.3.0 to 1.x")) }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecFile {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    devices: Vec<DeviceEntry>,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: EditsEntry,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceEntry {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: EditsEntry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct EditsEntry {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    device_nodes: Vec<NodeEntry>,
    #[serde(deserialize_with = "or_default")]
    net_devices: Vec<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    hooks: Vec<HookEntry>,
    #[serde(deserialize_with = "or_default")]
    mounts: Vec<MountEntry>,
    intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default", rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeEntry {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    #[serde(default, deserialize_with = "mode")]
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MountEntry {
    host_path: String,
    container_path: String,
    #[serde(default, deserialize_with = "or_default")]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HookEntry {
    hook_name: String,
    path: String,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<String>,
    timeout: Option<u32>,
}

/// A null means what an absent field means.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Permission bits as a number; or, as YAML 1.1 has it, in octal with a zero first.
fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Octal(String),
    }
    let octal = |text: &str| text.strip_prefix('0').and_then(|digits| u32::from_str_radix(digits, 8).ok());
    let mode = match Option::deserialize(from)? {
        None => return Ok(None),
        Some(Mode::Number(mode)) => Some(mode),
        Some(Mode::Octal(text)) => octal(&text),
    };
    let mode = mode.filter(|mode| *mode <= 0o7777);
    mode.map(Some).ok_or_else(|| serde::de::Error::custom("fileMode is no permission bits"))
}

impl EditsEntry {
    fn judge(self, field: &str) -> Result<Part, String> {
        let at = |name: &str, index: usize, problem: String| format!("{field}.{name}[{index}]: {problem}");
        let unsupported = if self.intel_rdt.is_some() {
            Some("intelRdt".to_owned())
        } else {
            (!self.net_devices.is_empty()).then(|| "netDevices".to_owned())
        };
        for (index, entry) in self.env.iter().enumerate() {
            // The value may be a secret.
            if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) || entry.contains('\0') {
                return Err(at("env", index, "it is not of the form NAME=value".to_owned()));
            }
        }
        let nodes = self.device_nodes.into_iter().enumerate();
        let nodes =
            nodes.map(|(index, node)| node.judge().map_err(|problem| at("deviceNodes", index, problem)));
        let mounts = self.mounts.into_iter().enumerate();
        let mounts =
            mounts.map(|(index, mount)| mount.judge().map_err(|problem| at("mounts", index, problem)));
        let hooks = self.hooks.into_iter().enumerate();
        let hooks = hooks.map(|(index, hook)| hook.judge().map_err(|problem| at("hooks", index, problem)));
        for (index, gid) in self.additional_gids.iter().enumerate() {
            check_id("group", *gid).map_err(|problem| at("additionalGids", index, problem))?;
        }
        let edits = Edits {
            env: self.env,
            nodes: nodes.collect::<Result<_, _>>()?,
            mounts: mounts.collect::<Result<_, _>>()?,
            // The root group is no addition.
            groups: self.additional_gids.into_iter().filter(|gid| *gid != 0).collect(),
            hooks: hooks.collect::<Result<_, _>>()?,
        };
        Ok(Part { edits, unsupported })
    }
}

/// All ones mean nobody at all to the kernel.
fn check_id(of: &str, id: u32) -> Result<(), String> {
    if id == u32::MAX { Err(format!("{id} is no {of}: the highest is {}", u32::MAX - 1)) } else { Ok(()) }
}

impl NodeEntry {
    fn judge(self) -> Result<Node, String> {
        let path = absolute("path", &self.path)?;
        let host_path = match &self.host_path {
            None => path.clone(),
            Some(host_path) => absolute("hostPath", host_path)?,
        };
        let kind = match self.kind.as_deref() {
            None | Some("") => None,
            Some("c" | "u") => Some(NodeKind::Character),
            Some("b") => Some(NodeKind::Block),
            Some("p") => Some(NodeKind::Fifo),
            Some(other) => return Err(format!("type {other:?} is none of b, c, u and p")),
        };
        let permissions = self.permissions.unwrap_or_default();
        if !permissions.bytes().all(|letter| b"rwm".contains(&letter)) {
            return Err(format!("permissions {permissions:?} are not made of the letters r, w and m"));
        }
        let number = match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (0, _) => None,
            // The kernel's own width, 12 and 20 bits.
            (major, minor) if major < 1 << 12 && minor < 1 << 20 => Some((major, minor)),
            (major, minor) => return Err(format!("{major}:{minor} is no device number")),
        };
        let Self { file_mode: mode, uid, gid, .. } = self;
        uid.map_or(Ok(()), |uid| check_id("user", uid))?;
        gid.map_or(Ok(()), |gid| check_id("group", gid))?;
        Ok(Node { path, host_path, kind, number, mode, permissions, uid, gid })
    }
}

impl MountEntry {
    fn judge(self) -> Result<Mount, String> {
        match self.kind.as_deref() {
            None | Some("" | "bind" | "none") => {}
            Some(other) => return Err(format!("type {other:?} is not bind")),
        }
        Ok(Mount {
            host_path: absolute("hostPath", &self.host_path)?,
            container_path: absolute("containerPath", &self.container_path)?,
            options: self.options,
        })
    }
}

impl HookEntry {
    fn judge(self) -> Result<Hook, String> {
        let point = match self.hook_name.as_str() {
            "prestart" => HookPoint::Prestart,
            "createRuntime" => HookPoint::CreateRuntime,
            "createContainer" => HookPoint::CreateContainer,
            "startContainer" => HookPoint::StartContainer,
            "poststart" => HookPoint::Poststart,
            "poststop" => HookPoint::Poststop,
            other => return Err(format!("hookName {other:?} is none")),
        };
        let path = absolute("path", &self.path)?;
        let has_nul = |texts: &[String]| texts.iter().any(|text| text.contains('\0'));
        if has_nul(&self.args) || has_nul(&self.env) {
            return Err("args and env must be without NUL characters".to_owned());
        }
        let timeout =
            self.timeout.filter(|seconds| *seconds != 0).map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Hook { point, path, args: self.args, env: self.env, timeout })
    }
}

fn absolute(field: &str, text: &str) -> Result<PathBuf, String> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        return Err(format!("{field} {text:?} is not an absolute path"));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{
        "cdiVersion": "0.7.0",
        "kind": "vendor.com/gpu",
        "annotations": {"vendor.com/made": "today"},
        "containerEdits": {"env": ["ALL=1"], "mounts": null},
        "devices": [{
            "name": "0",
            "annotations": {"a": "b"},
            "containerEdits": {
                "env": ["GPU=0"],
                "deviceNodes": [
                    {"path": "/dev/gpu0", "hostPath": "/dev/card0", "type": "c", "major": 226, "minor": 0,
                     "fileMode": 432, "permissions": "rw", "uid": 5, "gid": 6},
                    {"path": "/dev/gpu-control"}],
                "mounts": [{"hostPath": "/lib/gpu.so", "containerPath": "/lib/gpu.so", "options": ["ro", "rbind"]}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
                "additionalGids": [44, 0]
            }
        }]
    }"#;

    #[test]
    fn a_whole_specification_is_understood() {
        let spec = parse(WHOLE, Format::Json).unwrap();
        assert_eq!(
            (spec.kind.as_str(), spec.common.edits.env.as_slice()),
            ("vendor.com/gpu", &["ALL=1".to_owned()][..])
        );
        let (name, Part { edits, unsupported: None }) = &spec.devices[0] else { panic!("{spec:?}") };
        assert_eq!((name.as_str(), edits.groups.as_slice()), ("0", &[44][..]));
        let node = &edits.nodes[0];
        assert_eq!(
            (node.kind, node.number, node.mode),
            (Some(NodeKind::Character), Some((226, 0)), Some(0o660))
        );
        assert_eq!(
            (node.host_path.as_path(), node.uid, node.gid),
            (Path::new("/dev/card0"), Some(5), Some(6))
        );
        let bare = &edits.nodes[1];
        assert_eq!(
            (bare.host_path.as_path(), bare.kind, bare.number),
            (Path::new("/dev/gpu-control"), None, None)
        );
        assert_eq!(edits.mounts[0].options, ["ro", "rbind"]);
        assert_eq!(edits.hooks[0].timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn yaml_says_the_same() {
        let text = "cdiVersion: 0.3.0\nkind: v/c\ndevices:\n- name: a\n  containerEdits:\n    deviceNodes:\n    \
                    - {path: /dev/x, fileMode: 0660}\n";
        let spec = parse(text, Format::Yaml).unwrap();
        assert_eq!(spec.devices[0].1.edits.nodes[0].mode, Some(0o660));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |from: &str, to: &str, want: &str| {
            assert!(WHOLE.contains(from), "{from}");
            let problem = parse(&WHOLE.replacen(from, to, 1), Format::Json).unwrap_err();
            assert!(problem.contains(want), "{problem}");
        };
        check("0.7.0", "0.2.0", "cdiVersion \"0.2.0\"");
        check("0.7.0", "2.0.0", "cdiVersion \"2.0.0\"");
        check("vendor.com/gpu", "gpu", "kind \"gpu\"");
        check("\"name\": \"0\"", "\"name\": \"-\"", "device name \"-\"");
        check("ALL=1", "ALL", "containerEdits.env[0]");
        check("\"type\": \"c\"", "\"type\": \"s\"", "devices[0].containerEdits.deviceNodes[0]: type \"s\"");
        check("\"major\": 226", "\"major\": 4096", "4096:0");
        check("\"rw\"", "\"rx\"", "permissions \"rx\"");
        check("\"/dev/gpu-control\"", "\"gpu\"", "deviceNodes[1]: path \"gpu\"");
        check("/bin/hook", "hook", "hooks[0]: path \"hook\"");
        check("createContainer", "create", "hookName \"create\"");
        check("\"additionalGids\"", "\"gids\"", "unknown field `gids`");
        check("[44, 0]", "[44, 4294967295]", "additionalGids[1]: 4294967295 is no group");
        check("[44, 0]", "[-44]", "invalid value: integer `-44`");
        check("\"uid\": 5", "\"uid\": 4294967295", "deviceNodes[0]: 4294967295 is no user");
        check("432", "4096", "fileMode");
        assert!(parse("{}", Format::Json).unwrap_err().contains("cdiVersion"));
        let twice = WHOLE.replace("\"devices\": [", "\"devices\": [{\"name\": \"0\"},");
        assert!(parse(&twice, Format::Json).unwrap_err().contains("\"0\" is there twice"));
    }

    #[test]
    fn what_nobody_does_here_is_noticed() {
        for (field, want) in
            [("\"intelRdt\": {\"closID\": \"x\"}", "intelRdt"), ("\"netDevices\": [{}]", "netDevices")]
        {
            let text = WHOLE.replacen("\"env\": [\"GPU=0\"]", field, 1);
            let spec = parse(&text, Format::Json).unwrap();
            assert_eq!(spec.devices[0].1.unsupported.as_deref(), Some(want));
        }
    }

    #[test]
    fn a_text_that_unfolds_without_end_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 9].join(", "));
        }
        text += "cdiVersion: 0.3.0\nkind: v/c\ndevices: *a11\n";
        assert!(parse(&text, Format::Yaml).is_err());
    }
}
