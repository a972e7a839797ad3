//! The report's plot: accuracy over multiply-accumulates, a line for each method.

use super::{Curve, Point};
use crate::chart::{Axis, Chart, Line, Place, faint, nth, short, svg};
use crate::error::{Error, Result};

/// AP where it was measured, else the difference of the outputs, over the parent's share of multiply-accumulates; none where there is no point.
/// `parent_ap` is in 0..1. What was repaired is drawn thick.
pub fn curves(curves: &[Curve], parent_ap: Option<f64>) -> Result<Option<String>> {
    let value = |point: &Point| if parent_ap.is_some() { point.quality.ap.map(|ap| 100.0 * ap) } else { point.quality.difference };
    let start = (100.0, parent_ap.map_or(0.0, |ap| 100.0 * ap));
    let mut methods = Vec::new();
    let mut lines = Vec::new();
    for curve in curves {
        let mut points: Vec<(f64, f64)> = curve.points.iter().filter_map(|point| Some((100.0 * point.macs, value(point)?))).collect();
        if points.is_empty() {
            continue;
        }
        points.push(start);
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (method, _) = nth(&mut methods, curve.importance);
        let (strength, width) = if curve.repair { (1.0, 3) } else { (0.6, 1) };
        lines.push(Line { width, marked: true, ..Line::new(curve.name(), points, faint(method, strength)) });
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let left = all().map(|point| point.0).fold(100.0, f64::min);
    let top = all().map(|point| point.1).fold(0.0, f64::max);
    // The more there is to compute, the higher AP is, and the lower the difference.
    let (what, legend) = if parent_ap.is_some() { ("AP", Place::LowerRight) } else { ("difference of the outputs", Place::UpperRight) };
    let chart = Chart {
        title: &format!("{what} over multiply-accumulates"),
        x: Axis { title: "multiply-accumulates, % of the parent's", range: (left - 2.0)..101.0, format: |x| format!("{x:.0}") },
        y: Axis { title: what, range: 0.0..(1.08 * top).max(1e-3), format: short },
        legend,
    };
    svg((720, 480), |area| chart.draw(area, &lines)).map(Some).map_err(|error| Error::Config(format!("the plot can't be drawn: {error}")))
}
