//! Memory that has been freed, and that the allocator keeps.

/// Gives back to the kernel what the allocator keeps in whole pages, also in the midst of its heaps. Takes time by the size
/// of the heaps, some milliseconds for a hundred megabytes; who allocates waits meanwhile. Does nothing where the C library
/// is not glibc. Source: malloc_trim(3).
pub fn trim() {
    // SAFETY: the call takes no pointer, and glibc locks each of its heaps while it works on it, so that any thread may
    // make it at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_pages() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg_attr(not(target_env = "gnu"), ignore = "glibc alone can do it")]
    fn what_was_freed_below_a_piece_in_use_goes_back() {
        // Pieces too small to be mappings of their own, and a last one that holds up the end of the heap.
        let pieces: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 64 * 1024]).collect();
        let last = vec![1_u8; 64 * 1024];
        drop(pieces);
        let kept = resident_pages();
        trim();
        // Of the 64 MB, at least half: other tests allocate meanwhile.
        assert!(resident_pages() + 8000 < kept, "{} of {kept} pages", resident_pages());
        drop(last);
    }
}
