//! Plots for reports, as SVG.

use super::metrics::LEVELS;
use plotters::prelude::*;

/// Precision over recall at several thresholds of intersection over union, each a line `(name, precision at the 101 levels)`.
pub fn precision_recall(title: &str, lines: &[(String, [f64; LEVELS])]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (640, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        chart.configure_mesh().x_desc("recall").y_desc("precision (mean over classes)").draw()?;
        for (i, (name, precision)) in lines.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let points = precision.iter().enumerate().map(|(level, &p)| (level as f64 / (LEVELS - 1) as f64, p));
            let line = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        root.present()?;
    }
    Ok(svg)
}
