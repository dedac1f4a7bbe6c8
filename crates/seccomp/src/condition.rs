//! Conditions on a call's arguments.

/// How an argument is compared; all comparisons are of unsigned 64-bit numbers.
/// Source: OCI runtime-spec, config-linux.md, "op".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
    /// Equal after `and` with this mask.
    MaskedEqual(u64),
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// A call has so many arguments.
pub(crate) const MAX_ARGUMENTS: u32 = 6;

impl Comparison {
    /// Reads a name of the OCI runtime-spec; `first` and `second` are its `value` and `valueTwo`. Returns the value to
    /// compare with too.
    pub(crate) fn from_name(name: &str, first: u64, second: u64) -> Option<(Self, u64)> {
        Some(match name {
            "SCMP_CMP_EQ" => (Self::Equal, first),
            "SCMP_CMP_NE" => (Self::NotEqual, first),
            "SCMP_CMP_LT" => (Self::Less, first),
            "SCMP_CMP_LE" => (Self::LessOrEqual, first),
            "SCMP_CMP_GT" => (Self::Greater, first),
            "SCMP_CMP_GE" => (Self::GreaterOrEqual, first),
            "SCMP_CMP_MASKED_EQ" => (Self::MaskedEqual(first), second),
            _ => return None,
        })
    }
}
