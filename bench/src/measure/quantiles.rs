//! The middle and the tail of many values.

use serde::{Deserialize, Serialize};

/// Of one set of values, in their unit. Which end is the bad one, the row says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// How many values there were.
    pub(crate) count: usize,
    /// The smallest.
    pub(crate) min: f64,
    /// Half of them are no larger.
    pub(crate) p50: f64,
    /// Nine in ten are no larger.
    pub(crate) p90: f64,
    /// 99 in a hundred are no larger.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
    /// Their mean.
    pub(crate) mean: f64,
}

impl Quantiles {
    /// Each quantile is one of the values, the nearest rank; all are 0 where there is no value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).max(1) - 1;
        let at = |percent: usize| sorted.get(rank(percent)).copied().unwrap_or_default();
        Self {
            count: sorted.len(),
            min: at(0),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
            mean: sorted.iter().sum::<f64>() / sorted.len().max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let found = Quantiles::of(&hundred);
        assert_eq!((found.min, found.p50, found.p90, found.p99, found.max), (1.0, 50.0, 90.0, 99.0, 100.0));
        assert_eq!((found.count, found.mean), (100, 50.5));
        assert_eq!(Quantiles::of(&[7.0]).p99, 7.0);
        assert_eq!(Quantiles::of(&[1.0, 2.0]).p99, 2.0);
        assert_eq!(Quantiles::of(&[]).count, 0);
    }
}
