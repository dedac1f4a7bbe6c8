//! What the root tests need: images made on the spot, a real registry, a lying one, and a look at the disk.

pub(crate) mod image;
pub(crate) mod liar;
pub(crate) mod registry;

use std::{path::Path, process::Command};

use berth_image::{ImageStore, RegistryConfig};
use berth_store::Store;
use tempfile::TempDir;

/// An image store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) images: ImageStore,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) async fn new(registries: RegistryConfig) -> Self {
        Self::open(TempDir::new().unwrap(), registries).await
    }

    pub(crate) async fn open(dir: TempDir, registries: RegistryConfig) -> Self {
        let store = Store::open(&dir.path().join("db")).await.unwrap();
        let images = ImageStore::open(&dir.path().join("images"), store.clone(), registries).await.unwrap();
        Self { dir, images, store }
    }

    /// Ends this agent and starts the next one on the same directories.
    pub(crate) async fn restarted(self) -> Self {
        self.store.close().await;
        Self::open(self.dir, RegistryConfig::default()).await
    }

    /// Every file below the image store's directory that is not one of its own directories.
    pub(crate) fn leftovers(&self) -> String {
        let root = self.dir.path().join("images");
        run(Command::new("find").arg(root).args(["-mindepth", "2", "-maxdepth", "2"]))
    }
}

/// Runs a tool that has to succeed, and gives what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One file's properties as stat(1) tells them.
pub(crate) fn stat(format: &str, path: &Path) -> String {
    run(Command::new("stat").args(["-c", format]).arg(path))
}
