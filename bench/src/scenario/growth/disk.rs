//! A disk that is kept as busy as programs can keep it: some keep its queue full, one fills memory with much to be written
//! and then wants all of it written at once, and others write little and wait for the disk each time, as databases do.
//!
//! It takes half a GiB of the disk, and leaves nothing there. Of the processors it takes little, and only what nobody else
//! wants: it is the disk that others are to wait for. So what keeps the queue full goes past the cache.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::process::setpriority_process;

/// Who waits for each piece, how large one is, and after how many the file begins anew.
const SYNCERS: usize = 4;
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 256;
/// Who keeps the queue full, how large a piece is, and after how many the file begins anew.
const STREAMERS: usize = 3;
const STREAMED_BYTES: usize = 4 << 20;
const STREAMED: u64 = 24;
/// What memory, devices and filesystems are aligned to where nothing is between them.
const ALIGNMENT: usize = 4096;
/// Of the one who fills memory.
const FILLED_BYTES: usize = 128 << 20;
/// Of those who write, and of no other thread; the last of all.
const NICENESS: i32 = 19;

/// Does something once the disk is busy, and keeps it so until that is done; also returns how long each piece took to
/// reach the disk, which tells how busy it was. What is written goes to a new directory.
pub(super) fn keep_busy<T>(
    directory: &Path,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Duration>)> {
    fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
    let (done, (busy, are_busy)) = (AtomicBool::new(false), channel());
    let worked = std::thread::scope(|scope| {
        let done = &done;
        let mut writers = vec![{
            let (path, busy) = (directory.join("filled"), busy.clone());
            scope.spawn(move || fill(&path, busy, done))
        }];
        for number in 0..STREAMERS {
            let (path, busy) = (directory.join(format!("streamed-{number}")), busy.clone());
            writers.push(scope.spawn(move || stream(&path, busy, done)));
        }
        drop(busy);
        let syncers: Vec<_> = (0..SYNCERS)
            .map(|number| directory.join(format!("synced-{number}")))
            .map(|path| scope.spawn(move || sync(&path, done)))
            .collect();
        // One that has failed says nothing.
        are_busy.iter().take(writers.len()).for_each(drop);
        let worked = {
            // Also if it panics: the scope waits for all writers.
            let _end = OnDrop(done);
            meanwhile()
        };
        for writer in writers {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let mut pieces = Vec::new();
        for syncer in syncers {
            pieces.extend(syncer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok((worked?, pieces))
    });
    let removed = fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()));
    worked.and_then(|worked| removed.map(|()| worked))
}

/// Sets a flag when it goes.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes much past the cache, again and again; says so after the first piece.
fn stream(path: &Path, busy: Sender<()>, done: &AtomicBool) -> Result<()> {
    setpriority_process(None, NICENESS)?;
    let mut busy = Some(busy);
    let file =
        File::options().write(true).create(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
    let file = file.with_context(|| format!("create {}", path.display()))?;
    let room = vec![0xc3; STREAMED_BYTES + ALIGNMENT];
    let piece = &room[room.as_ptr().align_offset(ALIGNMENT)..][..STREAMED_BYTES];
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        file.write_all_at(piece, number % STREAMED * STREAMED_BYTES as u64).context("stream to the disk")?;
        say_once(&mut busy);
        number += 1;
    }
    Ok(())
}

/// Writes much, again and again, and each time has it written to the disk at once; says when it begins with that.
fn fill(path: &Path, busy: Sender<()>, done: &AtomicBool) -> Result<()> {
    setpriority_process(None, NICENESS)?;
    let (piece, mut busy) = (vec![0xa5; 1 << 20], Some(busy));
    while !done.load(Ordering::Relaxed) {
        let mut file = create(path)?;
        for _ in 0..FILLED_BYTES / piece.len() {
            file.write_all(&piece).context("fill the disk")?;
        }
        say_once(&mut busy);
        file.sync_all().context("sync a large file")?;
    }
    Ok(())
}

fn say_once(busy: &mut Option<Sender<()>>) {
    // Whoever does not listen any more needs not be told.
    let _ = busy.take().map(|busy| busy.send(()));
}

/// Writes little, and waits for the disk each time.
fn sync(path: &Path, done: &AtomicBool) -> Result<Vec<Duration>> {
    setpriority_process(None, NICENESS)?;
    let (piece, mut times) = (vec![0x5a; PIECE_BYTES], Vec::new());
    while !done.load(Ordering::Relaxed) {
        let mut file = create(path)?;
        for _ in 0..PIECES {
            let begun = Instant::now();
            file.write_all(&piece).context("write to the disk")?;
            file.sync_all().context("sync a small file")?;
            times.push(begun.elapsed());
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(times)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}
