//! Installing a compiled seccomp filter on this thread.

use rustix::io::Errno;

use crate::clone::last_errno;

/// One BPF instruction in the kernel's layout (`struct sock_filter`), packed into eight bytes as
/// `code | jt << 16 | jf << 24 | k << 32`, so that a program is a plain list of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction(pub u64);

/// Installs `program` for this thread and all that it becomes, with `flags` (`SECCOMP_FILTER_FLAG_*`). Needs
/// CAP_SYS_ADMIN or no_new_privs. Source: seccomp(2), `SECCOMP_SET_MODE_FILTER`.
///
/// # Errors
/// The errno of the call: EINVAL for a program that the kernel's checker refuses or that is longer than 4096
/// instructions. No filter has been installed then.
pub fn install(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|&Instruction(word)| libc::sock_filter {
            code: word as u16,
            jt: (word >> 16) as u8,
            jf: (word >> 24) as u8,
            k: (word >> 32) as u32,
        })
        .collect();
    let length = u16::try_from(filters.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: filters.as_mut_ptr() };
    // SAFETY: `program` points at `len` instructions which live until the call has copied them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
