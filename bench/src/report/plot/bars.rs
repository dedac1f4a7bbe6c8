//! Bars side by side: a group for each row, in it a bar up to the median of each runtime with a whisker up to the 99th
//! percentile, and the kernel's own part as a dashed line across the group.
//!
//! The axis is logarithmic, so that what differs by factors of a hundred can be read in one picture; equal distances are
//! equal ratios. Many groups are put into several charts below each other, with the same axis.

use super::super::{FLOOR, Row, Run, Sample};
use super::axis_name;
use super::frame::{self, LEFT, RIGHT, Series, WIDTH};
use super::scale::{Scale, is_shown, number};
use super::svg::{Anchor, Svg};

/// The most groups side by side; their names are to be read.
const GROUPS_ACROSS: usize = 6;
const CHART_HEIGHT: f64 = 210.0;
/// Below a chart, for the groups' names.
const NAMES_HEIGHT: f64 = 52.0;
const NAME_CHARACTERS: usize = 18;
const LINE: f64 = 14.0;
const WIDEST_BAR: f64 = 30.0;
/// What of a group's width is its bars'.
const FILLED: f64 = 0.82;

/// Where the bars of one chart stand.
#[derive(Debug, Clone, Copy)]
struct Chart {
    scale: Scale,
    top: f64,
    bar_width: f64,
    /// Whether the circumstances are part of a group's name, and not of the title.
    names_at: bool,
}

/// The whole picture. All rows have the same scenario and unit.
pub(super) fn draw(run: &Run, series: &Series, rows: &[&Row]) -> String {
    let title = title(rows);
    let mut svg = Svg::default();
    let mut top = frame::draw_head(&mut svg, &title, series) + 8.0;
    let across = rows.len().div_ceil(rows.len().div_ceil(GROUPS_ACROSS).max(1)).max(1);
    let group_width = (WIDTH - LEFT - RIGHT) / across as f64;
    let bar_width = (group_width * FILLED / series.runtimes.len().max(1) as f64).min(WIDEST_BAR);
    let scale = Scale::around(rows.iter().flat_map(|row| heights(row)), [0.0, 0.0]);
    for groups in rows.chunks(across) {
        let scale = scale.on([top + CHART_HEIGHT, top]);
        let chart = Chart { scale, top, bar_width, names_at: !are_alike(rows) };
        chart.draw_axis(&mut svg, rows[0]);
        for (index, row) in groups.iter().enumerate() {
            chart.draw_group(&mut svg, series, row, LEFT + group_width * (index as f64 + 0.5));
        }
        top += CHART_HEIGHT + NAMES_HEIGHT;
    }
    frame::finish(svg, &title, run, top + 4.0)
}

fn title(rows: &[&Row]) -> String {
    let scenario = rows.first().map(|row| row.scenario.as_str()).unwrap_or_default();
    let common = rows.first().filter(|_| are_alike(rows)).map(|row| at(row)).filter(|at| !at.is_empty());
    let common = common.map(|at| format!(", {at}")).unwrap_or_default();
    format!("{scenario}{common}: median (bar and number) and 99th percentile (whisker)")
}

/// Whether all were found under the same circumstances.
fn are_alike(rows: &[&Row]) -> bool {
    rows.windows(2).all(|pair| pair[0].at == pair[1].at)
}

/// All that is drawn of a row.
fn heights(row: &Row) -> impl Iterator<Item = f64> {
    row.results.values().flat_map(|sample| [sample.quantiles.p50, sample.quantiles.p99])
}

impl Chart {
    fn bottom(&self) -> f64 {
        self.top + CHART_HEIGHT
    }

    fn draw_axis(&self, svg: &mut Svg, row: &Row) {
        for mark in self.scale.marks() {
            let y = self.scale.place(mark.value);
            svg.line("grid", [LEFT, y], [WIDTH - RIGHT, y]);
            if let Some(name) = mark.name {
                svg.text("small", [LEFT - 6.0, y + 4.0], Anchor::End, &name);
            }
        }
        svg.line("axis", [LEFT, self.bottom()], [WIDTH - RIGHT, self.bottom()]);
        let name = format!("{} (log)", axis_name(row.unit));
        svg.upward_text("small", [18.0, self.top + CHART_HEIGHT / 2.0], &name);
    }

    fn draw_group(&self, svg: &mut Svg, series: &Series, row: &Row, middle: f64) {
        let width = self.bar_width * series.runtimes.len() as f64;
        let left = middle - width / 2.0;
        for (index, (name, colour)) in series.runtimes.iter().enumerate() {
            if let Some(sample) = row.results.get(name) {
                self.draw_bar(svg, sample, *colour, left + self.bar_width * index as f64);
            }
        }
        let name = if self.names_at { format!("{}, {}", row.what, at(row)) } else { row.what.clone() };
        let mut baseline = self.bottom() + 1.0;
        for line in frame::wrap(&name, NAME_CHARACTERS) {
            baseline += LINE;
            svg.text("small", [middle, baseline], Anchor::Middle, &line);
        }
        let floor = row.results.get(FLOOR).map(|sample| sample.quantiles.p50);
        if let Some(floor) = floor.filter(|median| is_shown(*median)) {
            let y = self.scale.place(floor);
            svg.line("floor", [left - 6.0, y], [left + width + 6.0, y]);
            let text = format!("kernel {}", number(floor));
            svg.text("faint", [middle, baseline + LINE], Anchor::Middle, &text);
        }
    }

    fn draw_bar(&self, svg: &mut Svg, sample: &Sample, colour: usize, left: f64) {
        let (median, tail) = (sample.quantiles.p50, sample.quantiles.p99);
        if !is_shown(median) {
            return;
        }
        let (middle, top) = (left + self.bar_width / 2.0, self.scale.place(median));
        let bar = [left + 1.0, top, self.bar_width - 2.0, self.bottom() - top];
        svg.rectangle(format_args!("c{colour}"), bar);
        let end = self.scale.place(tail.max(median));
        svg.line("whisker", [middle, top], [middle, end]);
        svg.line("whisker", [middle - 4.0, end], [middle + 4.0, end]);
        svg.text("value", [middle, end - 4.0], Anchor::Middle, &number(median));
    }
}

/// The circumstances of a row in words.
fn at(row: &Row) -> String {
    let parts: Vec<String> = row.at.iter().map(|(name, value)| format!("{name} {value}")).collect();
    parts.join(", ")
}
