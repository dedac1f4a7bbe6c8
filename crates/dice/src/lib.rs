//! For tests alone: numbers that look random and come again with the same seed.
//!
//! A test whose steps are drawn by lot prints its seed when it fails; with that in `MODEL_SEED`, and as many steps in
//! `MODEL_STEPS`, the next run draws the same ones.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A source of numbers. Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, of all that there are.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of the numbers below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.throw() % limit as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these, of which there is at least one.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// One of these, each as often as its weight says.
    pub fn weighed<T: Clone>(&mut self, all: &[(usize, T)]) -> T {
        let mut left = self.below(all.iter().map(|(weight, _)| weight).sum());
        for (weight, one) in &all[..all.len() - 1] {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return one.clone(),
            }
        }
        all[all.len() - 1].1.clone()
    }
}

/// The seed that was asked for, or this one.
pub fn seed_or(seed: u64) -> u64 {
    asked("MODEL_SEED").unwrap_or(seed)
}

/// The seed that was asked for, or one that nobody can tell beforehand.
pub fn seed() -> u64 {
    asked("MODEL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000)
}

/// As many steps as were asked for, or so many.
pub fn steps_or(steps: usize) -> usize {
    asked("MODEL_STEPS").map_or(steps, |steps| steps as usize)
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_all_of_a_range() {
        let draw = |seed| (0..1000).scan(Dice::new(seed), |dice, _| Some(dice.below(7))).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!((0..7).all(|number| draw(3).contains(&number)));
    }

    #[test]
    fn what_weighs_more_comes_more_often() {
        let mut dice = Dice::new(1);
        let drawn: Vec<_> = (0..3000).map(|_| dice.weighed(&[(1, 'a'), (2, 'b'), (0, 'c')])).collect();
        let count = |letter| drawn.iter().filter(|drawn| **drawn == letter).count();
        assert!((800..1200).contains(&count('a')) && count('c') == 0, "{}", count('a'));
    }
}
