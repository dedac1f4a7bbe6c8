//! Many calls by many callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_e2e::Cri;

use super::check_interrupt;
use crate::peer::Peer;

/// Between two pods that are measured one by one: what is still done for one is not the next one's, and what is prepared
/// for the next is. It leaves the processors idle, which takes some time to end; so all do it alike.
const REST: Duration = Duration::from_millis(80);

/// Leaves the machine alone for a moment.
#[expect(clippy::disallowed_methods, reason = "a pause is what is wanted")]
pub(crate) fn rest() {
    std::thread::sleep(REST);
}

/// A closed loop: so many callers share so many jobs, and each begins the next when its last is done. Returns what the
/// jobs gave, in the order of their numbers, and how long all took. After a failure nobody begins another.
pub(crate) fn closed<T: Send>(
    peer: &Peer,
    callers: usize,
    jobs: usize,
    job: impl Fn(&Cri, usize) -> Result<T> + Sync,
) -> Result<(Vec<T>, Duration)> {
    let connections: Vec<Cri> = (0..callers.min(jobs)).map(|_| peer.cri()).collect::<Result<_>>()?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let mut done = share(connections, |cri| {
        let mut mine = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= jobs {
                return Ok(mine);
            }
            let result = check_interrupt().and_then(|()| job(&cri, number));
            mine.push((number, result.inspect_err(|_| next.store(jobs, Ordering::Relaxed))?));
        }
    })?;
    let took = begun.elapsed();
    done.sort_by_key(|(number, _)| *number);
    Ok((done.into_iter().map(|(_, result)| result).collect(), took))
}

/// An open loop: jobs begin at fixed times, `interval` apart, whether others are done or not, as long as one of so many
/// callers is free. Returns how long each took from the time at which it should have begun, so that waiting for a
/// caller counts.
#[allow(clippy::disallowed_methods, reason = "an open loop is driven by the clock")]
pub(crate) fn open(
    peer: &Peer,
    callers: usize,
    interval: Duration,
    jobs: usize,
    job: impl Fn(&Cri, usize) -> Result<()> + Sync,
) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let timed = |cri: &Cri, number: usize| {
        let due = begun + interval * u32::try_from(number)?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        job(cri, number)?;
        Ok(due.elapsed())
    };
    Ok(closed(peer, callers, jobs, timed)?.0)
}

/// Lets a thread for each connection work; the first error counts.
fn share<T: Send>(connections: Vec<Cri>, work: impl Fn(Cri) -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections.into_iter().map(|cri| scope.spawn(|| work(cri))).collect();
        let mut all = Vec::new();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        for result in results {
            all.extend(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}
