//! The rows of a run as Markdown: a table for each scenario, the runtimes side by side, with berth's advantage over each.

use std::fmt::Write;

use super::{Better, FLOOR, Row, Run, Sample, Unit};

/// All tables of a run, below what the machine was.
pub(crate) fn markdown(run: &Run) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(text, "{}; {}", run.date, run.machine);
    for peer in &run.peers {
        let _ = writeln!(text, "- {}: {}", peer.name, peer.versions.join("; "));
    }
    for rows in run.rows.chunk_by(|one, next| one.scenario == next.scenario) {
        text.push('\n');
        text.push_str(&table(run, rows));
    }
    text
}

fn table(run: &Run, rows: &[Row]) -> String {
    let takes_part = |name: &&str| rows.iter().any(|row| row.results.contains_key(*name));
    let names: Vec<&str> = run.peers.iter().map(|peer| peer.name.as_str()).filter(takes_part).collect();
    let first = names.first().copied().unwrap_or_default();
    let with_floor = rows.iter().any(|row| row.results.contains_key(FLOOR));
    let columns: Vec<&str> =
        [FLOOR].into_iter().filter(|_| with_floor).chain(names.iter().copied()).collect();
    let head = columns
        .iter()
        .map(|name| format!(" {name} |"))
        .chain(names.iter().skip(1).map(|name| format!(" ×{name} |")));
    let head: String = head.collect();
    let mut text = format!("| {}: p50 (p99) | |{head}\n", rows[0].scenario);
    text.push_str(&format!("| --- | --- |{}\n", " ---: |".repeat(head.matches('|').count())));
    for row in rows {
        let cell = |name: &&str| format!(" {} |", row.results.get(*name).map_or_else(String::new, cell_of));
        let advantage = |name: &&str| match (row.results.get(first), row.results.get(*name)) {
            (Some(ours), Some(theirs)) => format!(" {} |", advantage(row.better, ours, theirs)),
            _ => " |".into(),
        };
        let cells: String = columns.iter().map(cell).chain(names.iter().skip(1).map(advantage)).collect();
        text.push_str(&format!("| {} | {} |{cells}\n", title(row), symbol(row.unit)));
    }
    text
}

fn title(row: &Row) -> String {
    let at: Vec<_> = row.at.iter().map(|(name, value)| format!("{name} {value}")).collect();
    if at.is_empty() { row.what.clone() } else { format!("{}, {}", row.what, at.join(", ")) }
}

fn cell_of(sample: &Sample) -> String {
    let quantiles = &sample.quantiles;
    match quantiles.count {
        0..=2 => number(quantiles.p50),
        _ => format!("{} ({})", number(quantiles.p50), number(quantiles.p99)),
    }
}

/// How many times better the first one's median is.
fn advantage(better: Better, ours: &Sample, theirs: &Sample) -> String {
    let (ours, theirs) = (ours.quantiles.p50, theirs.quantiles.p50);
    let times = match better {
        Better::Less => theirs / ours,
        Better::More => ours / theirs,
    };
    if times.is_finite() { number(times) } else { String::new() }
}

/// Three digits or more.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn symbol(unit: Unit) -> &'static str {
    match unit {
        Unit::Ms => "ms",
        Unit::CpuMs => "ms of CPU",
        Unit::Kib => "KiB",
        Unit::MibPerSecond => "MiB/s",
        Unit::PerSecond => "/s",
        Unit::CpuSecondsPerGib => "s of CPU per GiB",
        Unit::CpuPercent => "% of a CPU",
        Unit::Count => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_larger_where_berth_is_better() {
        let (one, ten) = (Sample::new(vec![1.0]), Sample::new(vec![10.0]));
        assert_eq!(advantage(Better::Less, &one, &ten), "10.0");
        assert_eq!(advantage(Better::More, &one, &ten), "0.10");
        assert_eq!(advantage(Better::Less, &Sample::new(vec![0.0]), &ten), "");
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.5, 12.34, 1234.5].map(number), ["0.50", "12.3", "1234"]);
    }
}
