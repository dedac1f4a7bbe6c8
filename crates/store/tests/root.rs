//! A full disk, which is mounted for the test: in memory, and an ext4 where the kernel has loop devices.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_store::{Change, Durability, ErrorKind, Record, Store};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pod {
    id: String,
    text: String,
}

impl Record for Pod {
    const TABLE: &'static str = "pods";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// A small file system, unmounted when this value goes.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn in_memory() -> Self {
        let disk = Self { directory: tempfile::tempdir().unwrap() };
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(disk.root()));
        disk
    }

    fn ext4() -> Self {
        let disk = Self { directory: tempfile::tempdir().unwrap() };
        let image = disk.directory.path().join("image");
        File::create(&image).unwrap().set_len(48 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.root()));
        disk
    }

    fn root(&self) -> PathBuf {
        let root = self.directory.path().join("root");
        fs::create_dir_all(&root).unwrap();
        root
    }

    fn free_bytes(&self) -> u64 {
        let found = statvfs(self.root()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Takes everything there is.
    fn fill(&self, name: &str) {
        let file = File::create(self.root().join(name)).unwrap();
        let mut bytes = 0;
        for step in [1 << 20, 64 << 10, 4 << 10] {
            while fallocate(&file, FallocateFlags::empty(), bytes, step).is_ok() {
                bytes += step;
            }
        }
        assert!(self.free_bytes() < 4096, "{} bytes are free", self.free_bytes());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path().join("root")).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn pod(number: u32, length: usize) -> Pod {
    Pod { id: format!("pod-{number}"), text: "x".repeat(length) }
}

#[tokio::test]
#[ignore = "needs root"]
async fn on_a_full_disk_pods_are_changed_and_removed_and_the_next_agent_starts() {
    every_disk(async |disk| {
        let store = Store::open(&disk.root()).await.unwrap();
        for number in 0..110 {
            store.commit(Change::new().put(&pod(number, 2000)).unwrap(), Durability::Process).await.unwrap();
        }
        disk.fill("first");
        // As a stop and a removal do, and with a little more in them than before; more than the log has room for.
        for round in 0..10 {
            for number in 0..100 {
                let change = Change::new().put(&pod(number, 2010 + round)).unwrap();
                store.commit(change, Durability::Process).await.unwrap();
            }
        }
        for number in 0..50 {
            store
                .commit(Change::new().delete::<Pod>(format!("pod-{number}")), Durability::Power)
                .await
                .unwrap();
        }
        store.close().await;
        // The next agent comes to a disk that is as full.
        disk.fill("second");
        let store = Store::open(&disk.root()).await.unwrap();
        assert_eq!(store.ruin(), None);
        assert_eq!(store.load::<Pod>().await.unwrap().records.len(), 60);
        for number in 50..100 {
            store
                .commit(Change::new().delete::<Pod>(format!("pod-{number}")), Durability::Process)
                .await
                .unwrap();
        }
        assert_eq!(store.load::<Pod>().await.unwrap().records.len(), 10);
        store.close().await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_does_not_fit_is_refused_and_room_helps_at_once() {
    every_disk(async |disk| {
        let store = Store::open(&disk.root()).await.unwrap();
        disk.fill("fill");
        let huge = Change::new().put(&pod(0, 20 << 20)).unwrap();
        let error = store.commit(huge, Durability::Process).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        store.commit(Change::new().put(&pod(1, 2000)).unwrap(), Durability::Process).await.unwrap();
        fs::remove_file(disk.root().join("fill")).unwrap();
        let big = Change::new().put(&pod(2, 3 << 20)).unwrap();
        store.commit(big, Durability::Process).await.unwrap();
        assert_eq!(store.load::<Pod>().await.unwrap().records.len(), 2);
        store.close().await;
    })
    .await;
}

async fn every_disk(test: impl AsyncFn(&Disk)) {
    test(&Disk::in_memory()).await;
    if Path::new("/dev/loop-control").exists() {
        test(&Disk::ext4()).await;
    }
}
