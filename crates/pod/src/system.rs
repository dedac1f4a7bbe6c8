//! The directories of the system, which are there for everybody: none of them is berth's own, nor anybody's volume as a
//! whole.
//!
//! Only the directories themselves: what lies in most of them may well be somebody's.

/// Their paths; several may lead to one directory.
pub const SYSTEM_DIRECTORIES: [&str; 24] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/run",
    "/var/tmp",
];
