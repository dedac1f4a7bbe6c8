//! The rows of a run as Markdown: a table for each scenario, the runtimes side by side, with berth's advantage over each.
//! In that of growth, each runtime's few pods and many are side by side.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Better, FLOOR, GROWTH, GROWTH_TITLE, Row, Run, Sample, Unit};

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
        text.push_str(&if rows[0].scenario == GROWTH { by_size(run, rows) } else { table(run, rows) });
    }
    text
}

/// Who has a result in one of the rows, in the order of the columns.
fn names<'a>(run: &'a Run, rows: &[Row]) -> Vec<&'a str> {
    let takes_part = |name: &&str| rows.iter().any(|row| row.results.contains_key(*name));
    run.peers.iter().map(|peer| peer.name.as_str()).filter(takes_part).collect()
}

/// Medians for each number of pods, and how many times what it is with the fewest they are with the most.
fn by_size(run: &Run, rows: &[Row]) -> String {
    let pods = |row: &Row| row.at.get("pods").copied().unwrap_or_default();
    let sizes: BTreeSet<u64> = rows.iter().map(pods).collect();
    let names = names(run, rows);
    let head = |name: &&str| {
        let sizes: String = sizes.iter().map(|size| format!(" {name}, {size} |")).collect();
        format!("{sizes} × |")
    };
    let head: String = names.iter().map(head).collect();
    let mut text = format!("| {GROWTH_TITLE}, p50 | |{head}\n");
    text.push_str(&format!("| --- | --- |{}\n", " ---: |".repeat(head.matches('|').count())));
    for (index, first) in rows.iter().enumerate() {
        let is_same = |row: &&Row| row.what == first.what && row.unit == first.unit;
        if rows[..index].iter().any(|row| is_same(&row)) {
            continue;
        }
        let median = |name: &str, size: u64| {
            let row = rows.iter().filter(is_same).find(|row| pods(row) == size)?;
            Some(row.results.get(name)?.quantiles.p50)
        };
        let cells = |name: &&str| {
            let medians: Vec<_> = sizes.iter().map(|size| (*size, median(name, *size))).collect();
            let cell = |(_, median): &(u64, Option<f64>)| median.map_or_else(String::new, number);
            let cells: String = medians.iter().map(|median| format!(" {} |", cell(median))).collect();
            format!("{cells} {} |", growth(&medians))
        };
        let cells: String = names.iter().map(cells).collect();
        text.push_str(&format!("| {} | {} |{cells}\n", first.what, symbol(first.unit)));
    }
    text
}

/// How many times what it is with the fewest pods, but for none, something is with the most.
fn growth(medians: &[(u64, Option<f64>)]) -> String {
    let known = || medians.iter().filter(|(size, _)| *size > 0).filter_map(|(_, median)| *median);
    match (known().next(), known().next_back()) {
        (Some(first), Some(last)) if first > 0.0 && last > 0.0 && known().count() > 1 => number(last / first),
        _ => String::new(),
    }
}

fn table(run: &Run, rows: &[Row]) -> String {
    let names = names(run, rows);
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

pub(super) fn symbol(unit: Unit) -> &'static str {
    match unit {
        Unit::Ms => "ms",
        Unit::Us => "µs",
        Unit::CpuMs => "ms of CPU",
        Unit::CpuUs => "µs of CPU",
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
    fn growth_is_from_the_fewest_pods_to_the_most_that_are_known() {
        let medians = [(0, Some(5.0)), (10, Some(2.0)), (100, Some(3.0)), (500, None)];
        assert_eq!(growth(&medians), "1.50");
        assert_eq!(growth(&medians[..2]), "");
        assert_eq!(growth(&[(10, Some(-1.0)), (100, Some(1.0))]), "");
    }

    #[test]
    fn few_pods_and_many_are_side_by_side_and_what_is_not_known_is_empty() {
        let machine = serde_json::json!({
            "kernel": "", "model": "", "cores": 1, "memory_mib": 1, "cgroups": "v1", "load_before": 0, "load_after": 0
        });
        let peer = |name: &str| super::super::Contender { name: name.into(), versions: Vec::new() };
        let row = |pods: u64, names: &[(&str, f64)]| Row {
            scenario: GROWTH.into(),
            what: "start".into(),
            at: [("pods".to_owned(), pods)].into(),
            unit: Unit::Ms,
            better: Better::Less,
            results: names.iter().map(|(name, ms)| ((*name).to_owned(), Sample::new(vec![*ms]))).collect(),
        };
        let run = Run {
            date: String::new(),
            machine: serde_json::from_value(machine).unwrap(),
            peers: vec![peer("berth"), peer("other")],
            rows: vec![row(100, &[("berth", 3.0)]), row(10, &[("berth", 2.0), ("other", 20.0)])],
        };
        let table = by_size(&run, &run.rows);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].ends_with("| berth, 10 | berth, 100 | × | other, 10 | other, 100 | × |"), "{table}");
        assert_eq!(lines[2], "| start | ms | 2.00 | 3.00 | 1.50 | 20.0 |  |  |");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.5, 12.34, 1234.5].map(number), ["0.50", "12.3", "1234"]);
    }
}
