//! What the recipes achieve on one detector, beside what is claimed for them: costs, time, accuracy, and how methods compare.
//!
//! `make.rs` trims, `measure.rs` measures, `show.rs` and `plot.rs` write it down. What is there from an earlier run is used again.

mod browsers;
mod claims;
pub mod make;
pub mod measure;
mod plot;
pub mod show;

pub use browsers::{Browser, Browsers, Time, Turns};
pub use claims::{Claim, Verdict, verdicts};
pub use plot::curves as plot_curves;

use super::importance::Importance;
use crate::eval::coco::bootstrap::Intervals;
use crate::eval::pace::Pace;
use serde::Serialize;

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub parent: String,
    /// Of the parent's file.
    pub parent_sha256: String,
    /// Calibration pictures, and what stands for them.
    pub pictures: usize,
    pub calibration: String,
    /// Other pictures, on which outputs are compared.
    pub held_out: usize,
    /// Labelled pictures, where there are any.
    pub annotated: Option<usize>,
    /// What was measured in a browser.
    pub browsers: Option<Browsers>,
    /// The first is the parent's.
    pub rows: Vec<Row>,
    /// What other methods make of the recipes.
    pub methods: Vec<Compared>,
    pub curves: Vec<Curve>,
    /// What could not be made or measured, a sentence each.
    pub problems: Vec<String>,
}

/// One network of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub costs: Costs,
    pub pace: Option<Pace>,
    /// As it was cut, and nothing else. For the parent: as it is.
    pub unrepaired: Option<Quality>,
    pub repaired: Option<Quality>,
    /// Fine-tuned elsewhere.
    pub healed: Option<Quality>,
    pub browser: Option<Browser>,
    pub claim: Option<Claim>,
    pub verdicts: Vec<Verdict>,
}

/// What a network costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Height and width of its input for a typical photo.
    pub size: [usize; 2],
    pub parameters: usize,
    /// Multiply-accumulates of one picture at that size.
    pub macs: u64,
    /// Of the file, as f16 and as int8.
    pub f16_bytes: usize,
    pub int8_bytes: usize,
}

/// How good a network is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Relative to the report's folder, or as it was given.
    pub file: String,
    /// In 0..1.
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
    /// The middle 95% of how much more AP it has than the parent, by the paired bootstrap.
    pub against_parent: Option<Intervals>,
    /// Difference of its outputs from the parent's on the held-out pictures (0: none, 1: as if nothing were found).
    pub difference: Option<f64>,
}

/// A recipe as a method carries it out: the parts that go by number are chosen by it, and layers as it orders them.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub recipe: String,
    pub importance: Importance,
    pub unrepaired: Quality,
    pub repaired: Quality,
}

/// Networks that a method makes for smaller and smaller budgets.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub importance: Importance,
    pub repair: bool,
    pub points: Vec<Point>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// What was asked for.
    pub limit: String,
    /// As a share of the parent's.
    pub macs: f64,
    pub parameters: f64,
    pub quality: Quality,
}
