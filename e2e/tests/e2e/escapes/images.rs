//! Images made on the fly, as hostile as a test wants: one layer more on the test images' busybox.

use std::fs;
use std::path::Path;

use berth_e2e::{Node, repository};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A layer's tar in the making.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", content)
    }

    pub(crate) fn symlink(self, name: &str, target: &Path) -> Self {
        self.entry(EntryType::Symlink, name, target.to_str().unwrap(), b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &Path) -> Self {
        self.entry(EntryType::Link, name, target.to_str().unwrap(), b"")
    }

    pub(crate) fn fifo(self, name: &str) -> Self {
        self.entry(EntryType::Fifo, name, "", b"")
    }

    /// `/dev/zero`, which does not end.
    pub(crate) fn zero(self, name: &str) -> Self {
        self.entry(EntryType::Char, name, "", b"")
    }

    /// The names go into the header as they are.
    fn entry(mut self, kind: EntryType, name: &str, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(5).unwrap();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
}

/// A directory of image layouts.
pub(crate) struct Images(TempDir);

impl Images {
    /// With that of busybox.
    pub(crate) fn new() -> Self {
        let images = Self(TempDir::new().unwrap());
        std::os::unix::fs::symlink(busybox(), images.0.path().join("busybox")).unwrap();
        images
    }

    /// One more, `localhost/hostile/NAME:latest`, with these settings for its containers.
    pub(crate) fn with(self, name: &str, layer: Layer, settings: &Value) -> Self {
        let layout = Layout(self.0.path().join(name));
        fs::create_dir_all(layout.0.join("blobs/sha256")).unwrap();
        let tar = layer.0.into_inner().unwrap();
        let base = Layout(busybox());
        let manifest = base.document(&base.read("index.json")["manifests"][0]);
        let mut config = base.document(&manifest["config"]);
        let diff_id = format!("sha256:{}", hex(&tar));
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(diff_id.into());
        config.as_object_mut().unwrap().remove("history");
        for (key, value) in settings.as_object().into_iter().flatten() {
            config["config"][key] = value.clone();
        }
        let below = &manifest["layers"][0];
        fs::copy(base.blob(below), layout.blob(below)).unwrap();
        let own = layout.store("application/vnd.oci.image.layer.v1.tar", &tar);
        let config = layout.store("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": [below, own]});
        let mut manifest =
            layout.store("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        manifest["annotations"] = json!({"io.containerd.image.name": image(name)});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(layout.0.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.0.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        self
    }

    /// A node that has them all.
    #[track_caller]
    pub(crate) fn node(&self) -> Node {
        Node::start_empty(&format!("[images]\nimport = '{}'", self.0.path().display()))
    }
}

/// The name of an image.
pub(crate) fn image(name: &str) -> String {
    format!("localhost/hostile/{name}:latest")
}

fn busybox() -> std::path::PathBuf {
    repository().join("hack/images/out/busybox")
}

struct Layout(std::path::PathBuf);

impl Layout {
    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(file)).unwrap()).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> std::path::PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        self.0.join("blobs/sha256").join(digest)
    }

    fn document(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.blob(descriptor)).unwrap()).unwrap()
    }

    /// Returns the descriptor.
    fn store(&self, kind: &str, bytes: &[u8]) -> Value {
        let descriptor =
            json!({"mediaType": kind, "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()});
        fs::write(self.blob(&descriptor), bytes).unwrap();
        descriptor
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
