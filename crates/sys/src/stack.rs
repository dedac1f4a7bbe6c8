//! The part of the stack that deep calls have used, and that nobody uses any more.

use crate::title;

/// How far below its beginning a stack is known to be the main thread's, which has more room than twice that: at least
/// 128 MiB, the least distance to other memory that the kernel keeps.
const STACK_BYTES: usize = 1024 * 1024;

/// Gives back to the kernel what the main thread has used of its stack below the caller; does nothing on another. The next
/// deep call has zeroed pages again, each for the price of a fault. Source: madvise(2), `MADV_DONTNEED`.
#[inline(never)]
pub fn trim() {
    let here = 0_u8;
    let here = (&raw const here).addr();
    // The argument strings lie where the main thread's stack begins.
    let depth = title::argument_area().and_then(|(start, _)| start.checked_sub(here));
    if depth.is_none_or(|depth| depth > STACK_BYTES) {
        return;
    }
    let page = rustix::param::page_size();
    // One page is left below this frame: for those of the calls made here.
    let end = (here & !(page - 1)) - page;
    let start = std::ptr::with_exposed_provenance_mut(end - STACK_BYTES);
    // SAFETY: this is the main thread's stack, as its distance from the beginning says, and so is all memory for as far
    // again, or not mapped yet, which the call passes over. What lies below the frames of running functions holds nothing;
    // those of this one and of the one that it calls are above `end`.
    unsafe { libc::madvise(start, STACK_BYTES, libc::MADV_DONTNEED) };
}
