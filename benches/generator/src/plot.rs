//! PURE: this module plots the latency by percentile as SVG, without a library or scripts.
//!
//! The percentile axis is logarithmic in the distance to 100 %, so that the highest latencies are
//! visible: 90, 99 and 99.9 have the same distance from each other. The time axis is linear, starts
//! at zero and has round steps.

use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
/// The left, top, right and bottom edge of the plot area.
const LEFT: f64 = 80.0;
const TOP: f64 = 50.0;
const RIGHT: f64 = WIDTH - 30.0;
const BOTTOM: f64 = HEIGHT - 60.0;
/// The number of points of the curve.
const POINTS: u32 = 200;
/// The minimum number of steps of the time axis. The actual number is at most about twice as high.
const STEPS_MIN: f64 = 4.0;

/// Returns an SVG plot of the latencies. `at` returns the latency in milliseconds at a quantile.
/// `values` is the number of measured latencies.
#[must_use]
pub fn svg(title: &str, values: u64, at: impl Fn(f64) -> f64) -> String {
    let decades = decades(values);
    let top = at(1.0).max(0.001);
    let step = round_step(top / STEPS_MIN);
    let ceiling = (top / step).ceil() * step;
    let x = |nines: f64| LEFT + (RIGHT - LEFT) * nines / decades;
    let y = |ms: f64| BOTTOM - (BOTTOM - TOP) * ms / ceiling;
    let mut picture = Picture::new(title);
    let mut ms = 0.0;
    while ms <= ceiling * 1.0001 {
        picture.grid((LEFT, y(ms)), (RIGHT, y(ms)));
        picture.text((LEFT - 8.0, y(ms) + 4.0), "end", &label(ms, step));
        ms += step;
    }
    let mut nines = 0.0;
    while nines <= decades + 0.0001 {
        picture.grid((x(nines), TOP), (x(nines), BOTTOM));
        picture.text((x(nines), BOTTOM + 20.0), "middle", &percentile(nines));
        nines += 1.0;
    }
    picture.text(
        ((LEFT + RIGHT) / 2.0, HEIGHT - 15.0),
        "middle",
        "percentile",
    );
    picture.text((LEFT, TOP - 10.0), "end", "ms");
    let curve = (0..=POINTS).map(|point| {
        let nines = decades * f64::from(point) / f64::from(POINTS);
        (x(nines), y(at(1.0 - 10f64.powf(-nines))))
    });
    picture.curve(curve);
    picture.end()
}

/// Returns the number of nines in the highest percentile that this number of values can resolve.
/// For a thousand values, that percentile is 99.9, so the result is 3.
fn decades(values: u64) -> f64 {
    f64::from(values.max(10).ilog10()).clamp(1.0, 6.0)
}

/// Returns the lowest number of the form 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= least * 0.9999)
        .unwrap_or(10.0 * power)
}

fn label(ms: f64, step: f64) -> String {
    if step >= 1.0 {
        format!("{ms:.0}")
    } else {
        format!("{ms:.3}")
    }
}

fn percentile(nines: f64) -> String {
    match nines {
        n if n < 0.5 => "0".to_owned(),
        n if n < 1.5 => "90".to_owned(),
        n if n < 2.5 => "99".to_owned(),
        n if n < 3.5 => "99.9".to_owned(),
        n if n < 4.5 => "99.99".to_owned(),
        n if n < 5.5 => "99.999".to_owned(),
        _ => "99.9999".to_owned(),
    }
}

/// The text of the SVG file. Results of writes are ignored, because writing to a string cannot
/// fail.
struct Picture(String);

impl Picture {
    fn new(title: &str) -> Self {
        let mut text = String::new();
        let _written = writeln!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
        );
        let mut picture = Self(text);
        picture.text((WIDTH / 2.0, 24.0), "middle", title);
        picture
    }

    fn grid(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _written = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\"/>"
        );
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _written = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333\">{text}</text>"
        );
    }

    fn curve(&mut self, points: impl Iterator<Item = (f64, f64)>) {
        self.0 += "<polyline fill=\"none\" stroke=\"#c40\" stroke-width=\"2\" points=\"";
        for (x, y) in points {
            let _written = write!(self.0, "{x:.1},{y:.1} ");
        }
        self.0 += "\"/>\n";
    }

    fn end(mut self) -> String {
        self.0 += "</svg>\n";
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_has_axes_and_a_curve_that_never_falls() {
        let picture = svg("a <title> & more", 25_000, |quantile| 2.0 + 90.0 * quantile);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(picture.contains("a &lt;title> &amp; more"));
        for label in [
            ">0<", ">90<", ">99<", ">99.9<", ">99.99<", ">ms<", ">100<", ">50<",
        ] {
            assert!(picture.contains(label), "{label}: {picture}");
        }
        assert!(!picture.contains("99.999"));
        let (_, points) = picture.split_once("points=\"").unwrap();
        let points: Vec<(f64, f64)> = points
            .split_once('"')
            .unwrap()
            .0
            .split_whitespace()
            .map(|pair| pair.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 201);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1));
        let inside = |(x, y): &(f64, f64)| (LEFT..=RIGHT).contains(x) && (TOP..=BOTTOM).contains(y);
        assert!(points.iter().all(inside));
    }

    #[test]
    fn steps_are_round_at_every_size() {
        for (least, step) in [
            (0.013, 0.02),
            (0.9, 1.0),
            (1.0, 1.0),
            (3.0, 5.0),
            (70.0, 100.0),
        ] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
        assert!(svg("none", 0, |_| 0.0).contains("polyline"));
    }
}
