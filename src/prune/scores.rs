//! Scores of units that must be gathered on pictures: attention's confidence, and Taylor's gradients.

use super::confidence::confidence;
use super::difference::Answer;
use super::importance::Importance;
use super::inputs::Inputs;
use super::obs::Removal;
use super::taylor::taylor;
use crate::config::Config;
use crate::error::Result;
use crate::weights::Weights;
use std::collections::BTreeMap;

/// Scores of each structure's units, by its name.
pub type Scores = BTreeMap<String, Vec<f64>>;

/// Scores by the names of structures, for a method that needs them.
pub fn scores(method: Importance, config: &Config, weights: &Weights, inputs: &Inputs) -> Result<Scores> {
    match method {
        Importance::Attention => confidence(config, weights, inputs),
        Importance::Taylor => taylor(config, weights, inputs),
        Importance::Obs | Importance::Magnitude | Importance::Random => Ok(Scores::new()),
    }
}

/// Queries, the least used first; the error is the share of all squared scores that is gone with them.
pub fn of_queries(seen: &[Answer]) -> Vec<Removal> {
    let count = seen.first().map_or(0, Answer::queries);
    let used: Vec<f64> = (0..count).map(|query| seen.iter().map(|seen| f64::from(seen.best(query)).powi(2)).sum()).collect();
    super::importance::ascending(&used)
}
