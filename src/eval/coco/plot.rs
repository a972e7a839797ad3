//! Plots for reports, as SVG.

use super::metrics::LEVELS;
use crate::chart::{Axis, Chart, Line, Place, colour, svg};

/// Precision over recall at several thresholds of intersection over union, each a line `(name, precision at the 101 levels)`.
pub fn precision_recall(title: &str, lines: &[(String, [f64; LEVELS])]) -> anyhow::Result<String> {
    let lines = lines.iter().enumerate().map(|(i, (name, precision))| {
        let points = precision.iter().enumerate().map(|(level, &p)| (level as f64 / (LEVELS - 1) as f64, p));
        Line::new(name, points.collect(), colour(i))
    });
    let axis = |title| Axis { title, range: 0.0..1.0, format: |x| format!("{x:.1}") };
    let chart = Chart { title, x: axis("recall"), y: axis("precision (mean over classes)"), legend: Place::UpperRight };
    svg((640, 480), |area| chart.draw(area, &lines.collect::<Vec<_>>()))
}
