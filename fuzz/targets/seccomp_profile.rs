//! Seccomp profiles from files: nothing panics, and what compiles is a program that the kernel takes by its length.
#![no_main]

use berth_seccomp::{Arch, Document, Facts, compile};
use libfuzzer_sys::fuzz_target;

/// Source: linux/filter.h, `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Ok(document) = Document::parse(data) else { return };
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for capabilities in [vec![], vec!["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]] {
            let profile = document.resolve(&Facts { arch, kernel: (6, 18), capabilities });
            if let Ok(program) = compile(&profile) {
                assert!(!program.is_empty() && program.len() <= MAX_INSTRUCTIONS);
            }
        }
    }
});
