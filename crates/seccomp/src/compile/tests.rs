//! What programs decide, found out by running them.

use super::*;
use crate::bpf::machine::{Call, run};
use crate::default::default_profile;
use crate::document::Document;
use crate::profile::Facts;

const ALLOW: Action = Action::Allow;
const EPERM: Action = Action::Errno(1);
const NOSYS: Action = Action::Errno(ENOSYS);

fn facts(arch: Arch, capabilities: &[&'static str]) -> Facts {
    Facts { arch, kernel: (6, 1), capabilities: capabilities.to_vec() }
}

/// Asks a program about a call by its name, with its first arguments.
#[track_caller]
fn check(program: &[Instruction], arch: Arch, name: &str, args: &[u64], want: Action) {
    let number = arch.number(name).unwrap_or_else(|| panic!("{arch:?} has no {name}"));
    check_number(program, arch, number, args, want);
}

#[track_caller]
fn check_number(program: &[Instruction], arch: Arch, number: u32, args: &[u64], want: Action) {
    let mut call = Call { number, arch: arch.token(), ..Call::default() };
    call.args[..args.len()].copy_from_slice(args);
    let (code, _) = run(program, call);
    assert_eq!(code, want.code(), "{arch:?} call {number:#x} {args:?}: {code:#x}, not {want:?}");
}

#[test]
fn the_default_profile_allows_what_the_peers_allow() {
    let program = compile(&default_profile(&facts(Arch::X86_64, &[]))).unwrap();
    let native = |name, args: &[u64], want| check(&program, Arch::X86_64, name, args, want);
    for name in ["read", "openat", "execve", "futex", "statx", "removexattrat", "ptrace", "arch_prctl"] {
        native(name, &[], ALLOW);
    }
    for name in ["mount", "unshare", "setns", "keyctl", "add_key", "bpf", "chroot", "reboot", "kexec_load"] {
        native(name, &[], EPERM);
    }
    for name in ["init_module", "clock_settime", "userfaultfd", "io_uring_setup", "pivot_root", "swapon"] {
        native(name, &[], EPERM);
    }
    native("clone3", &[], NOSYS);
    for (flags, want) in [
        (0x11, ALLOW),
        (0x003d_0f00, ALLOW),
        (0x1000_0000, EPERM),
        (0x0002_0011, EPERM),
        (0x4000_0000, EPERM),
    ] {
        native("clone", &[flags], want);
    }
    // The kernel takes no notice of the upper half.
    for upper in [0, 1 << 32, 0xffff_ffff << 32] {
        for family in 0..64 {
            let want = if family == 38 || family == 40 { EPERM } else { ALLOW };
            native("socket", &[upper | family], want);
        }
    }
    for (persona, want) in
        [(0, ALLOW), (8, ALLOW), (0x20008, ALLOW), (0xffff_ffff, ALLOW), (0x0004_0000, EPERM)]
    {
        native("personality", &[persona], want);
    }
    // Newer than the profile.
    check_number(&program, Arch::X86_64, 500, &[], NOSYS);
    check_number(&program, Arch::X86_64, u32::MAX, &[], NOSYS);
    // A gap in the numbers is no new call.
    check_number(&program, Arch::X86_64, 400, &[], EPERM);
}

#[test]
fn the_default_profile_holds_for_companions_and_kills_strangers() {
    let program = compile(&default_profile(&facts(Arch::X86_64, &[]))).unwrap();
    for arch in [Arch::X86, Arch::X32] {
        check(&program, arch, "read", &[], ALLOW);
        check(&program, arch, "execve", &[], ALLOW);
        check(&program, arch, "mount", &[], EPERM);
        check(&program, arch, "clone", &[0x1000_0000], EPERM);
        check(&program, arch, "personality", &[0xffff_ffff], ALLOW);
    }
    check(&program, Arch::X86, "socketcall", &[], ALLOW);
    check(&program, Arch::X86, "umount", &[], EPERM);
    // x86_64's own execve is none of x32's calls.
    check_number(&program, Arch::X32, X32_BIT | 59, &[], EPERM);
    check(&program, Arch::Aarch64, "read", &[], Action::KillProcess);

    let program = compile(&default_profile(&facts(Arch::Aarch64, &[]))).unwrap();
    for arch in [Arch::Aarch64, Arch::Arm] {
        check(&program, arch, "openat", &[], ALLOW);
        check(&program, arch, "mount", &[], EPERM);
        check(&program, arch, "clone3", &[], NOSYS);
    }
    check(&program, Arch::Arm, "cacheflush", &[], ALLOW);
    check_number(&program, Arch::Arm, ARM_PRIVATE + 1000, &[], EPERM);
    check(&program, Arch::X86_64, "read", &[], Action::KillProcess);
}

#[test]
fn the_default_profile_follows_the_capabilities() {
    let check = |capability, name, args: &[u64]| {
        for (capabilities, want) in [(&[][..], EPERM), (&[capability], ALLOW)] {
            let program = compile(&default_profile(&facts(Arch::X86_64, capabilities))).unwrap();
            check(&program, Arch::X86_64, name, args, want);
        }
    };
    check("CAP_SYS_ADMIN", "mount", &[]);
    check("CAP_SYS_ADMIN", "unshare", &[]);
    check("CAP_SYS_ADMIN", "clone", &[0x1000_0000]);
    check("CAP_SYS_CHROOT", "chroot", &[]);
    check("CAP_SYS_BOOT", "reboot", &[]);
    check("CAP_SYS_MODULE", "finit_module", &[]);
    check("CAP_SYS_PTRACE", "kcmp", &[]);
    check("CAP_SYS_TIME", "clock_settime", &[]);
    check("CAP_SYS_NICE", "mbind", &[]);
    check("CAP_SYSLOG", "syslog", &[]);
    check("CAP_BPF", "bpf", &[]);
    check("CAP_PERFMON", "perf_event_open", &[]);
    check("CAP_DAC_READ_SEARCH", "open_by_handle_at", &[]);
    let admin = compile(&default_profile(&facts(Arch::X86_64, &["CAP_SYS_ADMIN"]))).unwrap();
    self::check(&admin, Arch::X86_64, "clone3", &[], ALLOW);
    let old = Facts { kernel: (4, 7), ..facts(Arch::X86_64, &[]) };
    let old = compile(&default_profile(&old)).unwrap();
    self::check(&old, Arch::X86_64, "ptrace", &[], EPERM);
}

#[test]
fn a_call_costs_few_instructions_and_the_program_fits() {
    let program = compile(&default_profile(&facts(Arch::X86_64, &[]))).unwrap();
    assert!(program.len() < 1000, "{} instructions", program.len());
    for number in 0..500 {
        let call = Call { number, arch: Arch::X86_64.token(), ..Call::default() };
        let (_, steps) = run(&program, call);
        assert!(steps <= 26, "call {number} takes {steps} instructions");
    }
}

/// The program of a profile with this default and these rules.
fn program(default: &str, rules: &str) -> Vec<Instruction> {
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": [{rules}]}}"#);
    compile(&Document::parse(text.as_bytes()).unwrap().resolve(&facts(Arch::X86_64, &[]))).unwrap()
}

#[test]
fn every_comparison_is_of_64_bits() {
    let value = 5 << 32 | 7;
    for (op, want) in [
        ("EQ", [false, false, true, false, false]),
        ("NE", [true, true, false, true, true]),
        ("LT", [true, true, false, false, false]),
        ("LE", [true, true, true, false, false]),
        ("GT", [false, false, false, true, true]),
        ("GE", [false, false, true, true, true]),
    ] {
        let rule = format!(
            r#"{{"names": ["dup"], "action": "SCMP_ACT_ALLOW",
                 "args": [{{"index": 5, "value": {value}, "op": "SCMP_CMP_{op}"}}]}}"#
        );
        let program = program("KILL_PROCESS", &rule);
        let given = [4 << 32 | 9, 5 << 32 | 6, value, 5 << 32 | 8, 6 << 32 | 1];
        for (argument, holds) in given.into_iter().zip(want) {
            let want = if holds { ALLOW } else { Action::KillProcess };
            check(&program, Arch::X86_64, "dup", &[0, 0, 0, 0, 0, argument], want);
        }
    }
}

#[test]
fn rules_for_one_call_are_weighed_as_by_libseccomp() {
    let rule = |action: &str, args: &str| {
        format!(r#"{{"names": ["dup"], "action": "SCMP_ACT_{action}", "args": [{args}]}}"#)
    };
    let arg =
        |index: u32, value: u32| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let check = |rules: &[&str], args: &[u64], want| {
        check(&program("ALLOW", &rules.join(",")), Arch::X86_64, "dup", args, want);
    };
    let both = rule("TRAP", &format!("{},{}", arg(0, 1), arg(1, 2)));
    check(&[&both], &[1, 2], Action::Trap);
    check(&[&both], &[1, 3], ALLOW);
    let either = rule("TRAP", &format!("{},{}", arg(0, 1), arg(0, 2)));
    check(&[&either], &[2], Action::Trap);
    check(&[&either], &[3], ALLOW);
    // One after the other, the first that holds.
    check(&[&both, &rule("LOG", &arg(0, 1))], &[1, 2], Action::Trap);
    check(&[&both, &rule("LOG", &arg(0, 1))], &[1, 3], Action::Log);
    // Without conditions: instead of those before, untouched by those after, and nothing if it is the default.
    check(&[&both, &rule("ERRNO", "")], &[1, 2], EPERM);
    check(&[&rule("ERRNO", ""), &both, &rule("LOG", "")], &[1, 2], EPERM);
    check(&[&rule("ALLOW", ""), &both], &[1, 2], Action::Trap);
}

#[test]
fn a_call_of_32_bit_x86_is_filtered_on_its_other_way_too() {
    let text = br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket", "shmget"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let program = compile(&Document::parse(text).unwrap().resolve(&facts(Arch::X86_64, &[]))).unwrap();
    for (name, args, want) in [
        ("socket", &[2][..], EPERM),
        ("socketcall", &[1], EPERM),
        ("socketcall", &[2], ALLOW),
        ("ipc", &[23], EPERM),
        ("ipc", &[0x1_0017], EPERM),
        ("ipc", &[24], ALLOW),
    ] {
        check(&program, Arch::X86, name, args, want);
    }
}

#[test]
fn a_program_that_the_kernel_would_refuse_is_refused_here() {
    let args: Vec<_> =
        (0..2000).map(|value| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#)).collect();
    let names = vec![r#""dup""#; 2000].join(",");
    for names in [r#""dup""#, &names] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {{"names": [{names}], "action": "SCMP_ACT_ERRNO", "args": [{}]}}]}}"#,
            args.join(",")
        );
        let profile = Document::parse(text.as_bytes()).unwrap().resolve(&facts(Arch::X86_64, &[]));
        assert!(matches!(compile(&profile), Err(Error::TooLong { .. })));
    }
}

#[test]
fn long_programs_jump_right() {
    // Every other call has an outcome of its own, and jumps no longer fit into a byte.
    let rules: Vec<_> = (syscalls::x86_64::Sysno::iter().step_by(2).enumerate())
        .map(|(at, call)| {
            format!(
                r#"{{"names": ["{}"], "action": "SCMP_ACT_ERRNO", "errnoRet": {}}}"#,
                call.name(),
                at + 100
            )
        })
        .collect();
    let program = program("ALLOW", &rules.join(","));
    assert!(program.len() > 500);
    for (at, call) in syscalls::x86_64::Sysno::iter().enumerate() {
        let want = if at % 2 == 0 { Action::Errno(at as u16 / 2 + 100) } else { ALLOW };
        check(&program, Arch::X86_64, call.name(), &[], want);
    }
}
