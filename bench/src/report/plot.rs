//! SVG from what a run has found.
//!
//! In: a run. Out: one picture for each scenario and unit (of growth one for all of them), which needs no fonts or scripts and changes its colours where
//! a dark page is preferred. Rows that differ in one circumstance are curves (`lines`), all others bars (`bars`). Below
//! each stands when and where it was measured, and what.
//!
//! Drawn by hand: it takes text, rectangles and lines, and a library for charts would bring fonts, images and a canvas.

mod bars;
mod frame;
mod lines;
mod scale;
mod svg;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::frame::Series;
use super::{FLOOR, GROWTH, Row, Run, Unit};

/// Draws one file for each scenario, unit and kind of picture into a directory; returns which. A run in which no runtime
/// has done anything gives none.
pub(crate) fn draw(run: &Run, to: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let mut paths = Vec::new();
    for (name, picture) in pictures(run) {
        let path = to.join(name);
        fs::write(&path, picture).with_context(|| format!("write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// File names and what is to be in them.
fn pictures(run: &Run) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for rows in run.rows.chunk_by(|one, next| one.scenario == next.scenario) {
        if rows[0].scenario == GROWTH {
            pictures.extend(growth(run, rows));
            continue;
        }
        for unit in units(rows) {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.unit == unit && has_runtime(row)).collect();
            let (curves, others): (Vec<&Row>, Vec<&Row>) =
                rows.iter().partition(|row| is_on_curve(row, &rows));
            let series = Series::of(run, &rows);
            let name = rows.first().map(|row| format!("{}-{}", row.scenario, file_word(unit)));
            let name = name.unwrap_or_default();
            if !others.is_empty() {
                pictures.push((format!("{name}.svg"), bars::draw(run, &series, &others)));
            }
            if !curves.is_empty() {
                pictures.push((format!("{name}-growth.svg"), lines::draw(run, &series, &curves)));
            }
        }
    }
    pictures
}

/// What each pod costs, whatever its unit; none where there is one number of pods only.
fn growth(run: &Run, rows: &[Row]) -> Option<(String, String)> {
    let rows: Vec<&Row> = rows.iter().collect();
    let curves: Vec<&Row> = rows.iter().copied().filter(|row| is_on_curve(row, &rows)).collect();
    let picture = || lines::draw(run, &Series::of(run, &curves), &curves);
    (!curves.is_empty()).then(|| (format!("{GROWTH}.svg"), picture()))
}

/// In the order in which they first come.
fn units(rows: &[Row]) -> Vec<Unit> {
    let mut units = Vec::new();
    for row in rows {
        if !units.contains(&row.unit) {
            units.push(row.unit);
        }
    }
    units
}

/// The kernel's part alone is a table, not a picture.
fn has_runtime(row: &Row) -> bool {
    row.results.keys().any(|name| name != FLOOR)
}

fn is_on_curve(row: &Row, rows: &[&Row]) -> bool {
    let points = rows.iter().filter(|other| other.what == row.what).map(|other| &other.at);
    points.collect::<BTreeSet<_>>().len() > 1
}

/// A unit as an axis names it.
fn axis_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Ms => "milliseconds",
        Unit::Us => "microseconds",
        Unit::CpuMs => "milliseconds of CPU time",
        Unit::CpuUs => "microseconds of CPU time",
        Unit::Kib => "KiB",
        Unit::MibPerSecond => "MiB per second",
        Unit::PerSecond => "per second",
        Unit::CpuSecondsPerGib => "CPU seconds per GiB",
        Unit::CpuPercent => "percent of a CPU",
        Unit::Count => "count",
    }
}

fn file_word(unit: Unit) -> &'static str {
    match unit {
        Unit::Ms => "ms",
        Unit::Us => "us",
        Unit::CpuMs => "cpu-ms",
        Unit::CpuUs => "cpu-us",
        Unit::Kib => "kib",
        Unit::MibPerSecond => "mib-per-second",
        Unit::PerSecond => "per-second",
        Unit::CpuSecondsPerGib => "cpu-seconds-per-gib",
        Unit::CpuPercent => "cpu-percent",
        Unit::Count => "count",
    }
}

#[cfg(test)]
mod tests;
