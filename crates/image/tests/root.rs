//! Images as they come and go, seen with other tools: a real registry, a lying one, archives, hostile layers.
//!
//! Everything happens in temporary directories and on loopback. Root is needed for owners, devices and the
//! attributes of overlayfs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "root/archives.rs"]
mod archives;
#[path = "root/layers.rs"]
mod layers;
#[path = "root/lies.rs"]
mod lies;
#[path = "root/mirrors.rs"]
mod mirrors;
#[path = "root/pulls.rs"]
mod pulls;
#[path = "root/removal.rs"]
mod removal;
#[path = "root/support/mod.rs"]
mod support;

use std::{collections::HashMap, path::Path, process::Command, time::Duration};

use berth_image::{Auth, Error, HostConfig, ImageStore, PullProgress, PullRequest, RegistryConfig};
use berth_store::{ErrorKind, with_causes};
use support::{
    Fixture,
    image::{Compression, Layer, TestImage, manifest},
    liar::{Liar, Reply, blob_path},
    registry::{Registry, free_port, plain_http},
    run, stat,
};
use tar::EntryType;

async fn pull(images: &ImageStore, reference: &str) -> Result<String, Error> {
    let request = PullRequest { reference: reference.to_owned(), auth: None };
    images.pull(&request).await.map(|id| id.to_string())
}

fn du(path: &Path) -> (u64, u64) {
    let count = |arguments: &[&str]| -> u64 {
        let printed = run(Command::new("du").arg("-s").args(arguments).arg(path));
        printed.split_whitespace().next().unwrap().parse().unwrap()
    };
    (count(&["-B1"]), count(&["--inodes"]))
}

/// Imports one layer and gives the directory that it was unpacked to.
async fn import_layers(fixture: &Fixture, layers: &[Vec<u8>]) -> Result<Vec<std::path::PathBuf>, Error> {
    let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), Compression::Plain)).collect();
    let path = fixture.dir.path().join("archive.tar");
    TestImage::new(&layers).docker_archive(&path, Some("test:1"));
    let images = fixture.images.import(&path).await?;
    Ok(fixture.images.rootfs_layers(&images[0].image))
}
