//! A profile becomes a program that decides in some ten steps, whatever the number of rules.
//!
//! ```text
//! load arch ─▶ which numbering ─▶ load number ─▶ binary search over runs of numbers ─▶ decision
//!                                                                                  └─▶ conditions ─▶ decision
//! ```
//! Numbers next to each other with the same outcome are one run, so a default profile of 350 calls is a search among
//! some 60 runs. Calls decided by their number alone cost nothing at all on kernels that cache the answer (since Linux
//! 5.11).
//!
//! Which rule holds, where several speak of one call, is as libseccomp has it, since profiles are written for it:
//! - a rule with the profile's default action says nothing;
//! - a rule without conditions replaces all before it that have some, and no later rule changes it;
//! - rules with conditions are tried in order; two conditions on the same argument are alternatives.
//!
//! As with runc, calls newer than every call that the profile speaks of fail with ENOSYS, unless the default lets
//! them through: programs try new calls, and fall back to older ones on that error only.

use std::collections::BTreeMap;

use crate::action::{Action, ENOSYS};
use crate::arch::{ARM_PRIVATE, Arch, X32_BIT};
use crate::bpf::{self, Instruction, Test, branch, load, ret};
use crate::condition::{Comparison, Condition};
use crate::error::{Error, Result};
use crate::multiplexed::other_way;
use crate::profile::Profile;

/// The kernel's limit. Source: `BPF_MAXINSNS` in linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;

/// A call of an architecture that the profile does not know.
const FOREIGN: Action = Action::KillProcess;

/// Makes the program of a profile, each instruction packed as `berth_sys::seccomp::Instruction` has it.
///
/// # Errors
/// [`Error::TooLong`].
pub fn compile(profile: &Profile) -> Result<Vec<u64>> {
    let has_x32 = profile.arches.contains(&Arch::X32);
    let mut program = vec![ret(FOREIGN.code())];
    // The last one is asked first: it is the node's own.
    for &arch in profile.arches.iter().rev().filter(|arch| **arch != Arch::X32) {
        let mut calls = calls_of(profile, arch)?;
        if arch == Arch::X86_64 {
            let x32 = if has_x32 { calls_of(profile, Arch::X32)? } else { vec![ret(FOREIGN.code())] };
            calls = branch(Test::GreaterOrEqual(X32_BIT), x32_calls(x32), calls);
        }
        calls.insert(0, load(bpf::NUMBER));
        program = branch(Test::Equal(arch.token()), calls, program);
    }
    program.insert(0, load(bpf::ARCH));
    match program.len() {
        instructions if instructions > MAX_INSTRUCTIONS => Err(Error::TooLong { instructions }),
        _ => Ok(program),
    }
}

/// Decides on a call by the number in the register.
fn calls_of(profile: &Profile, arch: Arch) -> Result<Vec<Instruction>> {
    Ok(search(&Outcomes::of(profile, arch)?.into_runs(), profile.default))
}

/// All ones is no call of any architecture, and programs probe with it.
fn x32_calls(known: Vec<Instruction>) -> Vec<Instruction> {
    branch(Test::Equal(u32::MAX), vec![ret(Action::Errno(ENOSYS).code())], known)
}

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Always(Action),
    /// The first whose conditions all hold, else the default.
    FirstOf(Vec<(Vec<Condition>, Action)>),
}

/// What becomes of each call of one architecture that a profile speaks of.
struct Outcomes {
    default: Action,
    by_number: BTreeMap<u32, Outcome>,
    /// The newest call that the profile speaks of, also where it says no more than the default.
    newest: Option<u32>,
    choices: usize,
}

impl Outcomes {
    fn of(profile: &Profile, arch: Arch) -> Result<Self> {
        let mut outcomes =
            Self { default: profile.default, by_number: BTreeMap::new(), newest: None, choices: 0 };
        for rule in &profile.rules {
            for name in &rule.names {
                if let Some(number) = arch.number(name) {
                    outcomes.add(number, rule.action, &rule.conditions);
                }
                if let (true, Some((number, condition))) = (rule.conditions.is_empty(), other_way(arch, name))
                {
                    outcomes.add(number, rule.action, &[condition]);
                }
                // Names times conditions grow faster than a file does.
                if outcomes.choices > MAX_INSTRUCTIONS {
                    return Err(Error::TooLong { instructions: outcomes.choices });
                }
            }
        }
        // ARM's private calls are not the newest ones.
        let named = profile.rules.iter().flat_map(|rule| &rule.names).filter_map(|name| arch.number(name));
        let numbers = named.chain(outcomes.by_number.keys().copied());
        outcomes.newest = numbers.filter(|number| arch != Arch::Arm || *number < ARM_PRIVATE).max();
        Ok(outcomes)
    }

    fn add(&mut self, number: u32, action: Action, conditions: &[Condition]) {
        if action == self.default {
            return;
        }
        let outcome = self.by_number.entry(number).or_insert_with(|| Outcome::FirstOf(Vec::new()));
        let Outcome::FirstOf(choices) = outcome else { return };
        let before = choices.len();
        if has_alternatives(conditions) {
            choices.extend(conditions.iter().map(|condition| (vec![*condition], action)));
        } else {
            choices.push((conditions.to_vec(), action));
        }
        self.choices += choices.len() - before;
        if conditions.is_empty() {
            *outcome = Outcome::Always(action);
        }
    }

    /// The first number of each run, and its outcome; the first run begins at 0.
    fn into_runs(self) -> Vec<(u32, Outcome)> {
        let default = Outcome::Always(self.default);
        let beyond = match self.newest {
            Some(newest) if !self.default.is_permissive() => {
                Some((newest + 1, Outcome::Always(Action::Errno(ENOSYS))))
            }
            _ => None,
        };
        // Every place where something begins; what is the same as before begins nothing.
        let mut starts = BTreeMap::from([(0, &default)]);
        for (number, outcome) in &self.by_number {
            starts.insert(*number, outcome);
            if !self.by_number.contains_key(&(number + 1)) {
                starts.insert(number + 1, &default);
            }
        }
        if let Some((start, outcome)) = &beyond {
            starts.insert(*start, outcome);
        }
        let mut runs: Vec<(u32, Outcome)> = Vec::new();
        for (start, outcome) in starts {
            if runs.last().is_none_or(|(_, last)| last != outcome) {
                runs.push((start, outcome.clone()));
            }
        }
        runs
    }
}

/// Two conditions on the same argument can't be meant together: libseccomp has no such rule, and runc makes one rule of
/// each.
fn has_alternatives(conditions: &[Condition]) -> bool {
    conditions
        .iter()
        .enumerate()
        .any(|(at, condition)| conditions[..at].iter().any(|other| other.index == condition.index))
}

/// Finds the run in which the number in the register lies.
fn search(runs: &[(u32, Outcome)], default: Action) -> Vec<Instruction> {
    match runs {
        [] => vec![ret(default.code())],
        [(_, Outcome::Always(action))] => vec![ret(action.code())],
        [(_, Outcome::FirstOf(choices))] => {
            let choices = choices.iter().flat_map(|(conditions, action)| choice(conditions, *action));
            choices.chain([ret(default.code())]).collect()
        }
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            branch(Test::GreaterOrEqual(upper[0].0), search(upper, default), search(lower, default))
        }
    }
}

/// Returns the action where all conditions hold, and else runs out at its end. At most 31 instructions.
fn choice(conditions: &[Condition], action: Action) -> Vec<Instruction> {
    let parts: Vec<Vec<Step>> = conditions.iter().map(steps).collect();
    let length = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut program = Vec::with_capacity(length);
    for part in parts {
        let holds = program.len() + part.len();
        for step in part {
            let over = |target| match target {
                Target::Next => 0,
                // Both lie within this choice, so they fit.
                Target::Holds => (holds - program.len() - 1) as u8,
                Target::Fails => (length - program.len() - 1) as u8,
            };
            program.push(match step {
                Step::Load(offset) => load(offset),
                Step::And(mask) => bpf::and(mask),
                Step::Jump(test, yes, no) => bpf::jump(test, over(yes), over(no)),
            });
        }
    }
    program.push(ret(action.code()));
    program
}

/// One step of a condition.
enum Step {
    Load(u32),
    And(u32),
    Jump(Test, Target, Target),
}

/// Where a condition's jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// To the next step.
    Next,
    /// Past this condition.
    Holds,
    /// Past this choice.
    Fails,
}

/// How a condition is found out: upper half first, which decides unless it is equal.
fn steps(condition: &Condition) -> Vec<Step> {
    use Step::{And, Jump, Load};
    use Target::{Fails, Holds, Next};
    let (low, high) = bpf::argument(condition.index);
    let (value_low, value_high) = (condition.value as u32, (condition.value >> 32) as u32);
    let equal = Test::Equal;
    let ordered = |above, below, test| {
        vec![
            Load(high),
            Jump(Test::Greater(value_high), above, Next),
            Jump(equal(value_high), Next, below),
            Load(low),
            Jump(test, above, below),
        ]
    };
    match condition.comparison {
        Comparison::Equal => vec![
            Load(high),
            Jump(equal(value_high), Next, Fails),
            Load(low),
            Jump(equal(value_low), Holds, Fails),
        ],
        Comparison::NotEqual => vec![
            Load(high),
            Jump(equal(value_high), Next, Holds),
            Load(low),
            Jump(equal(value_low), Fails, Holds),
        ],
        Comparison::MaskedEqual(mask) => vec![
            Load(high),
            And((mask >> 32) as u32),
            Jump(equal(value_high), Next, Fails),
            Load(low),
            And(mask as u32),
            Jump(equal(value_low), Holds, Fails),
        ],
        Comparison::Greater => ordered(Holds, Fails, Test::Greater(value_low)),
        Comparison::GreaterOrEqual => ordered(Holds, Fails, Test::GreaterOrEqual(value_low)),
        Comparison::Less => ordered(Fails, Holds, Test::GreaterOrEqual(value_low)),
        Comparison::LessOrEqual => ordered(Fails, Holds, Test::Greater(value_low)),
    }
}

#[cfg(test)]
mod tests;
