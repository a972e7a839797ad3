//! Weights to begin with: a trained backbone under a transformer that knows nothing yet.

use super::network::extras;
use super::trained::Trained;
use crate::checkpoint::{Card, Checkpoint};
use crate::config::{ClassActivation, Config};
use crate::error::Result;
use crate::layout::{Role, layout};
use crate::weights::{HostTensor, Weights};
use fastrand::Rng;

/// The probability that a fresh network gives every class ("Focal Loss", Lin et al., 2017, section 4.1).
const PRIOR: f32 = 0.01;

/// Weights of `config` with training's own ([`extras`]); what begins with `backbone.` is taken from `backbone`.
///
/// Matrices by Glorot's rule (as DETR's transformer), biases zero, references spread evenly over the picture.
pub fn fresh(config: Config, backbone: &Weights, seed: u64) -> Result<Checkpoint> {
    config.check()?;
    let mut rng = Rng::with_seed(seed);
    let mut weights = Weights::default();
    let anchored = config.query_content && config.box_reference;
    for entry in layout(&config).into_iter().chain(anchored.then(|| extras(&config)).into_iter().flatten()) {
        if Trained::is_backbone(&entry.name) {
            weights.insert(&entry.name, backbone.get(&entry.name, &entry.shape)?.clone());
            continue;
        }
        let count: usize = entry.shape.iter().product();
        let width = |shape: &[usize]| (6.0 / shape.iter().sum::<usize>() as f32).sqrt();
        let mut uniform = |most: f32| (0..count).map(|_| most * (2.0 * rng.f32() - 1.0)).collect();
        let data = match (entry.role, &entry.name[..]) {
            // The heads begin by saying what they know without looking.
            (
                Role::Matrix | Role::Head | Role::Bias,
                "box_head.2.weight" | "box_head.2.bias" | "training.dense.box.2.weight" | "training.dense.box.2.bias",
            ) => {
                vec![0.0; count]
            }
            (Role::Bias, "class_head.bias" | "training.dense.class.bias") if config.class_activation == ClassActivation::Sigmoid => {
                vec![-((1.0 - PRIOR) / PRIOR).ln(); count]
            }
            (Role::Matrix | Role::Head | Role::Depthwise, _) => uniform(width(&entry.shape)),
            (Role::Bias | Role::NormShift, _) => vec![0.0; count],
            (Role::NormScale, _) => vec![1.0; count],
            (Role::Reference, _) => references(config.queries),
            // No DETR has any: a scale of one and a shift of zero.
            (Role::Affine, _) => vec![1.0, 0.0],
            (Role::Rows, _) => uniform(3f32.sqrt()),
        };
        weights.insert(entry.name, HostTensor::f32(&entry.shape, data));
    }
    Ok(Checkpoint { config, weights, card: Card::default(), guesses: Vec::new() })
}

/// Boxes of three sizes with centres spread over the picture by a low-discrepancy sequence (Roberts' R2), as logits.
fn references(queries: usize) -> Vec<f32> {
    let logit = |x: f32| (x / (1.0 - x)).ln();
    (0..queries)
        .flat_map(|i| {
            let along = |step: f64| 0.05 + 0.9 * (0.5 + step * i as f64).fract() as f32;
            let size = [0.15, 0.35, 0.65][i % 3];
            [along(0.754_877_666_246_693), along(0.569_840_290_998_053), size, size].map(logit)
        })
        .collect()
}
