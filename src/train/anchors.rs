//! A trimmed detector gets back what its parent had while it was trained: positions that are made of the queries' boxes, denoising, and
//! heads on the encoder's tokens (`network.rs`). None of it is a part of the detector that was trimmed, and all of it still fits what is left.

use super::network::{extras, finished, is_anchored};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// How far, in parts of their root mean square, positions may be from those that the boxes make: what f16 and int8 files lose.
const ROUNDING: f32 = 0.02;

/// A detector's weights with training's own from the state of the run that it, or what it was trimmed from, came of.
pub fn anchored(config: &Config, weights: &Weights, state: &Weights) -> Result<Weights> {
    if !is_anchored(state) {
        return Err(Error::Config("the run has no anchored queries, which there would be something to take over of".into()));
    }
    if !config.query_content || !config.box_reference {
        return Err(Error::Config("anchored queries need query contents and box references, which the model lacks".into()));
    }
    let mut all = weights.clone();
    for entry in extras(config) {
        all.insert(&entry.name, state.get(&entry.name, &entry.shape)?.clone());
    }
    let shape = [config.queries, config.d_model];
    let [theirs, ours] =
        [&finished(config, &all)?, weights].map(|weights| Ok::<_, Error>(weights.get("query_position", &shape)?.to_f32().into_owned()));
    let (theirs, ours) = (theirs?, ours?);
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = theirs.iter().zip(&ours).map(|(theirs, ours)| square(theirs - ours)).sum();
    let whole: f64 = ours.iter().map(|&x| square(x)).sum();
    // What is no number is refused, too.
    let off = apart.sqrt() / whole.sqrt();
    if off.is_nan() || off > f64::from(ROUNDING) {
        return Err(Error::Config("the run makes other positions of the queries' boxes than the model has: the model isn't of this run".into()));
    }
    Ok(all)
}
