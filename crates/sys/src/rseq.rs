//! Restartable sequences, for which glibc registers every thread, and which nothing of ours uses.
//!
//! The kernel notes the CPU in the registered area when the thread has been moved, which costs a fork a page of its own;
//! and a thread that has unmapped the area is killed.
//! Source: rseq(2); glibc manual, "Restartable Sequences" (`__rseq_offset`, since 2.35).

use std::ffi::{CStr, c_void};

/// `RSEQ_FLAG_UNREGISTER` of `linux/rseq.h`.
const UNREGISTER: u32 = 1;
/// The smallest area, and the one that glibc registers where the kernel needs no larger one.
const LEAST_BYTES: u32 = 32;
/// What glibc registers with (`RSEQ_SIG`): an instruction that traps, by architecture.
const SIGNATURE: u32 = if cfg!(target_arch = "aarch64") { 0xd428_bc00 } else { 0x5305_3053 };

/// An area of the kernel's ABI, `struct rseq`.
#[repr(align(32))]
struct Area(#[expect(dead_code, reason = "the kernel writes it")] [u8; LEAST_BYTES as usize]);

/// Ends the registration of this thread, which its children would inherit; returns whether it has none any more. The C
/// library then asks the kernel which CPU it is on.
pub fn unregister() -> bool {
    if let Some((area, bytes)) = glibc_area() {
        rseq(area, bytes, UNREGISTER);
    }
    is_unregistered()
}

/// Whether this thread is not registered, by whatever library: a second registration is refused.
pub(crate) fn is_unregistered() -> bool {
    let mut own = Area([0; LEAST_BYTES as usize]);
    let address = (&raw mut own).expose_provenance();
    match rseq(address, LEAST_BYTES, 0) {
        true => rseq(address, LEAST_BYTES, UNREGISTER),
        false => std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS),
    }
}

/// Where glibc has put this thread's area, and of what size; `None` if it has not registered any.
fn glibc_area() -> Option<(usize, u32)> {
    let (offset, bytes) = (glibc_value::<isize>(c"__rseq_offset")?, glibc_value::<u32>(c"__rseq_size")?);
    (bytes > 0).then_some((thread_pointer()?.wrapping_add_signed(offset), bytes.max(LEAST_BYTES)))
}

/// A constant of glibc's, if it is of a version that has it. `T` is the type with which glibc declares it.
fn glibc_value<T: Copy>(name: &CStr) -> Option<T> {
    // SAFETY: `name` is NUL-terminated; the handle stands for what is loaded already.
    let found: *const c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: where the symbol exists it is a `const` of this type, in memory that is never unmapped.
    (!found.is_null()).then(|| unsafe { found.cast::<T>().read() })
}

/// What `__rseq_offset` counts from.
fn thread_pointer() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        let pointer: usize;
        // SAFETY: the first word of what fs points to is its own address, by the ABI for thread-local storage.
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags))
        };
        Some(pointer)
    }
    #[cfg(target_arch = "aarch64")]
    {
        let pointer: usize;
        // SAFETY: reading this register has no effect.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags))
        };
        Some(pointer)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

/// Whether the call has succeeded.
fn rseq(address: usize, bytes: u32, flags: u32) -> bool {
    // SAFETY: the kernel writes to `address` only as long as it is registered: glibc's area lives as long as its thread,
    // and the one of `is_unregistered` until that has taken it back. Nothing else reads or writes either.
    unsafe { libc::syscall(libc::SYS_rseq, address, bytes, flags, SIGNATURE) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_unregistered_stays_so() {
        std::thread::spawn(|| {
            assert_eq!(is_unregistered(), glibc_area().is_none());
            assert!(unregister() && is_unregistered() && unregister());
        })
        .join()
        .unwrap();
    }
}
