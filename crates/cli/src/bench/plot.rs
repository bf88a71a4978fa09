//! The bar chart: throughput relative to sosplice, by workload and contestant.

use std::fmt::Write;

use super::report::{PRODUCT, Results};
use super::workload::{Metric, Workload};

/// Bars beyond this are cut, so that the bound does not flatten the rest.
const RATIO_MAX: f64 = 2.5;

const BAR: f64 = 14.0;
const GROUP_GAP: f64 = 24.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 56.0;
const COLOURS: [&str; 9] = [
    "#d1495b", "#00798c", "#edae49", "#30638e", "#66a182", "#8d6a9f", "#7f7f7f", "#b5651d",
    "#2f4858",
];

/// The chart as SVG text. Bars are the contestant's median over sosplice's,
/// so the line at 1 is sosplice; what rests is left out, being no rate.
pub fn svg(results: &Results) -> String {
    let groups: Vec<Workload> = results
        .workloads
        .iter()
        .copied()
        .filter(|workload| !workload.rests())
        .filter(|&workload| results.median(workload, PRODUCT, Metric::Rate).is_some())
        .collect();
    let group = BAR * results.contestants.len() as f64 + GROUP_GAP;
    let legend = 130.0;
    let plot_width = (group * groups.len() as f64).max(200.0);
    let (width, height) = (LEFT + plot_width + legend, TOP + HEIGHT + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">Throughput relative to sosplice (more is better)</text>\n"
    );
    axis(&mut svg, plot_width);
    for (at, &workload) in groups.iter().enumerate() {
        let x = LEFT + group * at as f64 + GROUP_GAP / 2.0;
        bars(&mut svg, results, workload, x);
        let middle = x + (group - GROUP_GAP) / 2.0;
        let below = TOP + HEIGHT + 18.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
            workload.name()
        );
    }
    for (at, contestant) in results.contestants.iter().enumerate() {
        let (x, y) = (LEFT + plot_width + 12.0, TOP + 18.0 * at as f64);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"11\" height=\"11\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{contestant}</text>",
            colour(at),
            x + 16.0,
            y + 10.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

fn y_of(ratio: f64) -> f64 {
    TOP + HEIGHT * (1.0 - ratio.min(RATIO_MAX) / RATIO_MAX)
}

fn axis(svg: &mut String, width: f64) {
    for mark in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5] {
        let y = y_of(mark);
        let stroke = if mark == 1.0 { "#444" } else { "#ddd" };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{stroke}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.1}</text>",
            LEFT + width,
            LEFT - 6.0,
            y + 4.0
        );
    }
}

fn bars(svg: &mut String, results: &Results, workload: Workload, left: f64) {
    let Some(product) = results.median(workload, PRODUCT, Metric::Rate) else {
        return;
    };
    for (at, contestant) in results.contestants.iter().enumerate() {
        let Some(rate) = results.median(workload, contestant, Metric::Rate) else {
            continue;
        };
        let (ratio, x) = (rate / product, left + BAR * at as f64);
        let y = y_of(ratio);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
             <title>{contestant}, {}: {ratio:.2}</title></rect>",
            BAR - 2.0,
            TOP + HEIGHT - y,
            colour(at),
            workload.name()
        );
        let middle = x + BAR / 2.0;
        let above = y - 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{above:.1}\" font-size=\"9\" \
             transform=\"rotate(-60 {middle:.1} {above:.1})\">{ratio:.2}</text>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Sample;

    #[test]
    fn a_bar_for_each_contestant_and_none_without_the_product() {
        let workload = Workload::Conn;
        let mut results = Results::new(vec![workload, Workload::Idle], vec![PRODUCT, "nginx"]);
        assert_eq!(svg(&results).matches("<title>").count(), 0);
        results.add(workload, PRODUCT, Sample::from([(Metric::Rate, 2.0)]));
        results.add(workload, "nginx", Sample::from([(Metric::Rate, 1.0)]));
        let text = svg(&results);
        assert_eq!(text.matches("<title>").count(), 2);
        assert!(text.contains("nginx, conn: 0.50"));
    }
}
