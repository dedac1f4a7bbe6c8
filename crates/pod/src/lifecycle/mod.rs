//! The states of pods and containers, and what each makes of requests and of what happens. All of it is decided here and
//! nowhere else: values in, values out, with the time as an argument. Drivers ask, and carry out.
//!
//! ```text
//!  a pod         Making ──made──▶ Ready ──stopped; pause or monitor dies──▶ NotReady ──removed──▶ (gone)
//!                   └──make fails──▶ (gone)
//!
//!  a container   half made ──launched──▶ Created ──started──▶ Running ──ended──▶ Exited ──removed──▶ (gone)
//!                                           └───────────ended────────────────────▶┘
//!
//!  a stop        asked to end ──grace is over──▶ killed ──DEATH_LIMIT──▶ given up
//!                      └───────── has ended ────────┴──▶ done
//! ```
//! Nothing moves to the left, and what is half made, or left after a removal, can be seen by nobody. `sandbox`,
//! `container` and `stopping` have these three, with tables of what each answers to requests; `model` holds them against
//! the rules of the CRI, with steps drawn by lot. `names` has which pod a request means.

pub(crate) mod container;
pub(crate) mod names;
pub(crate) mod sandbox;
pub(crate) mod stopping;

#[cfg(test)]
mod model;

/// What a request comes to that would make something which was made before, under the same name and attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It is the same request once more: it gets what there is.
    Same,
    /// The name is taken; what is different.
    Differs(&'static str),
}
