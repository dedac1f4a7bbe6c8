//! `bpf(2)` for one kind of program: the one that decides which devices the processes of a cgroup may use.
//!
//! An attached program lives as long as its cgroup, whoever attached it. With `BPF_F_ALLOW_MULTI`, as here, those of
//! the parents are asked too, and every one of them has to agree.
//! Source: bpf(2); kernel `include/uapi/linux/bpf.h`; `BPF_PROG_TYPE_CGROUP_DEVICE` since Linux 4.15, `BPF_F_REPLACE`
//! since 5.6.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::last_errno;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// The kernel allows no more on one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_ATTACHED: usize = 64;

/// No helper that is reserved to GPL programs is called.
const LICENSE: &CStr = c"Apache-2.0";

/// What `bpftool prog` shows.
const NAME: [u8; 16] = *b"berth_devices\0\0\0";

/// One eBPF instruction (`struct bpf_insn`), packed into eight bytes as `code | registers << 8 | offset << 16 | imm <<
/// 32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Instruction(pub u64);

/// The head of `union bpf_attr` for each command; the kernel takes the rest as zero.
#[repr(C)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct AttachAttr {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct QueryAttr {
    cgroup: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// Has the kernel check a program and take it in; it does nothing until it is attached. Needs CAP_BPF and
/// CAP_NET_ADMIN, or CAP_SYS_ADMIN.
///
/// # Errors
/// The errno of the call: EINVAL or EACCES for a program that the kernel's verifier refuses, or for a kernel without
/// such programs; EPERM.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let attr = LoadAttr {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: NAME,
        interface: 0,
        attach_type: ATTACH_CGROUP_DEVICE,
    };
    // SAFETY: `attr` is the head of bpf_attr for this command; what it points at, `program` with `count` instructions
    // of eight bytes and the closed license text, outlives the call, and the kernel only reads it.
    let fd = unsafe { bpf(PROG_LOAD, &raw const attr) }?;
    // SAFETY: for this command the kernel returns a new descriptor (close-on-exec), known to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program on a cgroup (an open directory), in place of `replaced`, if given: no device is decided about by
/// neither or by both.
///
/// # Errors
/// The errno of the call: ENOENT when `replaced` is not attached, EPERM under a parent whose program allows no others.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let attr = AttachAttr {
        cgroup: number(cgroup),
        program: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: `attr` is the head of bpf_attr for this command and holds no pointers; its descriptors are open.
    unsafe { bpf(PROG_ATTACH, &raw const attr) }.map(drop)
}

/// Takes a program off a cgroup.
///
/// # Errors
/// The errno of the call: ENOENT when it is not attached.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = AttachAttr {
        cgroup: number(cgroup),
        program: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: `attr` is the head of bpf_attr for this command and holds no pointers; its descriptors are open.
    unsafe { bpf(PROG_DETACH, &raw const attr) }.map(drop)
}

/// The programs on a cgroup itself, not those of its parents.
///
/// # Errors
/// The errno of a call; ENOENT when one has just been detached by somebody else.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attr = QueryAttr {
        cgroup: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_ATTACHED as u32,
        padding: 0,
    };
    // SAFETY: `attr` is the head of bpf_attr for this command; the kernel writes at most `count` ids to `ids`, which
    // has room for them and outlives the call, and the numbers into `attr` itself, which is mutable.
    unsafe { bpf(PROG_QUERY, (&raw mut attr).cast_const()) }?;
    ids.iter().take(attr.count as usize).map(|id| program_by_id(*id)).collect()
}

fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let attr = [id, 0, 0];
    // SAFETY: three numbers are the head of bpf_attr for this command; it holds no pointers.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &raw const attr) }?;
    // SAFETY: for this command the kernel returns a new descriptor (close-on-exec), known to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

/// # Safety
/// `attr` must be a head of `union bpf_attr` that is right for `command`, and what it points at must be as the command
/// wants it until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attr: *const T) -> Result<libc::c_int, Errno> {
    // SAFETY: the caller vouches for `attr`; the size is that of its type.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(last_errno()),
    }
}
