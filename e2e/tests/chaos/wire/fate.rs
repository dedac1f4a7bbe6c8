//! What becomes of a call on its way: drawn by lot, so that most calls arrive, and each kind of loss comes now and then.

use std::time::Duration;

use berth_dice::Dice;

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives, and so does its answer.
    Carried,
    /// Its answer arrives later.
    Slow(Duration),
    /// It does not arrive.
    Lost(Sign),
    /// It arrives when its client has given it up.
    Late(Duration, Sign),
    /// It arrives, and is called off while the agent is at it.
    CalledOff(Duration, Sign),
    /// It is carried out, and its answer does not arrive.
    Unanswered(Sign),
    /// It arrives twice at the same time; one of the answers does.
    Doubled {
        /// Whether it is the first one's.
        first: bool,
    },
    /// It arrives a second time once it has been answered; the second answer does.
    Repeated,
}

/// What the client sees of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// An error at once.
    Refusal,
    /// Nothing, until its own deadline.
    Silence,
    /// The end of its connection.
    Cut,
}

impl Fate {
    /// The next one.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..5 => Self::Lost(Sign::draw(dice)),
            5..8 => Self::Late(Duration::from_millis(dice.below(600) as u64), Sign::draw(dice)),
            8..16 => Self::CalledOff(Duration::from_millis(dice.below(30) as u64), Sign::draw(dice)),
            16..28 => Self::Unanswered(Sign::draw(dice)),
            28..36 => Self::Doubled { first: dice.once_in(2) },
            36..42 => Self::Repeated,
            42..50 => Self::Slow(Duration::from_millis(dice.below(100) as u64)),
            _ => Self::Carried,
        }
    }
}

impl Sign {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0..4 => Self::Refusal,
            4 => Self::Silence,
            _ => Self::Cut,
        }
    }
}
