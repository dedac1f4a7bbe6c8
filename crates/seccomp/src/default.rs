//! The profile of containers that ask for the runtime's own.
//!
//! It allows the calls that containerd's and Docker's profile allow, so that what runs there runs here: some 360 calls
//! for everyone, some more for those who have the capability that the call is about, everything else EPERM. Not allowed
//! is what reaches beyond a container (mounts, namespaces, keyrings, modules, clocks) or what has been a way out too
//! often (`userfaultfd`, `io_uring`, sockets of hypervisors and of the kernel's cryptography).
//! Source: github.com/moby/profiles, seccomp/default.json.

use crate::action::{Action, ENOSYS};
use crate::arch::Arch;
use crate::condition::{Comparison, Condition};
use crate::document::FLAG_SPEC_ALLOW;
use crate::profile::{Facts, Profile, Rule};

/// Signals.
const SIGNALS: &str = "\
    alarm kill pause pidfd_send_signal restart_syscall rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sigaltstack signalfd signalfd4 sigprocmask sigreturn tgkill tkill";

/// Clocks and timers; setting a clock is not among them.
const TIME: &str = "\
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times";

/// Sockets, once they are there.
const NETWORK: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

/// Message queues, semaphores and shared memory of the IPC namespace.
const IPC: &str = "\
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
    semtimedop_time64 shmat shmctl shmdt shmget";

/// Memory.
const MEMORY: &str = "\
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap \
    mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    remap_file_pages";

/// Users, groups, sessions and limits.
const IDENTITY: &str = "\
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp \
    getpid getppid getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid \
    getuid32 prlimit64 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid \
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid \
    setuid setuid32 ugetrlimit umask";

/// Threads, waiting and scheduling.
const SCHEDULING: &str = "\
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list \
    get_thread_area getcpu getpriority ioprio_get ioprio_set _newselect poll ppoll ppoll_time64 pselect6 \
    pselect6_time64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
    sched_setattr sched_setparam sched_setscheduler sched_yield select set_robust_list set_thread_area \
    set_tid_address setpriority";

/// Processes and what they may give up.
const PROCESSES: &str = "\
    execve execveat exit exit_group fork getrandom landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self pidfd_open prctl process_mrelease seccomp sysinfo uname uretprobe vfork wait4 \
    waitid waitpid";

/// Files, directories and the mounts that are there.
const FILES: &str = "\
    access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 \
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 \
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl lchown lchown32 lgetxattr link \
    linkat listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 \
    mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv \
    preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat \
    rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs \
    statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 unlink \
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev";

/// Since Linux 4.8, where a tracer can no longer change a call behind the filter's back.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// What a capability is about.
const BY_CAPABILITY: &[(&str, &str)] = &[
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

/// Execution domains of Linux itself: native, 32 bits of user name, both with the old order of memory, and "only tell".
const PERSONAS: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Flags of clone(2) that make a namespace: NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// All families of sockets below 64 but the kernel's cryptography (AF_ALG, 38) and the hypervisor (AF_VSOCK, 40), as
/// masks and values. Masks, because the kernel takes no notice of the upper half of socket(2)'s first argument: a plain
/// comparison could be evaded with it. Source: socket(2), vsock(7).
const FAMILIES: [(u64, u64); 8] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
    (0xffff_fff0, 48),
];

/// The default profile for a container.
pub fn default_profile(facts: &Facts) -> Profile {
    let everyones = [SIGNALS, TIME, NETWORK, IPC, MEMORY, IDENTITY, SCHEDULING, PROCESSES, FILES];
    let mut rules: Vec<Rule> = everyones.into_iter().map(allow).collect();
    if facts.kernel >= (4, 8) {
        rules.push(allow(TRACING));
    }
    rules.extend(for_architecture(facts.arch).map(allow));
    rules.extend(BY_CAPABILITY.iter().filter(|(name, _)| facts.has(name)).map(|(_, calls)| allow(calls)));
    rules.extend(PERSONAS.map(|persona| allow_if("personality", Comparison::Equal, persona)));
    rules.extend(FAMILIES.map(|(mask, value)| allow_if("socket", Comparison::MaskedEqual(mask), value)));
    if !facts.has("CAP_SYS_ADMIN") {
        rules.push(allow_if("clone", Comparison::MaskedEqual(NEW_NAMESPACES), 0));
        // A filter can't see its flags, which lie in memory; on ENOSYS programs take clone instead.
        rules.push(Rule { action: Action::Errno(ENOSYS), ..allow("clone3") });
    }
    Profile {
        default: Action::Errno(EPERM),
        arches: std::iter::once(facts.arch).chain(facts.arch.companions().iter().copied()).collect(),
        rules,
        flags: FLAG_SPEC_ALLOW,
    }
}

const EPERM: u16 = 1;

fn for_architecture(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::X86_64 | Arch::X32 => Some("arch_prctl modify_ldt"),
        Arch::X86 => Some("modify_ldt"),
        Arch::Aarch64 | Arch::Arm => {
            Some("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2")
        }
    }
}

fn allow(names: &str) -> Rule {
    let names = names.split_whitespace().map(str::to_owned).collect();
    Rule { names, action: Action::Allow, conditions: Vec::new() }
}

fn allow_if(name: &str, comparison: Comparison, value: u64) -> Rule {
    Rule { conditions: vec![Condition { index: 0, comparison, value }], ..allow(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_call_of_some_architecture() {
        let capabilities = BY_CAPABILITY.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let facts = Facts { arch, kernel: (6, 1), capabilities: capabilities.clone() };
            for rule in default_profile(&facts).rules {
                for name in rule.names {
                    let arches = [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm];
                    assert!(arches.iter().any(|arch| arch.number(&name).is_some()), "{name}");
                }
            }
        }
    }
}
