//! Named points at which a test can break a step: have it fail, hang, or take its process with it.
//!
//! ```text
//! test ──"fail make cgroup"──▶ file ◀──looked into at each point── agent, monitor, children
//!                                  └── loses its first line to the one that strikes, so that it strikes once
//! ```
//! Whoever writes a step gives it a [`Point`], for its name; that makes it breakable. With the feature `faults` each
//! [`point!`] enters its name into a list of the program's own, so a test that asks for the list can't forget a step. The
//! file is named by the environment variable `BERTH_FAULT`, which zygote and monitors inherit. Each line is an action and a
//! point's name; only the first is looked at, and the next when that one has struck. What hangs goes on after a while, as
//! what a dead disk or server holds up does: after every [`limit`], so that nobody waits for it any more.
//!
//! Without the feature a point is its name alone: passing it is no instruction, and a [`Fault`] can't exist.

#[cfg(feature = "faults")]
mod armed;

#[cfg(feature = "faults")]
#[doc(hidden)]
pub use armed::{POINTS, linkme};
#[cfg(feature = "faults")]
pub use armed::{VARIABLE, points};

#[cfg(feature = "faults")]
type Existence = ();
#[cfg(not(feature = "faults"))]
type Existence = std::convert::Infallible;

/// A step that can be broken, and its name. Made by [`point!`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(&'static str);

/// A test has had a step fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a test broke {point:?}")]
pub struct Fault {
    point: &'static str,
    existence: Existence,
}

/// A [`Point`] with a name of its own, which must be a constant.
#[cfg(not(feature = "faults"))]
#[macro_export]
macro_rules! point {
    ($name:expr) => {
        const { $crate::Point::new($name) }
    };
}

/// A [`Point`] with a name of its own, which must be a constant; the program can list it.
#[cfg(feature = "faults")]
#[macro_export]
macro_rules! point {
    ($name:expr) => {{
        #[$crate::linkme::distributed_slice($crate::POINTS)]
        #[linkme(crate = $crate::linkme)]
        static NAME: &str = $name;
        const { $crate::Point::new($name) }
    }};
}

/// The limit of a step that may hang. Tests that have one hang can't wait for as long as a node does.
#[cfg(feature = "faults")]
pub const fn limit(ordinary: std::time::Duration) -> std::time::Duration {
    if ordinary.as_secs() > armed::LONGEST_LIMIT.as_secs() { armed::LONGEST_LIMIT } else { ordinary }
}

/// The limit of a step that may hang.
#[cfg(not(feature = "faults"))]
pub const fn limit(ordinary: std::time::Duration) -> std::time::Duration {
    ordinary
}

/// What a test has this process say of itself in place of the truth: the value of the environment variable.
#[cfg(feature = "faults")]
pub fn pretence(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// What a test has this process say of itself in place of the truth: nothing in this build.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn pretence(_variable: &str) -> Option<String> {
    None
}

impl Point {
    #[doc(hidden)]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// What the step is called.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Passes the point on a thread that may block.
    ///
    /// # Errors
    /// A test has asked for it.
    #[cfg(feature = "faults")]
    pub fn pass(self) -> Result<(), Fault> {
        match armed::take(self.0) {
            None => Ok(()),
            Some(armed::Action::Fail) => Err(self.fault()),
            Some(armed::Action::Hang) => {
                armed::hang();
                Ok(())
            }
            Some(armed::Action::Kill) => armed::die(),
        }
    }

    /// Passes the point in a task, whose thread it does not block.
    ///
    /// # Errors
    /// A test has asked for it.
    #[cfg(feature = "faults")]
    pub async fn pass_in_task(self) -> Result<(), Fault> {
        match armed::take(self.0) {
            None => Ok(()),
            Some(armed::Action::Fail) => Err(self.fault()),
            Some(armed::Action::Hang) => {
                armed::hang_in_task().await;
                Ok(())
            }
            Some(armed::Action::Kill) => armed::die(),
        }
    }

    #[cfg(feature = "faults")]
    fn fault(self) -> Fault {
        Fault { point: self.0, existence: () }
    }

    /// Passes the point on a thread that may block.
    ///
    /// # Errors
    /// None in this build.
    #[cfg(not(feature = "faults"))]
    #[inline(always)]
    pub fn pass(self) -> Result<(), Fault> {
        Ok(())
    }

    /// Passes the point in a task, whose thread it does not block.
    ///
    /// # Errors
    /// None in this build.
    #[cfg(not(feature = "faults"))]
    #[inline(always)]
    pub async fn pass_in_task(self) -> Result<(), Fault> {
        Ok(())
    }
}
