//! Importance as SVG: a heat map of heads over layers, and errors over what is kept. Grey on nothing, for light and dark pages.

use super::overview::{Overview, Width};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::BTreeMap;

const GREY: RGBColor = RGBColor(128, 128, 128);
const BLUE: RGBColor = RGBColor(66, 133, 217);
/// Height of a heat map's row, in pixels.
const ROW: i32 = 22;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Everything below each other; `unit` says what the heads' numbers are.
pub fn importance(overview: &Overview, unit: &str) -> anyhow::Result<String> {
    let heat = 44 + ROW * overview.heads.len() as i32;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (760, heat as u32 + 640)).into_drawing_area();
        let (above, below) = root.split_vertically(heat);
        heat_map(&above, overview, unit)?;
        let (ffn, backbone): (Vec<&Width>, Vec<&Width>) = overview.widths.iter().partition(|width| !width.name.starts_with("backbone."));
        let (middle, last) = below.split_vertically(320);
        curves(&middle, "error over the share of FFN neurons kept", &ffn, |name| name.trim_end_matches(".ffn").into())?;
        curves(&last, "error over the share of channels kept", &backbone, |name| name.split('.').nth(1).unwrap_or(name).into())?;
        root.present()?;
    }
    Ok(svg)
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&GREY)
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
            area.draw(&Rectangle::new([(x, y), (x + width - 2, y + ROW - 2)], BLUE.mix(0.05 + 0.9 * shade).filled()))?;
            area.draw(&Text::new(format!("{:.2}%", 100.0 * value), (x + 4, y + 4), text(11)))?;
        }
    }
    Ok(())
}

/// A line for each structure; those of one group have a colour.
fn curves(area: &Area, title: &str, widths: &[&Width], group: impl Fn(&str) -> String) -> anyhow::Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(16))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
    let percent = |x: &f64| format!("{:.0}%", 100.0 * x);
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(GREY).bold_line_style(GREY.mix(0.3)).light_line_style(TRANSPARENT).label_style(text(12));
    mesh.x_label_formatter(&percent).y_label_formatter(&percent).draw()?;
    let mut groups = BTreeMap::new();
    for width in widths {
        let (name, count) = (group(&width.name), groups.len());
        let is_new = !groups.contains_key(&name);
        let colour = Palette99::pick(*groups.entry(name.clone()).or_insert(count)).to_rgba();
        let kept = |gone: usize| 1.0 - gone as f64 / width.units.max(1) as f64;
        let points = std::iter::once((1.0, 0.0)).chain(width.errors.iter().enumerate().map(|(i, &error)| (kept(i + 1), error)));
        let drawn = chart.draw_series(LineSeries::new(points.take_while(|(_, error)| *error <= 1.0), colour.stroke_width(2)))?;
        if is_new {
            drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
    }
    if !groups.is_empty() {
        chart.configure_series_labels().label_font(text(12)).background_style(TRANSPARENT).border_style(GREY.mix(0.5)).draw()?;
    }
    Ok(())
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
