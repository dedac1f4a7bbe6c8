//! The API's signals and the kernel's numbers, which differ between architectures.

use berth_cri_proto::v1::Signal as Name;
use rustix::process::Signal;

use super::{Result, check};

/// The API's value for the kernel's first real-time signal that a C library leaves to programs, 34.
const FIRST_REALTIME: i32 = Name::Sigrtmin as i32;
const REALTIME_OFFSET: i32 = 34 - FIRST_REALTIME;

/// Where two names mean one number, the first is the one that is answered.
const NAMED: [(Name, Signal); 34] = [
    (Name::Sigabrt, Signal::ABORT),
    (Name::Sigalrm, Signal::ALARM),
    (Name::Sigbus, Signal::BUS),
    (Name::Sigchld, Signal::CHILD),
    (Name::Sigcld, Signal::CHILD),
    (Name::Sigcont, Signal::CONT),
    (Name::Sigfpe, Signal::FPE),
    (Name::Sighup, Signal::HUP),
    (Name::Sigill, Signal::ILL),
    (Name::Sigint, Signal::INT),
    (Name::Sigio, Signal::IO),
    (Name::Sigiot, Signal::ABORT),
    (Name::Sigkill, Signal::KILL),
    (Name::Sigpipe, Signal::PIPE),
    (Name::Sigpoll, Signal::IO),
    (Name::Sigprof, Signal::PROF),
    (Name::Sigpwr, Signal::POWER),
    (Name::Sigquit, Signal::QUIT),
    (Name::Sigsegv, Signal::SEGV),
    (Name::Sigstkflt, Signal::STKFLT),
    (Name::Sigstop, Signal::STOP),
    (Name::Sigsys, Signal::SYS),
    (Name::Sigterm, Signal::TERM),
    (Name::Sigtrap, Signal::TRAP),
    (Name::Sigtstp, Signal::TSTP),
    (Name::Sigttin, Signal::TTIN),
    (Name::Sigttou, Signal::TTOU),
    (Name::Sigurg, Signal::URG),
    (Name::Sigusr1, Signal::USR1),
    (Name::Sigusr2, Signal::USR2),
    (Name::Sigvtalrm, Signal::VTALARM),
    (Name::Sigwinch, Signal::WINCH),
    (Name::Sigxcpu, Signal::XCPU),
    (Name::Sigxfsz, Signal::XFSZ),
];

/// The kernel's number; none for the runtime's default.
pub(crate) fn number_from(field: &str, value: i32) -> Result<Option<i32>> {
    let name: Name = check::enumeration(field, value)?;
    if value >= FIRST_REALTIME {
        return Ok(Some(value + REALTIME_OFFSET));
    }
    Ok(NAMED.iter().find(|(named, _)| *named == name).map(|(_, signal)| signal.as_raw()))
}

/// The API's name of a number; the default's where it has none.
pub(crate) fn name_of(number: i32) -> Name {
    let realtime =
        Name::try_from(number - REALTIME_OFFSET).ok().filter(|name| *name as i32 >= FIRST_REALTIME);
    let named = || NAMED.iter().find(|(_, signal)| signal.as_raw() == number).map(|(name, _)| *name);
    realtime.or_else(named).unwrap_or(Name::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_number_and_every_number_its_name() {
        assert_eq!(number_from("stop_signal", 0), Ok(None));
        for value in 1..=65 {
            let number = number_from("stop_signal", value).unwrap().unwrap();
            assert_eq!(number_from("stop_signal", name_of(number) as i32), Ok(Some(number)), "{value}");
        }
        assert!(number_from("stop_signal", 66).is_err());
        assert_eq!(name_of(999), Name::RuntimeDefault);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let check =
            |name: Name, number| assert_eq!(number_from("stop_signal", name as i32), Ok(Some(number)));
        check(Name::Sigterm, 15);
        check(Name::Sigkill, 9);
        check(Name::Sigrtmin, 34);
        check(Name::Sigrtminplus3, 37);
        check(Name::Sigrtmax, 64);
    }
}
