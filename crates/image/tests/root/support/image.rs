//! Images written by hand, so that they can be as wrong as a test wants.

use std::{io::Write, path::Path};

use berth_image::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// A layer's tar in the making.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

#[derive(Clone, Copy)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// An image as blobs.
pub(crate) struct TestImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, mode, "", b"")
    }

    pub(crate) fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, mode, "", content)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, 0o777, target, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, 0o644, target, b"")
    }

    pub(crate) fn pax(mut self, extensions: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(extensions.iter().copied()).unwrap();
        self
    }

    /// Any entry; the name goes into the header as it is, whatever it is.
    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        mode: u32,
        target: &str,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(7).unwrap();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn compress(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

impl TestImage {
    pub(crate) fn new(layers: &[(Vec<u8>, Compression)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "config": {"Cmd": ["sh"], "Env": ["A=b"], "User": "web:www", "StopSignal": "SIGINT"},
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = layers.iter().map(|(tar, compression)| compress(tar, *compression)).collect();
        Self { manifest: manifest(&config, &layers), config, layers }
    }

    /// Two small layers.
    pub(crate) fn small(content: &str) -> Self {
        let base = Layer::new().dir("etc", 0o755).file("etc/motd", 0o644, b"base\n").finish();
        let top = Layer::new().file("hello", 0o755, content.as_bytes()).finish();
        Self::new(&[(base, Compression::Gzip), (top, Compression::Zstd)])
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    /// As `docker save` wrote it before it knew OCI.
    pub(crate) fn docker_archive(&self, path: &Path, tag: Option<&str>) {
        let mut members: Vec<(String, Vec<u8>)> = vec![("config.json".into(), self.config.clone())];
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            names.push(format!("{number}/layer.tar"));
            members.push((format!("{number}/layer.tar"), layer.clone()));
        }
        let index = json!([{"Config": "config.json", "RepoTags": tag.map(|tag| vec![tag]), "Layers": names}]);
        members.push(("manifest.json".into(), index.to_string().into_bytes()));
        let mut layer = Layer::new();
        for (name, content) in &members {
            layer = layer.file(name, 0o644, content);
        }
        std::fs::write(path, layer.finish()).unwrap();
    }
}

pub(crate) fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let descriptor = |blob: &[u8]| -> Value {
        json!({"mediaType": "application/octet-stream", "digest": Digest::of(blob), "size": blob.len()})
    };
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
           "config": descriptor(config), "layers": layers})
    .to_string()
    .into_bytes()
}
