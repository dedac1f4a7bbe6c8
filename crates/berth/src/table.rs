//! Rows of text to a table whose columns are aligned by spaces. Pure.

use std::fmt::Write as _;

/// One line for each row, none with a space at its end. All rows have as many cells as the first.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).fold(String::new(), |mut padded, (cell, width)| {
            // Writing to a String can't fail.
            let _ = write!(padded, "{cell:<width$}  ");
            padded
        });
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}
