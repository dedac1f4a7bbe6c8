//! Device rules as the eBPF program that version 2 asks at each open and mknod.
//!
//! The kernel hands the program three words: what is to be done (bit 0 make, 1 read, 2 write) above what kind of device
//! (1 block, 2 character), the major and the minor number. It answers 1 to permit, 0 to forbid. Ours compares with one
//! rule after the other:
//!
//! ```text
//!   r2 = kind   r3 = access   r4 = major   r5 = minor
//!   for each rule:  if r2 != its kind, or r3 has a bit that it lacks, or r4, r5 differ  → next rule
//!                   return 1
//!   return 0
//! ```
//! No loops, no memory, no helpers, so that the verifier has nothing to object to and a JIT makes it a handful of
//! machine instructions. Source: kernel `struct bpf_cgroup_dev_ctx`; Documentation/bpf/standardization/instruction-set.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_sys::bpf::{self, Instruction};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::{DeviceAccess, DeviceKind, DeviceRule};

/// Replaces what the cgroup at `directory` has by a program for `rules`.
pub(crate) fn replace(directory: &Path, rules: &[DeviceRule]) -> Result<(), Errno> {
    let cgroup = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let program = bpf::load_device_program(&assemble(rules))?;
    let old = bpf::attached_device_programs(cgroup.as_fd())?;
    let (last, others) = match old.split_last() {
        Some((last, others)) => (Some(last), others),
        None => (None, &[][..]),
    };
    bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), last.map(OwnedFd::as_fd))?;
    others.iter().try_for_each(|other| bpf::detach_device_program(cgroup.as_fd(), other.as_fd()))
}

/// Whether this process may load such programs and the kernel knows them.
pub(crate) fn is_possible() -> bool {
    bpf::load_device_program(&assemble(&[])).is_ok()
}

const R0: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Operation codes: class, operation and source in one byte.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
/// Jumps if register and constant have a bit in common.
const JUMP_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |register, offset| instruction(LOAD_WORD, register, CONTEXT, offset, 0);
    let mut program = vec![
        load(KIND, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND, KIND, 0, 0, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    rules.iter().for_each(|rule| program.extend(compare(rule)));
    program.extend([instruction(MOVE, R0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// The tests of one rule; each that fails jumps behind the end.
fn compare(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = match rule.kind {
        DeviceKind::Block => 1,
        DeviceKind::Character => 2,
    };
    let lacking = !bits(rule.access) & bits(DeviceAccess::ALL);
    let mut tests = vec![(JUMP_NOT_EQUAL, KIND, kind)];
    // A test for no bit never jumps.
    tests.extend((lacking != 0).then_some((JUMP_ANY_BIT, ACCESS, lacking)));
    tests.extend(rule.major.map(|major| (JUMP_NOT_EQUAL, MAJOR, major)));
    tests.extend(rule.minor.map(|minor| (JUMP_NOT_EQUAL, MINOR, minor)));
    let permit = [instruction(MOVE, R0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)];
    // To the instruction after `permit`, counted from the one after the jump; there are at most four tests.
    let distance = |at: usize| (tests.len() - at - 1 + permit.len()) as u16;
    let jumps = tests.iter().enumerate();
    let jumps =
        jumps.map(|(at, &(code, register, value))| instruction(code, register, 0, distance(at), value));
    jumps.chain(permit).collect()
}

fn bits(access: DeviceAccess) -> u32 {
    u32::from(access.make) | u32::from(access.read) << 1 | u32::from(access.write) << 2
}

fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> Instruction {
    let registers = u64::from(to | from << 4);
    Instruction(u64::from(code) | registers << 8 | u64::from(offset) << 16 | u64::from(value) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEFAULT_DEVICES;

    /// What the kernel would do with the program, for the instructions that it is made of.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let (mut registers, mut at) = ([0u64; 6], 0);
        for _ in 0..program.len() {
            let word = program[at].0;
            let (code, to, offset) = (word as u8, (word >> 8 & 0xf) as usize, (word >> 16) as u16 as usize);
            let (from, value) = ((word >> 12 & 0xf) as usize, word >> 32);
            at += 1;
            match code {
                LOAD_WORD => registers[to] = u64::from(context[offset / 4]),
                MOVE => registers[to] = value,
                COPY => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_NOT_EQUAL if registers[to] != value => at += offset,
                JUMP_ANY_BIT if registers[to] & value != 0 => at += offset,
                JUMP_NOT_EQUAL | JUMP_ANY_BIT => {}
                EXIT => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
        panic!("no end");
    }

    #[test]
    fn one_rule_alone_must_permit_all_that_is_wanted() {
        let read_only = DeviceAccess { read: true, write: false, make: false };
        let disk = DeviceRule { kind: DeviceKind::Block, major: Some(8), minor: Some(16), access: read_only };
        let program = assemble(&[&DEFAULT_DEVICES[..], &[disk]].concat());
        let (block, character) = (1, 2);
        let (make, read, write) = (1 << 16, 2 << 16, 4 << 16);
        for (kind, access, major, minor, want) in [
            (character, read | write, 1, 3, 1),
            (character, make, 1, 3, 1),
            (character, make, 99, 7, 1),
            (character, make | read, 99, 7, 0),
            (character, read, 1, 11, 0),
            (character, read, 136, 4711, 1),
            (character, read, 5, 1, 0),
            (block, read, 1, 3, 0),
            (block, read, 8, 16, 1),
            (block, read | write, 8, 16, 0),
            (block, write, 8, 16, 0),
            (block, read, 8, 17, 0),
            (block, make, 8, 17, 1),
        ] {
            let context = [kind | access, major, minor];
            assert_eq!(run(&program, context), want, "{kind} {access:#x} {major}:{minor}");
        }
        assert_eq!(run(&assemble(&[]), [character | read, 1, 3]), 0);
    }

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        // ldxw r4, [r1+4]; jne r4, 136, +3
        assert_eq!(instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0), Instruction(0x0000_0000_0004_1461));
        assert_eq!(instruction(JUMP_NOT_EQUAL, MAJOR, 0, 3, 136), Instruction(0x0000_0088_0003_0455));
    }
}
