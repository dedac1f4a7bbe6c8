//! The end of a process that is only to exist: it gives back all its memory, and waits.
//!
//! ```text
//!  0 ── program, heap ── │ two pages with this code │ ── libraries, stack ── │ command line, environment │ ── vdso
//!           unmapped               kept                     unmapped                     kept
//! ```
//! What is kept is the program's own, which all such processes share, and the page with the title. Page tables and
//! mappings, which count for no process and yet take memory of the kernel's, become few with the rest.

use crate::clone::SingleThreaded;
use crate::{rseq, title};

/// The system calls that [`Rest::begin`] makes, and those of the end: the numbers for a seccomp filter.
pub const CALLS: &[u32] = &[
    libc::SYS_munmap as u32,
    libc::SYS_ppoll as u32,
    libc::SYS_restart_syscall as u32,
    libc::SYS_rt_sigreturn as u32,
    libc::SYS_exit_group as u32,
];

/// What a process can give back when it comes to rest.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rest {
    /// The memory before the code that waits.
    program: Range,
    /// That between this code and the command line.
    libraries: Range,
}

/// Addresses of memory; none where the length is zero.
#[derive(Debug, Clone, Copy, Default)]
struct Range {
    start: usize,
    length: usize,
}

impl Rest {
    /// Looks at what this process has. It is all kept where the place of the command line is not known, which `ps` goes on
    /// showing, or where the kernel still writes to what a library has [registered](rseq).
    pub fn prepare() -> Self {
        Self::find().unwrap_or_default()
    }

    fn find() -> Option<Self> {
        let (command_line, _) = title::argument_area().filter(|_| rseq::is_unregistered())?;
        let page = rustix::param::page_size();
        let code = (unmap_and_wait as *const ()).addr() & !(page - 1);
        // It is shorter than a page, and may begin at the end of one.
        let behind_code = code + 2 * page;
        let length = (command_line & !(page - 1)).checked_sub(behind_code)?;
        Some(Self {
            program: Range { start: 0, length: code },
            libraries: Range { start: behind_code, length },
        })
    }

    /// Gives the memory back and waits for ever. All signals are blocked.
    pub fn begin(self, _witness: &SingleThreaded) -> ! {
        let Self { program, libraries } = self;
        // SAFETY: what is unmapped is this process's memory from address zero to its command line, but for the code of
        // the function itself, which uses no other, not even a stack. It never returns to code that would. There is no
        // other thread, as the witness says.
        unsafe { unmap_and_wait(program.start, program.length, libraries.start, libraries.length) }
    }
}

/// Unmaps two ranges, if they have a length, and waits for ever, in registers alone.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn unmap_and_wait(first: usize, its_length: usize, second: usize, length: usize) -> ! {
    std::arch::naked_asm!(
        // In rcx, which a system call overwrites, is the last argument.
        "mov r8, rcx",
        "mov eax, {munmap}",
        "syscall",
        "mov rdi, rdx",
        "mov rsi, r8",
        "mov eax, {munmap}",
        "syscall",
        "2:",
        "xor edi, edi",
        "xor esi, esi",
        "xor edx, edx",
        "xor r10d, r10d",
        "mov eax, {ppoll}",
        "syscall",
        "jmp 2b",
        munmap = const libc::SYS_munmap,
        ppoll = const libc::SYS_ppoll,
    )
}

/// Unmaps two ranges, if they have a length, and waits for ever, in registers alone.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn unmap_and_wait(first: usize, its_length: usize, second: usize, length: usize) -> ! {
    std::arch::naked_asm!(
        "mov x8, #{munmap}",
        "svc #0",
        "mov x0, x2",
        "mov x1, x3",
        "svc #0",
        "2:",
        "mov x0, #0",
        "mov x1, #0",
        "mov x2, #0",
        "mov x3, #0",
        "mov x8, #{ppoll}",
        "svc #0",
        "b 2b",
        munmap = const libc::SYS_munmap,
        ppoll = const libc::SYS_ppoll,
    )
}
