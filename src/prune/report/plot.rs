//! The report's plot: accuracy over multiply-accumulates, a line for each method.

use super::{Curve, Point};
use crate::error::{Error, Result};
use plotters::prelude::*;

/// AP where it was measured, else the difference of the outputs, over the parent's share of multiply-accumulates; none where there is no point.
/// `parent_ap` is in 0..1. What was repaired is drawn thick.
pub fn curves(curves: &[Curve], parent_ap: Option<f64>) -> Result<Option<String>> {
    let value = |point: &Point| if parent_ap.is_some() { point.quality.ap.map(|ap| 100.0 * ap) } else { point.quality.difference };
    let start = (100.0, parent_ap.map_or(0.0, |ap| 100.0 * ap));
    let lines = curves.iter().map(|curve| {
        let mut points: Vec<(f64, f64)> = curve.points.iter().filter_map(|point| Some((100.0 * point.macs, value(point)?))).collect();
        points.push(start);
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        (curve, points)
    });
    let lines: Vec<_> = lines.filter(|(_, points)| points.len() > 1).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let all = || lines.iter().flat_map(|(_, points)| points);
    let left = all().map(|point| point.0).fold(100.0, f64::min);
    let top = all().map(|point| point.1).fold(0.0, f64::max);
    let what = if parent_ap.is_some() { "AP" } else { "difference of the outputs" };
    let svg = draw(&lines, (left - 2.0)..101.0, 0.0..(1.08 * top).max(1e-3), what);
    svg.map(Some).map_err(|error| Error::Config(format!("the plot can't be drawn: {error}")))
}

type Line<'a> = (&'a Curve, Vec<(f64, f64)>);

fn draw(lines: &[Line], across: std::ops::Range<f64>, up: std::ops::Range<f64>, what: &str) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (720, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("{what} over multiply-accumulates"), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(across, up)?;
        chart.configure_mesh().x_desc("multiply-accumulates, % of the parent's").y_desc(what).draw()?;
        let mut methods: Vec<_> = Vec::new();
        for (curve, points) in lines {
            let index = methods.iter().position(|method| *method == curve.importance).unwrap_or_else(|| {
                methods.push(curve.importance);
                methods.len() - 1
            });
            let colour = Palette99::pick(index).mix(if curve.repair { 1.0 } else { 0.5 });
            let style = colour.stroke_width(if curve.repair { 3 } else { 1 });
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?;
            line.label(curve.name()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        root.present()?;
    }
    Ok(svg)
}
