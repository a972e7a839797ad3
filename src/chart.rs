//! Line charts as SVG: grey on nothing, to be read on light and dark pages.

use plotters::coord::Shift;
use plotters::prelude::*;
use std::ops::Range;

pub use plotters::prelude::SeriesLabelPosition as Place;

pub const GREY: RGBColor = RGBColor(128, 128, 128);
pub const BLUE: RGBColor = RGBColor(66, 133, 217);
/// Told apart on white and on black.
const COLOURS: [RGBColor; 12] = [
    BLUE,
    RGBColor(224, 123, 57),
    RGBColor(46, 160, 103),
    RGBColor(170, 102, 204),
    RGBColor(214, 72, 106),
    RGBColor(36, 168, 180),
    RGBColor(150, 150, 50),
    RGBColor(160, 110, 80),
    RGBColor(110, 120, 190),
    RGBColor(200, 90, 170),
    RGBColor(120, 175, 60),
    RGBColor(200, 155, 30),
];

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What `draw` draws on an area of `size` (width and height in pixels).
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&root)?;
        root.present()?;
    }
    Ok(svg)
}

/// The colour of the n-th thing.
pub fn colour(n: usize) -> RGBAColor {
    faint(n, 1.0)
}

/// As much of that colour, in 0..1.
pub fn faint(n: usize, share: f64) -> RGBAColor {
    COLOURS[n % COLOURS.len()].mix(share)
}

/// The place of a thing among all things seen, from 0, and whether it is seen for the first time.
pub fn nth<T: PartialEq>(seen: &mut Vec<T>, thing: T) -> (usize, bool) {
    match seen.iter().position(|other| *other == thing) {
        Some(index) => (index, false),
        None => {
            seen.push(thing);
            (seen.len() - 1, true)
        }
    }
}

pub fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&GREY)
}

/// A line of a chart, `[x, y]` by its points.
pub struct Line {
    /// In the legend; none where another line stands for this one.
    pub name: Option<String>,
    pub points: Vec<(f64, f64)>,
    pub colour: RGBAColor,
    /// In pixels.
    pub width: u32,
    /// Whether the points are marked. A single point always is: a line of one can't be seen.
    pub marked: bool,
}

impl Line {
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>, colour: RGBAColor) -> Self {
        Self { name: Some(name.into()), points, colour, width: 2, marked: false }
    }
}

/// What is around the lines.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: Axis<'a>,
    pub y: Axis<'a>,
    /// Where the legend hides least.
    pub legend: Place,
}

pub struct Axis<'a> {
    /// Nothing where the title says it.
    pub title: &'a str,
    pub range: Range<f64>,
    pub format: fn(&f64) -> String,
}

impl Chart<'_> {
    pub fn draw(self, area: &Area, lines: &[Line]) -> anyhow::Result<()> {
        let room = |axis: &Axis| if axis.title.is_empty() { 0 } else { 16 };
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, text(16))
            .margin(12)
            .x_label_area_size(28 + room(&self.x))
            .y_label_area_size(44 + room(&self.y))
            .build_cartesian_2d(self.x.range, self.y.range)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(GREY).bold_line_style(GREY.mix(0.3)).light_line_style(TRANSPARENT).label_style(text(12));
        mesh.x_desc(self.x.title).y_desc(self.y.title).axis_desc_style(text(13));
        mesh.x_label_formatter(&self.x.format).y_label_formatter(&self.y.format).draw()?;
        let mut is_named = false;
        for line in lines {
            let style = line.colour.stroke_width(line.width);
            let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            if let Some(name) = &line.name {
                drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
                is_named = true;
            }
            let marks = line.points.iter().filter(|_| line.marked || line.points.len() == 1);
            chart.draw_series(marks.map(|&point| Circle::new(point, 3, line.colour.filled())))?;
        }
        // A legend without entries can't be drawn.
        if is_named {
            let mut legend = chart.configure_series_labels();
            legend.position(self.legend).label_font(text(12)).background_style(TRANSPARENT).border_style(GREY.mix(0.5)).draw()?;
        }
        Ok(())
    }
}

/// With up to three digits after the point.
pub fn short(x: &f64) -> String {
    format!("{}", (x * 1e3).round() / 1e3)
}

/// Shares as per cent.
pub fn percent(x: &f64) -> String {
    format!("{:.0}%", 100.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: &[Line]) -> String {
        let axis = || Axis { title: "share", range: 0.0..1.0, format: percent };
        let chart = Chart { title: "lines", x: axis(), y: axis(), legend: Place::LowerRight };
        svg((300, 200), |area| chart.draw(area, lines)).unwrap()
    }

    #[test]
    fn is_grey_on_a_transparent_ground() {
        let line = Line::new("first", vec![(0.0, 0.0), (1.0, 1.0)], colour(0));
        let unnamed = Line { name: None, marked: true, ..Line::new("", vec![(0.0, 1.0), (1.0, 0.5)], colour(1)) };
        let svg = chart(&[line, unnamed]);
        assert!(!svg.contains("fill=\"#FFFFFF\"") && !svg.contains("#000000"), "{svg}");
        assert!(svg.contains("#4285D9") && svg.contains("\nfirst\n") && svg.contains("50%"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
    }

    #[test]
    fn nothing_and_single_points_can_be_drawn() {
        assert!(chart(&[]).contains("</svg>"));
        let point = Line::new("once", vec![(0.5, 0.5)], colour(COLOURS.len()));
        assert_eq!(chart(&[point]).matches("<circle").count(), 1);
        assert!(chart(&[Line::new("never", vec![], colour(0))]).contains("never"));
    }
}
