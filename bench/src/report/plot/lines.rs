//! Curves: a chart for each thing that was measured, in it a line for each runtime through its medians, with whiskers up
//! to the 99th percentile, against a number that grows, such as that of the pods.
//!
//! Both axes are logarithmic: what costs the same for each pod is level, and what grows with the number of pods climbs as
//! steeply whatever it costs. All charts of a picture that have the same unit have the same axes, so that they can be
//! compared; where there are several, each chart names its own.

use std::collections::{BTreeMap, BTreeSet};

use super::super::table::symbol;
use super::super::{FLOOR, GROWTH, GROWTH_TITLE, Row, Run, Unit};
use super::axis_name;
use super::frame::{self, LEFT, RIGHT, Series, WIDTH};
use super::scale::{Scale, is_shown, number};
use super::svg::{Anchor, Svg};

const CHART_HEIGHT: f64 = 170.0;
/// Above a chart for its name, and below it for the marks of its axis.
const NAME_HEIGHT: f64 = 24.0;
const MARKS_HEIGHT: f64 = 42.0;
const GAP: f64 = 56.0;
/// What the first mark of an axis is away from its end, and the last one, beside which the last values are written.
const BEFORE: f64 = 14.0;
const BEHIND: f64 = 38.0;
/// Between the baselines of two values.
const VALUE_HEIGHT: f64 = 10.5;

/// The rows of one chart: they differ in one circumstance only.
#[derive(Debug)]
struct Curve<'a> {
    name: String,
    unit: Unit,
    /// With the value of that circumstance.
    rows: Vec<(u64, &'a Row)>,
}

/// Where one chart stands.
#[derive(Debug)]
struct Chart {
    x: Scale,
    y: Scale,
    left: f64,
    top: f64,
    width: f64,
}

/// The whole picture. All rows have the same scenario.
pub(super) fn draw(run: &Run, series: &Series, rows: &[&Row]) -> String {
    let along = what_grows(rows);
    let curves = curves(rows, &along);
    let has_one_unit = rows.windows(2).all(|pair| pair[0].unit == pair[1].unit);
    let scenario = rows.first().map(|row| row.scenario.as_str()).unwrap_or_default();
    let what = if scenario == GROWTH { GROWTH_TITLE.to_owned() } else { format!("{scenario} by {along}") };
    let title = format!("{what}: median (line), 99th percentile (whisker)");
    let mut svg = Svg::default();
    let mut top = frame::draw_head(&mut svg, &title, series);
    let across = match curves.len() {
        0..=1 => 1,
        2..=6 => 2,
        _ => 3,
    };
    let width = (WIDTH - LEFT - RIGHT - GAP * (across - 1) as f64) / across as f64;
    let steps = steps(&curves);
    let x = Scale::between(steps.iter().map(|step| *step as f64));
    for charts in curves.chunks(across) {
        for (index, curve) in charts.iter().enumerate() {
            let left = LEFT + (width + GAP) * index as f64;
            let top = top + NAME_HEIGHT;
            let x = x.on([left + BEFORE, left + width - BEHIND]);
            let y = values(&curves, curve.unit).on([top + CHART_HEIGHT, top]);
            let chart = Chart { x, y, left, top, width };
            let name = match symbol(curve.unit) {
                unit if has_one_unit || unit.is_empty() => curve.name.clone(),
                unit => format!("{}, {unit}", curve.name),
            };
            chart.draw_axes(&mut svg, &name, &steps, &along);
            chart.draw_curves(&mut svg, series, curve);
            chart.draw_last_values(&mut svg, series, curve);
        }
        let unit = rows.first().filter(|_| has_one_unit).map_or("each", |row| axis_name(row.unit));
        let middle = top + NAME_HEIGHT + CHART_HEIGHT / 2.0;
        svg.upward_text("small", [18.0, middle], &format!("{unit} (log)"));
        top += NAME_HEIGHT + CHART_HEIGHT + MARKS_HEIGHT;
    }
    frame::finish(svg, &title, run, top)
}

/// The circumstance against which all is drawn: the one that has the most values, pods before others.
fn what_grows(rows: &[&Row]) -> String {
    let mut values: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (name, value) in rows.iter().flat_map(|row| &row.at) {
        values.entry(name).or_default().insert(*value);
    }
    let most = values.iter().max_by_key(|(name, values)| (values.len(), **name == "pods"));
    most.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

/// In the order of the rows; the other circumstances are part of a chart's name.
fn curves<'a>(rows: &[&'a Row], along: &str) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve<'a>> = Vec::new();
    for row in rows {
        // A logarithm has no place for what was measured before anything had grown.
        let Some(step) = row.at.get(along).filter(|step| **step > 0) else { continue };
        let others = row.at.iter().filter(|(other, _)| *other != along);
        let name = others.fold(row.what.clone(), |name, (other, value)| format!("{name}, {other} {value}"));
        match curves.iter_mut().find(|curve| curve.name == name && curve.unit == row.unit) {
            Some(curve) => curve.rows.push((*step, row)),
            None => curves.push(Curve { name, unit: row.unit, rows: vec![(*step, row)] }),
        }
    }
    curves.iter_mut().for_each(|curve| curve.rows.sort_by_key(|(step, _)| *step));
    curves
}

fn steps(curves: &[Curve<'_>]) -> BTreeSet<u64> {
    curves.iter().flat_map(|curve| &curve.rows).map(|(step, _)| *step).collect()
}

/// The axis of all charts that have this unit, still without a place.
fn values(curves: &[Curve<'_>], unit: Unit) -> Scale {
    let rows = curves.iter().filter(|curve| curve.unit == unit).flat_map(|curve| &curve.rows);
    let samples = rows.flat_map(|(_, row)| row.results.values());
    Scale::around(samples.flat_map(|sample| [sample.quantiles.p50, sample.quantiles.p99]), [0.0, 0.0])
}

impl Chart {
    fn draw_axes(&self, svg: &mut Svg, name: &str, steps: &BTreeSet<u64>, along: &str) {
        let (right, bottom) = (self.left + self.width, self.top + CHART_HEIGHT);
        svg.text("", [self.left, self.top - 8.0], Anchor::Start, name);
        for mark in self.y.marks() {
            let y = self.y.place(mark.value);
            svg.line("grid", [self.left, y], [right, y]);
            if let Some(name) = mark.name {
                svg.text("small", [self.left - 6.0, y + 4.0], Anchor::End, &name);
            }
        }
        svg.line("axis", [self.left, bottom], [right, bottom]);
        for step in steps {
            let x = self.x.place(*step as f64);
            svg.line("axis", [x, bottom], [x, bottom + 4.0]);
            svg.text("small", [x, bottom + 16.0], Anchor::Middle, &step.to_string());
        }
        svg.text("small", [self.left + self.width / 2.0, bottom + 31.0], Anchor::Middle, along);
    }

    fn draw_curves(&self, svg: &mut Svg, series: &Series, curve: &Curve<'_>) {
        let places = |name: &str| -> Vec<[f64; 2]> {
            let samples = curve.rows.iter().filter_map(|(step, row)| Some((*step, row.results.get(name)?)));
            let shown = samples.filter(|(_, sample)| is_shown(sample.quantiles.p50));
            shown
                .map(|(step, sample)| [self.x.place(step as f64), self.y.place(sample.quantiles.p50)])
                .collect()
        };
        if series.has_floor {
            svg.path("curve floor", &places(FLOOR));
        }
        // The first one last, over the others.
        for (name, colour) in series.runtimes.iter().rev() {
            self.draw_whiskers(svg, curve, name, *colour);
            let places = places(name);
            svg.path(format_args!("curve s{colour}"), &places);
            places.iter().for_each(|place| svg.dot(format_args!("c{colour}"), *place, 3.0));
        }
    }

    fn draw_whiskers(&self, svg: &mut Svg, curve: &Curve<'_>, name: &str, colour: usize) {
        for (step, row) in &curve.rows {
            let Some(sample) = row.results.get(name).filter(|sample| is_shown(sample.quantiles.p50)) else {
                continue;
            };
            let (x, tail) = (self.x.place(*step as f64), sample.quantiles.p99.max(sample.quantiles.p50));
            let (from, to) = (self.y.place(sample.quantiles.p50), self.y.place(tail));
            svg.line(format_args!("whisker s{colour}"), [x, from], [x, to]);
            svg.line(format_args!("whisker s{colour}"), [x - 3.0, to], [x + 3.0, to]);
        }
    }

    /// The medians at the ends of the lines.
    fn draw_last_values(&self, svg: &mut Svg, series: &Series, curve: &Curve<'_>) {
        let last = |name: &str| {
            let medians =
                curve.rows.iter().rev().filter_map(|(step, row)| Some((*step, row.results.get(name)?)));
            medians.map(|(step, sample)| (step, sample.quantiles.p50)).find(|(_, median)| is_shown(*median))
        };
        let mut values: Vec<(u64, f64)> = series.runtimes.iter().filter_map(|(name, _)| last(name)).collect();
        // From the top of the chart down.
        values.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let places: Vec<f64> = values.iter().map(|(_, median)| self.y.place(*median)).collect();
        for ((step, median), y) in values.iter().zip(apart(&places, VALUE_HEIGHT)) {
            let place = [self.x.place(*step as f64) + 7.0, y + 3.5];
            svg.text("value", place, Anchor::Start, &number(*median));
        }
    }
}

/// Moves places, which ascend, until each two are so far from each other; those that were near each other stay around
/// their middle.
fn apart(places: &[f64], distance: f64) -> Vec<f64> {
    // Clusters of places: the sum of where their first one would have to stand for each, and how many they are.
    let mut clusters: Vec<(f64, usize)> = Vec::new();
    let first_of = |(sum, count): (f64, usize)| sum / count as f64;
    for place in places {
        clusters.push((*place, 1));
        while let [.., before, last] = clusters[..] {
            let reach = distance * before.1 as f64;
            if first_of(before) + reach <= first_of(last) {
                break;
            }
            clusters.pop();
            clusters.pop();
            clusters.push((before.0 + last.0 - reach * last.1 as f64, before.1 + last.1));
        }
    }
    let all =
        |cluster: (f64, usize)| (0..cluster.1).map(move |index| first_of(cluster) + distance * index as f64);
    clusters.into_iter().flat_map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_near_each_other_are_moved_apart_around_their_middle() {
        for (places, expected) in [
            (&[][..], &[][..]),
            (&[5.0, 50.0], &[5.0, 50.0]),
            (&[20.0, 20.0], &[15.0, 25.0]),
            (&[20.0, 24.0, 100.0], &[17.0, 27.0, 100.0]),
            (&[20.0, 20.0, 20.0], &[10.0, 20.0, 30.0]),
            (&[10.0, 20.0, 21.0], &[7.0, 17.0, 27.0]),
        ] {
            assert_eq!(apart(places, 10.0), expected, "{places:?}");
        }
    }
}
