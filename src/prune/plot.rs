//! Importance as SVG: a heat map of heads over layers, and errors over what is kept. Grey on nothing, for light and dark pages.

use super::overview::{Overview, Width};
use crate::chart::{Area, Axis, BLUE, Chart, Line, Place, colour, nth, percent, svg, text};
use plotters::prelude::*;

/// Height of a heat map's row, in pixels.
const ROW: i32 = 22;
/// Width of the colour beside a number, which couldn't be read on every shade.
const SWATCH: i32 = 18;

/// Everything below each other; `unit` says what the heads' numbers are.
pub fn importance(overview: &Overview, unit: &str) -> anyhow::Result<String> {
    let heat = 44 + ROW * overview.heads.len() as i32;
    svg((760, heat as u32 + 640), |area| {
        let (above, below) = area.split_vertically(heat);
        heat_map(&above, overview, unit)?;
        let (ffn, backbone): (Vec<&Width>, Vec<&Width>) = overview.widths.iter().partition(|width| !width.name.starts_with("backbone."));
        let (middle, last) = below.split_vertically(320);
        curves(&middle, "error over the share of FFN neurons kept", &ffn, |name| name.trim_end_matches(".ffn").into(), Place::UpperMiddle)?;
        curves(&last, "error over the share of channels kept", &backbone, |name| name.split('.').nth(1).unwrap_or(name).into(), Place::UpperRight)
    })
}

fn heat_map(area: &Area, overview: &Overview, unit: &str) -> anyhow::Result<()> {
    area.draw(&Text::new(format!("attention heads: {unit}"), (12, 10), text(16)))?;
    let all = || overview.heads.iter().flat_map(|heads| heads.importance.iter().copied());
    let most = all().filter(|x| x.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let columns = overview.heads.iter().map(|heads| heads.importance.len()).max().unwrap_or(1).max(1) as i32;
    let (left, top) = (190, 36);
    let width = (760 - left - 16) / columns;
    for (row, heads) in overview.heads.iter().enumerate() {
        let y = top + ROW * row as i32;
        area.draw(&Text::new(heads.name.clone(), (12, y + 4), text(12)))?;
        for (column, &value) in heads.importance.iter().enumerate() {
            let x = left + width * column as i32;
            let shade = if value.is_finite() { (value / most).clamp(0.0, 1.0) } else { 1.0 };
            area.draw(&Rectangle::new([(x, y), (x + SWATCH, y + ROW - 2)], BLUE.mix(0.05 + 0.95 * shade).filled()))?;
            area.draw(&Text::new(format!("{:.2}%", 100.0 * value), (x + SWATCH + 4, y + 4), text(11)))?;
        }
    }
    Ok(())
}

/// A line for each structure; those of one group have a colour.
fn curves(area: &Area, title: &str, widths: &[&Width], group: impl Fn(&str) -> String, legend: Place) -> anyhow::Result<()> {
    let mut groups = Vec::new();
    let lines = widths.iter().map(|width| {
        let name = group(&width.name);
        let (index, is_new) = nth(&mut groups, name.clone());
        let kept = |gone: usize| 1.0 - gone as f64 / width.units.max(1) as f64;
        let points = std::iter::once((1.0, 0.0)).chain(width.errors.iter().enumerate().map(|(i, &error)| (kept(i + 1), error)));
        let line = Line::new(name, points.take_while(|(_, error)| *error <= 1.0).collect(), colour(index));
        Line { name: line.name.filter(|_| is_new), ..line }
    });
    let lines: Vec<Line> = lines.collect();
    let axis = || Axis { title: "", range: 0.0..1.0, format: percent };
    Chart { title, x: axis(), y: axis(), legend }.draw(area, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::overview::Heads;

    #[test]
    fn draws_heads_and_a_legend_for_each_stage() {
        let width = |name: &str| Width { name: name.into(), units: 4, errors: vec![0.1, 0.4, 1.5] };
        let heads = vec![Heads { name: "encoder.0.self_attention".into(), importance: vec![0.1234, f64::INFINITY] }];
        let widths = ["encoder.0.ffn", "backbone.stage1", "backbone.stage1.block0.inner1"].map(width).into();
        let svg = importance(&Overview { heads, widths, layers: vec![] }, "share").unwrap();
        assert!(svg.contains("12.34%") && svg.matches("\nstage1\n").count() == 1 && svg.contains("</svg>"), "{svg}");
        let empty = Overview { heads: vec![], widths: vec![], layers: vec![] };
        assert!(importance(&empty, "").unwrap().contains("</svg>"));
    }
}
