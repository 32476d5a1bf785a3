//! A run as a picture: rates above, heights and the queue below. Light, and without any library.

use std::fmt::Write;

use super::world::Sample;

/// Size of the whole, and of the panels in it.
const WIDTH: f64 = 896.0;
const HEIGHT: f64 = 430.0;
/// Where it begins: labels of half a megabit are wide.
const EDGE: f64 = -16.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 820.0;
const RATES: (f64, f64) = (40.0, 240.0);
const HEIGHTS: (f64, f64) = (280.0, 390.0);

/// Samples that make one point: more are smoother and smaller.
const POINT: usize = 3;

/// Heights of pictures and times in the queue that reach the top of their panel.
const HEIGHT_MAX: f64 = 720.0;
const WAIT_MAX_MS: f64 = 500.0;

const LINE: &str = "#9aa5b1";
const ESTIMATE: &str = "#d9822b";
const RECEIVED: &str = "#1f7a5c";
const SHOWN: &str = "#2b5fa8";
const QUEUE: &str = "#b5485d";

/// The picture of a run, as an SVG document.
pub(super) fn draw(name: &str, samples: &[Sample]) -> String {
    let points: Vec<Point> = samples.chunks(POINT).map(Point::of).collect();
    let end = points.last().map_or(1.0, |point| point.at).max(1.0);
    let most = points.iter().map(|p| p.rate.max(p.received)).fold(100_000.0, f64::max) * 1.1;
    let x = |at: f64| LEFT + (RIGHT - LEFT) * at / end;
    let y = |(top, bottom): (f64, f64), share: f64| bottom - (bottom - top) * share.clamp(0.0, 1.0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{EDGE} 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect x=\"{EDGE}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" fill=\"#222\">{name}</text>"
    );
    let mut legend = 250.0;
    for (colour, text) in [
        (LINE, "line"),
        (ESTIMATE, "estimate"),
        (RECEIVED, "received"),
        (SHOWN, "shown height"),
        (QUEUE, "longest wait in the queue"),
    ] {
        let _ = write!(
            out,
            "<rect x=\"{legend}\" y=\"13\" width=\"12\" height=\"8\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"21\" fill=\"#444\">{text}</text>",
            legend + 16.0
        );
        legend += 40.0 + 7.0 * text.len() as f64;
    }
    let mut label = |anchor: &str, (at_x, at_y): (f64, f64), text: &str| {
        let _ = write!(
            out,
            "<text x=\"{at_x:.0}\" y=\"{at_y:.0}\" text-anchor=\"{anchor}\" fill=\"#666\">{text}</text>"
        );
    };
    let step = [0.25, 0.5, 1.0, 2.0, 5.0].into_iter().find(|step| most / 1e6 / step <= 6.0).unwrap_or(10.0);
    let mut grid = Vec::new();
    let mut mbps = 0.0;
    while mbps * 1e6 <= most {
        let at = y(RATES, mbps * 1e6 / most);
        grid.push(at);
        label("end", (LEFT - 6.0, at + 4.0), &format!("{mbps} Mbit/s"));
        mbps += step;
    }
    for height in [0.0, 180.0, 360.0, 720.0] {
        let at = y(HEIGHTS, height / HEIGHT_MAX);
        grid.push(at);
        label("end", (LEFT - 6.0, at + 4.0), &format!("{height}p"));
    }
    for wait in [0.0, 250.0, 500.0] {
        label("start", (RIGHT + 6.0, y(HEIGHTS, wait / WAIT_MAX_MS) + 4.0), &format!("{wait} ms"));
    }
    let mut second = 0.0;
    while second <= end {
        label("middle", (x(second), HEIGHTS.1 + 18.0), &format!("{second} s"));
        second += 10.0;
    }
    for at in grid {
        let _ = write!(out, "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#e6e9ec\"/>");
    }
    let mut line = |colour: &str, width: f64, values: &mut dyn Iterator<Item = (f64, Option<f64>)>| {
        let (mut path, mut pen) = (String::new(), 'M');
        for (at, value) in values {
            match value {
                Some(value) => {
                    let _ = write!(path, "{pen}{:.1} {value:.1}", x(at));
                    pen = 'L';
                }
                None => pen = 'M',
            }
        }
        let _ = write!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"/>"
        );
    };
    let rate = |bps: f64| Some(y(RATES, bps / most));
    line(LINE, 2.0, &mut points.iter().map(|p| (p.at, rate(p.rate))));
    line(ESTIMATE, 1.3, &mut points.iter().map(|p| (p.at, p.estimate.and_then(rate))));
    line(RECEIVED, 1.3, &mut points.iter().map(|p| (p.at, rate(p.received))));
    line(QUEUE, 1.0, &mut points.iter().map(|p| (p.at, Some(y(HEIGHTS, p.wait_ms / WAIT_MAX_MS)))));
    for slot in 0..points.first().map_or(0, |point| point.heights.len()) {
        let height =
            |point: &Point| point.heights.get(slot).map(|height| y(HEIGHTS, f64::from(*height) / HEIGHT_MAX));
        line(SHOWN, 1.6, &mut points.iter().map(|p| (p.at, height(p))));
    }
    out.push_str("</svg>\n");
    out
}

/// Some samples as one.
struct Point {
    at: f64,
    rate: f64,
    estimate: Option<f64>,
    received: f64,
    heights: Vec<u16>,
    wait_ms: f64,
}

impl Point {
    fn of(samples: &[Sample]) -> Self {
        let last = samples.last().cloned().unwrap_or_default();
        Self {
            at: last.at.as_secs_f64(),
            rate: last.rate as f64,
            estimate: last.estimate.map(|bps| bps as f64),
            received: samples.iter().map(|sample| sample.bits as f64 * 10.0).sum::<f64>()
                / samples.len().max(1) as f64,
            heights: last.heights,
            wait_ms: samples.iter().map(|s| s.wait.as_secs_f64() * 1e3).fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_plot_is_one_small_document() {
        let sample = |n: u64| Sample {
            at: Duration::from_millis(n * 100),
            rate: 1_000_000,
            estimate: (n > 10).then_some(900_000),
            bits: 50_000,
            heights: vec![360],
            wait: Duration::from_millis(n % 7),
        };
        let samples: Vec<Sample> = (0..900).map(sample).collect();
        let svg = draw("steady-1m", &samples);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<svg").count(), 1);
        assert!(svg.len() < 40_000, "{} bytes", svg.len());
    }
}
