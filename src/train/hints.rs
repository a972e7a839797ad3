//! What takes a student's tokens to a teacher's width, so that networks of other widths can be hints too.
//!
//! A linear map that is learnt beside the student and left out of the model, as the regressor of "FitNets" (Romero et al. 2015,
//! arXiv:1412.6550, section 2.2): from the student to the teacher, so that what the student knows is enough for the teacher's tokens.
//!
//! | name | shape |
//! |---|---|
//! | `training.hint.memory.weight`, `.bias` | `[teacher's d_model, d_model]`, `[teacher's d_model]` |

use super::run::State;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};
use fastrand::Rng;

/// The map of the encoder's tokens.
pub(super) const MEMORY: &str = "training.hint.memory";

fn names() -> [String; 2] {
    ["weight", "bias"].map(|part| format!("{MEMORY}.{part}"))
}

/// The teacher's width, where weights have a map to it.
pub fn width(weights: &Weights) -> Option<usize> {
    let [weight, bias] = names().map(|name| weights.tensors.get(&name));
    weight.or(bias)?.shape.first().copied()
}

/// Refuses weights with half a map, or one from another width.
pub(super) fn check(config: &Config, weights: &Weights) -> Result<()> {
    let [weight, bias] = names();
    let Some(width) = width(weights) else {
        return match weights.tensors.keys().find(|name| **name == weight || **name == bias) {
            Some(name) => Err(Error::Config(format!("tensor {name} has no size"))),
            None => Ok(()),
        };
    };
    weights.get(&weight, &[width, config.d_model])?;
    weights.get(&bias, &[width]).map(drop)
}

/// Gives a run the map to a teacher of this width, or none; whether it begins. (By Glorot's rule, as other maps do.) One to the same width
/// goes on.
pub fn set(config: &Config, state: &mut State, teacher: Option<usize>, seed: u64) -> bool {
    if width(&state.weights) == teacher {
        return false;
    }
    let [weight, bias] = names();
    for name in [&weight, &bias] {
        state.weights.tensors.remove(name);
        state.moments.0.remove(name);
        state.average.values.remove(name);
    }
    let Some(width) = teacher else { return false };
    let mut rng = Rng::with_seed(seed ^ 0x6869_6e74);
    let most = (6.0 / (width + config.d_model) as f32).sqrt();
    let numbers = (0..width * config.d_model).map(|_| most * (2.0 * rng.f32() - 1.0)).collect();
    state.weights.insert(weight, HostTensor::f32(&[width, config.d_model], numbers));
    state.weights.insert(bias, HostTensor::f32(&[width], vec![0.0; width]));
    true
}
