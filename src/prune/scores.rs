//! Scores of units that must be gathered on pictures: attention's confidence, and Taylor's gradients.

use super::confidence::confidence;
use super::importance::Importance;
use super::inputs::Inputs;
use super::taylor::{self, taylor};
use crate::config::Architecture;
use crate::error::Result;
use crate::progress::Progress;
use crate::weights::Weights;
use std::collections::BTreeMap;

/// Scores of each structure's units, by its name.
pub type Scores = BTreeMap<String, Vec<f64>>;

/// Scores by the names of structures, for a method that needs them.
pub fn scores(method: Importance, config: &Architecture, weights: &Weights, inputs: &Inputs, progress: &dyn Progress) -> Result<Scores> {
    let done = || progress.step();
    match method {
        Importance::Attention => {
            progress.begin("looking at attention", inputs.len());
            confidence(config, weights, inputs, &done)
        }
        Importance::Taylor => {
            progress.begin("following gradients", inputs.len().min(taylor::PICTURES));
            taylor(config, weights, inputs, &done)
        }
        Importance::Obs | Importance::Magnitude | Importance::Random => Ok(Scores::new()),
    }
}
