//! Kubernetes quantities: `500m`, `1.5Gi`, `2`, `1e3`.
//!
//! In: the text. Out: an exact fraction, read in units or in thousandths, each rounded up, as the API does.
//! Source: Kubernetes API reference, resource.Quantity.

/// An exact, non-negative amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantity {
    numerator: i128,
    denominator: i128,
}

impl Quantity {
    /// None when `text` is not a quantity, is negative, or is beyond every sensible size.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        let digits: i128 = digits.parse().ok()?;
        let scale = power(10, fraction.len().try_into().ok()?)?;
        let (multiplier, divisor) = multiplier(suffix)?;
        Some(Self { numerator: digits.checked_mul(multiplier)?, denominator: scale.checked_mul(divisor)? })
    }

    /// Whole units, rounded up, at most `i64::MAX`.
    pub(crate) fn units(self) -> i64 {
        self.times(1)
    }

    /// Thousandths, rounded up, at most `i64::MAX`.
    pub(crate) fn milli(self) -> i64 {
        self.times(1000)
    }

    fn times(self, factor: i128) -> i64 {
        let scaled = self.numerator.saturating_mul(factor);
        let up = scaled / self.denominator + i128::from(scaled % self.denominator != 0);
        i64::try_from(up).unwrap_or(i64::MAX)
    }
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = power(10, exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

fn power(base: i128, exponent: u32) -> Option<i128> {
    base.checked_pow(exponent).filter(|power| *power <= 1_000_000_000_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly_and_rounded_up() {
        for (text, units, milli) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("+2", 2, 2000),
            ("500m", 1, 500),
            ("0.1", 1, 100),
            (".5", 1, 500),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("128Mi", 134_217_728, 134_217_728_000),
            ("1k", 1000, 1_000_000),
            ("1e3", 1000, 1_000_000),
            ("12E-1", 2, 1200),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("100n", 1, 1),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.units(), quantity.milli()), (units, milli), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "-1", "m", "1.2.3", "1 Gi", "1gi", "1e", "1e99", "abc", "0x10", "1_000", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
