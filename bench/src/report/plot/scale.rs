//! A logarithmic axis: where a value stands, and which values are marked.

/// What a decade is divided into.
const PARTS: [f64; 3] = [1.0, 2.0, 5.0];

/// Marks up to which all of them are named, and not only the powers of ten.
const FEW_MARKS: usize = 7;

/// From values to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Where the lowest value stands, and the highest.
    from: f64,
    to: f64,
}

/// A value that is marked on the axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) value: f64,
    /// `None` for one that is only a line.
    pub(super) name: Option<String>,
}

impl Scale {
    /// An axis that begins and ends at marks, around all the values that it can show.
    pub(super) fn around(values: impl Iterator<Item = f64>, [from, to]: [f64; 2]) -> Self {
        let (low, high) = range(values).unwrap_or((1.0, 10.0));
        Self { low: mark_below(low), high: mark_above(high), from, to }
    }

    /// An axis that begins and ends at the smallest and the largest of the values, to be put on pixels.
    pub(super) fn between(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values).unwrap_or((1.0, 10.0));
        let (low, high) = if low < high { (low, high) } else { (low / 2.0, high * 2.0) };
        Self { low, high, from: 0.0, to: 0.0 }
    }

    /// The same values on other pixels.
    pub(super) fn on(self, [from, to]: [f64; 2]) -> Self {
        Self { from, to, ..self }
    }

    /// Where a value stands; what the axis can't show stands at its nearer end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if is_shown(value) { value.clamp(self.low, self.high) } else { self.low };
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }

    /// The marks from the lowest to the highest.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        let all = decades.flat_map(|power| PARTS.map(|part| (part, part * 10_f64.powi(power))));
        let within = |value: f64| value > self.low * 0.999 && value < self.high * 1.001;
        let all: Vec<(f64, f64)> = all.filter(|(_, value)| within(*value)).collect();
        let is_named = |part: f64| part == 1.0 || all.len() <= FEW_MARKS;
        let mark = |&(part, value): &(f64, f64)| Mark { value, name: is_named(part).then(|| number(value)) };
        all.iter().map(mark).collect()
    }
}

/// The smallest and the largest value that can be shown.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| is_shown(*value)).fold(None, |range, value| {
        Some(range.map_or((value, value), |(low, high): (f64, f64)| (low.min(value), high.max(value))))
    })
}

/// A logarithm has no place for others.
pub(super) fn is_shown(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// Two digits, or more where there are more before the point.
pub(super) fn number(value: f64) -> String {
    match value {
        10_000.0.. => format!("{}k", number(value / 1000.0)),
        9.95.. => format!("{value:.0}"),
        0.995.. => trim(format!("{value:.1}")),
        0.0995.. => trim(format!("{value:.2}")),
        _ => trim(format!("{value:.3}")),
    }
}

fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn mark_below(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let parts = PARTS.iter().rev().map(|part| part * decade);
    parts.into_iter().find(|mark| *mark < value * 0.999).unwrap_or(decade / 2.0)
}

fn mark_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let parts = PARTS.iter().map(|part| part * decade);
    parts.into_iter().find(|mark| *mark > value * 1.001).unwrap_or(decade * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(values: &[f64]) -> Scale {
        Scale::around(values.iter().copied(), [100.0, 0.0])
    }

    #[test]
    fn axes_begin_and_end_at_marks_around_the_values() {
        for (values, expected) in [
            (&[0.3, 40.0][..], (0.2, 50.0)),
            (&[1.0, 10.0], (0.5, 20.0)),
            (&[7.0], (5.0, 10.0)),
            (&[0.0, -1.0, f64::NAN, f64::INFINITY, 3.0], (2.0, 5.0)),
            (&[], (0.5, 20.0)),
        ] {
            let scale = around(values);
            let near = |one: f64, other: f64| (one / other - 1.0).abs() < 1e-9;
            assert!(near(scale.low, expected.0) && near(scale.high, expected.1), "{values:?}: {scale:?}");
        }
    }

    #[test]
    fn equal_ratios_are_equal_distances() {
        let scale = around(&[2.0, 80.0]);
        assert_eq!((scale.place(1.0), scale.place(100.0)), (100.0, 0.0));
        assert!((scale.place(10.0) - 50.0).abs() < 1e-9);
        assert_eq!((scale.place(0.0), scale.place(1e9)), (100.0, 0.0));
    }

    #[test]
    fn few_marks_are_all_named_and_of_many_the_powers_of_ten() {
        let named = |values: &[f64]| -> Vec<String> {
            around(values).marks().into_iter().filter_map(|mark| mark.name).collect()
        };
        assert_eq!(named(&[3.0, 40.0]), ["2", "5", "10", "20", "50"]);
        assert_eq!(named(&[0.03, 4000.0]), ["0.1", "1", "10", "100", "1000"]);
        assert_eq!(around(&[0.03, 4000.0]).marks().len(), 17);
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0123, 0.5, 0.999, 1.24, 9.96, 117.2, 2500.0, 58_400.0].map(number);
        assert_eq!(numbers, ["0.012", "0.5", "1", "1.2", "10", "117", "2500", "58k"]);
    }
}
