//! What all pictures have in common: colours, a title, a legend, and below the chart when, where and what.

use super::super::{FLOOR, Row, Run};
use super::svg::{Anchor, Svg};

/// As pictures are wide, in pixels, of which the chart itself has what is between the margins.
pub(super) const WIDTH: f64 = 880.0;
pub(super) const LEFT: f64 = 64.0;
pub(super) const RIGHT: f64 = 16.0;

const LINE: f64 = 15.0;
const TITLE_BASELINE: f64 = 26.0;
const LEGEND_BASELINE: f64 = 48.0;
/// What a character takes on average, in the small text of legend and caption.
const CHARACTER: f64 = 6.1;

/// One colour for each runtime, told apart also by those who don't see all colours: those of Okabe and Ito. The first
/// is berth's.
const COLOURS: [[&str; 2]; 6] = [
    ["#0072b2", "#56b4e9"],
    ["#d55e00", "#ff8c42"],
    ["#009e73", "#2fc79a"],
    ["#b5629a", "#e29ac8"],
    ["#b88700", "#f0c24a"],
    ["#555555", "#aaaaaa"],
];

/// Who is in a picture, in the order of the legend.
#[derive(Debug)]
pub(super) struct Series {
    /// The runtimes, with the number of their colour.
    pub(super) runtimes: Vec<(String, usize)>,
    /// Whether the kernel's own part is in it.
    pub(super) has_floor: bool,
}

impl Series {
    /// Those of a run that have a result in one of `rows`. A runtime's colour is the same in all of a run's pictures.
    pub(super) fn of(run: &Run, rows: &[&Row]) -> Self {
        let takes_part = |name: &str| rows.iter().any(|row| row.results.contains_key(name));
        let names =
            run.peers.iter().enumerate().map(|(index, peer)| (peer.name.clone(), index % COLOURS.len()));
        Self { runtimes: names.filter(|(name, _)| takes_part(name)).collect(), has_floor: takes_part(FLOOR) }
    }
}

/// Draws title and legend; returns where the chart can begin.
pub(super) fn draw_head(svg: &mut Svg, title: &str, series: &Series) -> f64 {
    svg.text("title", [LEFT, TITLE_BASELINE], Anchor::Start, title);
    let mut x = LEFT;
    let mut baseline = LEGEND_BASELINE;
    let entries = series.runtimes.iter().map(|(name, colour)| (name.as_str(), Some(colour)));
    let floor = series.has_floor.then_some(("the kernel's own part", None));
    for (name, colour) in entries.chain(floor) {
        let length = 40.0 + CHARACTER * name.chars().count() as f64;
        if x + length > WIDTH - RIGHT {
            (x, baseline) = (LEFT, baseline + LINE + 3.0);
        }
        match colour {
            Some(colour) => svg.rectangle(format_args!("c{colour}"), [x, baseline - 9.5, 14.0, 10.0]),
            None => svg.line("floor", [x, baseline - 4.5], [x + 14.0, baseline - 4.5]),
        }
        svg.text("small", [x + 19.0, baseline], Anchor::Start, name);
        x += length;
    }
    baseline + 14.0
}

/// Draws what a reader needs to judge the numbers, from `top` on, and completes the picture.
pub(super) fn finish(mut svg: Svg, title: &str, run: &Run, top: f64) -> String {
    let lines: Vec<String> = facts(run).iter().flat_map(|fact| wrap(fact, line_characters())).collect();
    for (index, line) in lines.iter().enumerate() {
        let baseline = top + LINE * (index as f64 + 1.0);
        svg.text("faint", [LEFT, baseline], Anchor::Start, line);
    }
    let height = top + LINE * (lines.len() as f64 + 1.0);
    let mut framed = Svg::default();
    framed.rectangle("page", [0.5, 0.5, WIDTH - 1.0, height - 1.0]);
    framed.append(svg);
    framed.finish(title, &style(), [WIDTH, height])
}

/// Breaks a text at spaces into lines of at most so many characters; a longer word has a line of its own.
pub(super) fn wrap(text: &str, characters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= characters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn line_characters() -> usize {
    ((WIDTH - LEFT - RIGHT) / CHARACTER) as usize
}

fn facts(run: &Run) -> Vec<String> {
    let place = format!("{}; {}", run.date, run.machine);
    let versions = run.peers.iter().map(|peer| format!("{}: {}", peer.name, peer.versions.join(", ")));
    std::iter::once(place).chain(versions).collect()
}

fn style() -> String {
    let colours = |page: usize| -> String {
        let rule = |(index, both): (usize, &[&str; 2])| {
            let colour = both[page];
            format!(".c{index} {{ fill: {colour}; }} .s{index} {{ stroke: {colour}; }}\n")
        };
        COLOURS.iter().enumerate().map(rule).collect()
    };
    format!("{SHAPES}{LIGHT}{}@media (prefers-color-scheme: dark) {{\n{DARK}{}}}\n", colours(0), colours(1))
}

const SHAPES: &str = "\
text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif; font-size: 12px; }
.title { font-size: 15px; font-weight: 600; }
.small, .faint { font-size: 11px; }
.value { font-size: 10px; }
.whisker { stroke-width: 1.2; }
.axis, .grid { stroke-width: 1; }
.floor { stroke-width: 2; stroke-dasharray: 5 3; }
.curve { fill: none; stroke-width: 2; }
";

const LIGHT: &str = "\
.page { fill: #ffffff; stroke: #d0d7de; }
text { fill: #1f2328; } .faint { fill: #59636e; }
.axis { stroke: #8c959f; } .grid { stroke: #e4e8ec; }
.whisker { stroke: #59636e; } .floor { stroke: #1f2328; }
";

const DARK: &str = "\
.page { fill: #0d1117; stroke: #3d444d; }
text { fill: #e6edf3; } .faint { fill: #9198a1; }
.axis { stroke: #656c76; } .grid { stroke: #262c36; }
.whisker { stroke: #9198a1; } .floor { stroke: #e6edf3; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_at_spaces() {
        assert_eq!(wrap("pod start to first log line", 14), ["pod start to", "first log line"]);
        assert_eq!(wrap("RunPodSandbox", 5), ["RunPodSandbox"]);
        assert_eq!(wrap("a RunPodSandbox b", 5), ["a", "RunPodSandbox", "b"]);
        assert!(wrap("", 5).is_empty());
    }
}
