//! Pictures of runs that were made up.

use super::*;
use crate::report::{Better, Contender, Machine, Sample};

fn run(rows: Vec<Row>) -> Run {
    let machine = Machine {
        kernel: "6.18.44".into(),
        model: "Some <Processor> & more".into(),
        cores: 2,
        memory_mib: 8000,
        cgroups: "v1".into(),
        load_before: 0.1,
        load_after: 1.5,
    };
    let peer = |name: &str| Contender { name: name.into(), versions: vec![format!("{name} 1.0")] };
    Run { date: "2026-11-28T11:30:00Z".into(), machine, peers: vec![peer("berth"), peer("containerd")], rows }
}

fn row(what: &str, pods: Option<u64>, unit: Unit, results: &[(&str, &[f64])]) -> Row {
    let sample = |(name, values): &(&str, &[f64])| ((*name).to_owned(), Sample::new(values.to_vec()));
    Row {
        scenario: "pod-start".into(),
        what: what.into(),
        at: pods.map(|pods| ("pods".to_owned(), pods)).into_iter().collect(),
        unit,
        better: Better::Less,
        results: results.iter().map(sample).collect(),
    }
}

fn names(pictures: &[(String, String)]) -> Vec<&str> {
    pictures.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_picture_has_one_unit_and_either_bars_or_curves() {
    let both: &[(&str, &[f64])] = &[("berth", &[1.0]), ("containerd", &[20.0])];
    let pictures = pictures(&run(vec![
        row("RunPodSandbox", None, Unit::Ms, both),
        row("start", Some(10), Unit::Ms, both),
        row("memory", Some(10), Unit::Kib, both),
        row("start", Some(100), Unit::Ms, both),
        row("memory", Some(100), Unit::Kib, both),
        row("the kernel alone", None, Unit::Ms, &[(FLOOR, &[1.0])]),
    ]));
    assert_eq!(names(&pictures), ["pod-start-ms.svg", "pod-start-ms-growth.svg", "pod-start-kib-growth.svg"]);
    assert!(!pictures[0].1.contains("the kernel alone"));
}

#[test]
fn growth_is_one_picture_whose_charts_name_their_units() {
    let grown = |what: &str, pods, unit| {
        let results: &[(&str, &[f64])] = &[("berth", &[pods as f64])];
        Row { scenario: GROWTH.into(), ..row(what, Some(pods), unit, results) }
    };
    let rows = [("start", Unit::Ms), ("memory", Unit::Kib)];
    let rows = rows.iter().flat_map(|(what, unit)| [10, 100].map(|pods| grown(what, pods, *unit)));
    let pictures = pictures(&run(rows.collect()));
    assert_eq!(names(&pictures), ["growth.svg"]);
    let picture = &pictures[0].1;
    assert!(picture.contains(">start, ms</text>") && picture.contains(">memory, KiB</text>"), "{picture}");
}

#[test]
fn bars_reach_the_median_and_whiskers_the_tail() {
    let mut tail = vec![10.0; 98];
    tail.extend([100.0, 100.0]);
    let results: &[(&str, &[f64])] = &[("berth", &tail), ("containerd", &[1000.0]), (FLOOR, &[1.0])];
    let pictures = pictures(&run(vec![row("RunPodSandbox", None, Unit::Ms, results)]));
    let picture = &pictures[0].1;
    // From 0.5 to 2000 in 210 pixels.
    let height = |value: f64| 210.0 * (value / 0.5).log10() / (2000.0 / 0.5_f64).log10();
    for class in ["c0", "c1"] {
        assert!(picture.contains(&format!("<rect class=\"{class}\"")), "{picture}");
    }
    let bar = format!("height=\"{:.1}\"/>", height(10.0));
    assert!(picture.contains(&bar), "{bar} in {picture}");
    let whiskers: Vec<&str> = picture.lines().filter(|line| line.contains("\"whisker\"")).collect();
    let ends = |line: &str| -> Vec<f64> {
        let number = |part: &str| part.split('"').next()?.parse().ok();
        ["y1=\"", "y2=\""].iter().filter_map(|key| number(line.split(key).nth(1)?)).collect()
    };
    let first = ends(whiskers[0]);
    assert!((first[0] - first[1] - (height(100.0) - height(10.0))).abs() < 0.2, "{whiskers:?}");
    assert_eq!(picture.matches("<line class=\"floor\"").count(), 2, "one in the legend, one in the group");
}

#[test]
fn a_curve_goes_through_all_steps_in_their_order() {
    let at =
        |pods, ms: f64| row("start", Some(pods), Unit::Ms, &[("berth", &[ms]), ("containerd", &[ms * 20.0])]);
    let pictures = pictures(&run(vec![at(500, 8.0), at(10, 2.0), at(100, 4.0)]));
    let picture = &pictures[0].1;
    let line = picture.lines().find(|line| line.contains("curve s0")).unwrap();
    let points: Vec<f64> = line
        .split("points=\"")
        .nth(1)
        .unwrap()
        .split(['"', ' '])
        .filter_map(|point| point.split(',').next()?.parse().ok())
        .collect();
    assert_eq!(points.len(), 3, "{line}");
    assert!(points.is_sorted(), "{line}");
}

#[test]
fn circumstances_that_all_bars_share_are_told_once() {
    let one: &[(&str, &[f64])] = &[("berth", &[1.0])];
    let alike =
        pictures(&run(vec![row("start", Some(6), Unit::Ms, one), row("stop", Some(6), Unit::Ms, one)]));
    assert!(alike[0].1.contains("<title>pod-start, pods 6: ") && alike[0].1.contains(">start</text>"));
    let others =
        pictures(&run(vec![row("start", Some(6), Unit::Ms, one), row("stop", Some(7), Unit::Ms, one)]));
    assert!(others[0].1.contains("<title>pod-start: ") && others[0].1.contains(">start, pods 6</text>"));
}

#[test]
fn what_was_measured_before_anything_had_grown_is_on_no_curve() {
    let at = |pods, kib: f64| row("memory", Some(pods), Unit::Kib, &[("berth", &[kib])]);
    let pictures = pictures(&run(vec![at(0, 5.0), at(10, 6.0), at(100, 7.0)]));
    assert_eq!(pictures[0].1.matches("<circle").count(), 2);
}

#[test]
fn texts_are_escaped_and_values_that_no_logarithm_has_are_left_out() {
    let results: &[(&str, &[f64])] = &[("berth", &[0.0]), ("containerd", &[3.0])];
    let pictures = pictures(&run(vec![row("a < b & c", None, Unit::Ms, results)]));
    let picture = &pictures[0].1;
    assert!(picture.contains("a &lt; b &amp; c") && picture.contains("Some &lt;Processor&gt; &amp; more"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    let bars = picture.lines().filter(|line| line.starts_with("<rect class=\"c")).count();
    assert_eq!(bars, 3, "two in the legend, one in the chart");
}

#[test]
fn a_run_without_rows_gives_no_picture() {
    assert!(pictures(&run(Vec::new())).is_empty());
}
