//! A run's progress as SVG: the loss above, average precision below. Grey on nothing, to be read on light and dark pages.

use super::log::Row;
use crate::chart::{Area, Axis, Chart, Line, Place, colour, faint, short, svg};

/// How much of the smoothed loss a row keeps.
const SMOOTH: f64 = 0.95;

type Points = Vec<(f64, f64)>;

/// Loss and AP over the steps.
pub fn progress(rows: &[Row]) -> anyhow::Result<String> {
    let loss = pick(rows, |row| row.loss.map(f64::from));
    let smooth = smoothed(&loss);
    let (ap, ap50) = (pick(rows, |row| row.ap), pick(rows, |row| row.ap50));
    let end = rows.iter().map(|row| row.step).max().unwrap_or(0).max(1) as f64;
    svg((720, 560), |area| {
        let (above, below) = area.split_vertically(300);
        let loss = [Line::new("each row", loss, faint(0, 0.3)), Line::new("smoothed", smooth, colour(0))];
        panel(&above, "loss", end, &loss, Place::UpperRight)?;
        panel(&below, "average precision", end, &[Line::new("AP", ap, colour(0)), Line::new("AP50", ap50, colour(1))], Place::LowerRight)
    })
}

fn pick(rows: &[Row], value: impl Fn(&Row) -> Option<f64>) -> Points {
    rows.iter().filter_map(|row| Some((row.step as f64, value(row).filter(|y| y.is_finite())?))).collect()
}

/// A running mean that begins with as few rows as there are.
fn smoothed(line: &[(f64, f64)]) -> Points {
    let (mut sum, mut weight) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        (sum, weight) = (SMOOTH * sum + y, SMOOTH * weight + 1.0);
        (x, sum / weight)
    };
    line.iter().map(next).collect()
}

fn panel(area: &Area, title: &str, end: f64, lines: &[Line], legend: Place) -> anyhow::Result<()> {
    // From the lines' own extent: a loss that levels off would be flat from 0.
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|&(_, y)| y));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let room = ((high - low) * 0.05).max(1e-3);
    let x = Axis { title: "", range: 0.0..end, format: |x| format!("{x:.0}") };
    let y = Axis { title: "", range: low - room..high + room, format: short };
    Chart { title, x, y, legend }.draw(area, lines)
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
        let line: Points = (0..50).map(|x| (f64::from(x), 2.0)).collect();
        assert!(smoothed(&line).iter().all(|&(_, y)| (y - 2.0).abs() < 1e-9));
        let jump = smoothed(&[(0.0, 0.0), (1.0, 1.0)]);
        assert!(jump[1].1 > 0.5 && jump[1].1 < 0.52, "{jump:?}");
    }
}
