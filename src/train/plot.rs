//! A run's progress as SVG: the loss above, average precision below. Grey on nothing, to be read on light and dark pages.

use super::log::Row;
use plotters::prelude::*;

const GREY: RGBColor = RGBColor(128, 128, 128);
const BLUE: RGBColor = RGBColor(66, 133, 217);
const ORANGE: RGBColor = RGBColor(224, 123, 57);
/// How much of the smoothed loss a row keeps.
const SMOOTH: f64 = 0.95;

type Line = Vec<(f64, f64)>;

/// Loss and AP over the steps.
pub fn progress(rows: &[Row]) -> anyhow::Result<String> {
    let loss = pick(rows, |row| row.loss.map(f64::from));
    let smooth = smoothed(&loss);
    let (ap, ap50) = (pick(rows, |row| row.ap), pick(rows, |row| row.ap50));
    let end = rows.iter().map(|row| row.step).max().unwrap_or(0).max(1) as f64;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (720, 560)).into_drawing_area();
        let (above, below) = root.split_vertically(300);
        panel(&above, "loss", end, &[("each row", &loss, BLUE.mix(0.3)), ("smoothed", &smooth, BLUE.to_rgba())])?;
        panel(&below, "average precision", end, &[("AP", &ap, BLUE.to_rgba()), ("AP50", &ap50, ORANGE.to_rgba())])?;
        root.present()?;
    }
    Ok(svg)
}

fn pick(rows: &[Row], value: impl Fn(&Row) -> Option<f64>) -> Line {
    rows.iter().filter_map(|row| Some((row.step as f64, value(row).filter(|y| y.is_finite())?))).collect()
}

/// A running mean that begins with as few rows as there are.
fn smoothed(line: &[(f64, f64)]) -> Line {
    let (mut sum, mut weight) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        (sum, weight) = (SMOOTH * sum + y, SMOOTH * weight + 1.0);
        (x, sum / weight)
    };
    line.iter().map(next).collect()
}

fn panel(area: &DrawingArea<SVGBackend, plotters::coord::Shift>, title: &str, end: f64, lines: &[(&str, &Line, RGBAColor)]) -> anyhow::Result<()> {
    // From the lines' own extent: a loss that levels off would be flat from 0.
    let values = || lines.iter().flat_map(|(_, line, _)| line.iter().map(|&(_, y)| y));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let room = ((high - low) * 0.05).max(1e-3);
    let text = |size: u32| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(16))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end, low - room..high + room)?;
    chart
        .configure_mesh()
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for &(name, line, colour) in lines {
        // A line of one point is none to be seen.
        chart.draw_series(line.iter().take(if line.len() == 1 { 1 } else { 0 }).map(|&point| Circle::new(point, 3, colour.filled())))?;
        let drawn = chart.draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().label_font(text(12)).background_style(TRANSPARENT).border_style(GREY.mix(0.5)).draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_there_is_on_a_transparent_ground() {
        let row = |step: u64| Row { step, loss: Some(10.0 / (step + 1) as f32), ap: step.is_multiple_of(5).then_some(0.01), ..Row::default() };
        let full: Vec<Row> = (0..20).map(row).collect();
        let svg = progress(&full).unwrap();
        assert!(svg.contains("smoothed") && svg.contains("AP50") && svg.contains("#4285D9"), "{svg}");
        assert!(!svg.contains("fill=\"#FFFFFF\"") && !svg.contains("#000000"), "{svg}");
        let lost = Row { step: 3, loss: Some(f32::NAN), ..Row::default() };
        for rows in [&[][..], &full[..1], &[lost]] {
            assert!(progress(rows).unwrap().contains("</svg>"));
        }
    }

    #[test]
    fn smoothing_keeps_what_is_constant_and_dampens_what_isnt() {
        let line: Line = (0..50).map(|x| (f64::from(x), 2.0)).collect();
        assert!(smoothed(&line).iter().all(|&(_, y)| (y - 2.0).abs() < 1e-9));
        let jump = smoothed(&[(0.0, 0.0), (1.0, 1.0)]);
        assert!(jump[1].1 > 0.5 && jump[1].1 < 0.52, "{jump:?}");
    }
}
