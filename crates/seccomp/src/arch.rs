//! Architectures that a process on this kernel can make calls for, and the numbers of their calls.
//!
//! A 64-bit x86 kernel also runs 32-bit programs (other numbers) and may run x32 ones (the same token as x86_64,
//! numbers with a bit set); a 64-bit ARM kernel may run 32-bit ones. A filter that forgot one of them could be walked
//! around.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The bit that marks an x32 call. Source: `__X32_SYSCALL_BIT` in arch/x86/include/uapi/asm/unistd.h.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// The first number of ARM's private calls. Source: `__ARM_NR_BASE` in arch/arm/include/uapi/asm/unistd.h.
pub(crate) const ARM_PRIVATE: u32 = 0x0f_0000;

/// A set of calls with one numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// x86_64 with 32-bit pointers.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("there are no tables of system calls for this architecture");

impl Arch {
    /// That of this program.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Those whose programs a kernel of this one may run too.
    pub(crate) fn companions(self) -> &'static [Self] {
        match self {
            Self::X86_64 => &[Self::X86, Self::X32],
            Self::Aarch64 => &[Self::Arm],
            Self::X86 | Self::X32 | Self::Arm => &[],
        }
    }

    /// Reads a name of the OCI runtime-spec, config-linux.md. `Some(None)` for one that no machine of ours can run.
    pub(crate) fn from_name(name: &str) -> Option<Option<Self>> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_X32" => Some(Self::X32),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            "SCMP_ARCH_ARM" => Some(Self::Arm),
            "SCMP_ARCH_MIPS"
            | "SCMP_ARCH_MIPS64"
            | "SCMP_ARCH_MIPS64N32"
            | "SCMP_ARCH_MIPSEL"
            | "SCMP_ARCH_MIPSEL64"
            | "SCMP_ARCH_MIPSEL64N32"
            | "SCMP_ARCH_PPC"
            | "SCMP_ARCH_PPC64"
            | "SCMP_ARCH_PPC64LE"
            | "SCMP_ARCH_S390"
            | "SCMP_ARCH_S390X"
            | "SCMP_ARCH_PARISC"
            | "SCMP_ARCH_PARISC64"
            | "SCMP_ARCH_RISCV64"
            | "SCMP_ARCH_LOONGARCH64"
            | "SCMP_ARCH_M68K"
            | "SCMP_ARCH_SH"
            | "SCMP_ARCH_SHEB" => None,
            _ => return None,
        })
    }

    /// The name in conditions of profile files, which are Go's.
    pub(crate) fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }

    /// The token in `seccomp_data.arch`. Source: include/uapi/linux/audit.h.
    pub(crate) fn token(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of the call with this name, as it stands in `seccomp_data.nr`.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86_64 => X86_64.get(name).copied(),
            Self::X86 => X86.get(name).copied(),
            Self::X32 => x32_number(name),
            Self::Aarch64 => AARCH64.get(name).copied(),
            Self::Arm => ARM.get(name).copied(),
        }
    }
}

type Table = LazyLock<HashMap<&'static str, u32>>;

macro_rules! table {
    ($arch:ident, $more:expr) => {
        LazyLock::new(|| {
            let numbered = syscalls::$arch::Sysno::iter();
            let named = numbered.filter_map(|call| Some((call.name(), u32::try_from(call.id()).ok()?)));
            named.chain($more).collect()
        })
    };
}

static X86_64: Table = table!(x86_64, []);
static X86: Table = table!(x86, []);
static AARCH64: Table = table!(aarch64, []);
static ARM: Table = table!(arm, ARM_MORE);

/// Names that the table of ARM lacks.
const ARM_MORE: [(&str, u32); 6] = [
    ("sync_file_range2", 341),
    ("breakpoint", ARM_PRIVATE + 1),
    ("cacheflush", ARM_PRIVATE + 2),
    ("usr26", ARM_PRIVATE + 3),
    ("usr32", ARM_PRIVATE + 4),
    ("set_tls", ARM_PRIVATE + 5),
];

/// Calls that take pointers in structures, which have x32 numbers of their own from 512 on.
/// Source: arch/x86/entry/syscalls/syscall_64.tbl.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

fn x32_number(name: &str) -> Option<u32> {
    let own = X32_OWN.iter().zip(512..).find(|(own, _)| **own == name).map(|(_, number)| number);
    own.or_else(|| X86_64.get(name).copied()).map(|number| number | X32_BIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_numbered_as_each_architecture_numbers_them() {
        for (arch, name, want) in [
            (Arch::X86_64, "read", Some(0)),
            (Arch::X86_64, "openat2", Some(437)),
            (Arch::X86_64, "socketcall", None),
            (Arch::X86, "read", Some(3)),
            (Arch::X86, "socketcall", Some(102)),
            (Arch::X86, "clock_gettime64", Some(403)),
            (Arch::X32, "read", Some(X32_BIT)),
            (Arch::X32, "execve", Some(X32_BIT | 520)),
            (Arch::X32, "pwritev2", Some(X32_BIT | 547)),
            (Arch::Aarch64, "openat", Some(56)),
            (Arch::Aarch64, "open", None),
            (Arch::Arm, "cacheflush", Some(0x0f_0002)),
            (Arch::Arm, "openat", Some(322)),
            (Arch::X86_64, "no_such_call", None),
        ] {
            assert_eq!(arch.number(name), want, "{arch:?} {name}");
        }
    }
}
