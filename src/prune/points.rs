//! How much each sampling point of a deformable attention is used: the weight that queries give it, on average over those that count. No layer
//! reads a point alone, so that no least-squares problem says what it is worth; what its absence does is measured afterwards, as of all else.

use super::calibrate::{Relevance, observed};
use super::inputs::Inputs;
use super::keep::numbers;
use super::scores::Scores;
use crate::backend::Deformable;
use crate::config::Architecture;
use crate::error::Result;
use crate::watch::Observe;
use crate::weights::Weights;
use candle_core::Tensor;

/// Sums of weights by decoder layer, level and point.
type Sums = Vec<Vec<Vec<f64>>>;

struct Usage<'a> {
    relevance: &'a Relevance,
    picture: usize,
    /// Decoder layers of this picture that have looked.
    layer: usize,
    sums: Sums,
}

impl Observe<Tensor> for Usage<'_> {
    fn deformable(&mut self, _: &Tensor, weights: &Tensor, _: &Tensor, deformable: &Deformable) -> Result<()> {
        let (all, logits) = (deformable.all_points(), numbers(weights)?);
        if self.sums.len() == self.layer {
            self.sums.push(deformable.points.iter().map(|&points| vec![0.0; points]).collect());
        }
        let sums = &mut self.sums[self.layer];
        let row = deformable.heads * all;
        let relevance = self.relevance.rows("decoder.", self.picture, logits.len() / row, None);
        for (query, logits) in logits.chunks_exact(row).enumerate() {
            let counts = relevance.as_ref().map_or(1.0, |weights| f64::from(weights[query]));
            for head in logits.chunks_exact(all) {
                let most = head.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let waves: Vec<f64> = head.iter().map(|x| f64::from(x - most).exp()).collect();
                let sum: f64 = waves.iter().sum();
                let points = sums.iter_mut().flatten();
                points.zip(waves).for_each(|(point, wave)| *point += counts * wave / sum);
            }
        }
        self.layer += 1;
        Ok(())
    }
}

/// Each point's share of all weight, by the names of structures as `decoder.0.cross_attention.points.1`.
pub fn usage(config: &Architecture, weights: &Weights, inputs: &Inputs, relevance: &Relevance) -> Result<Scores> {
    let start = || Ok(Usage { relevance, picture: 0, layer: 0, sums: vec![] });
    let mut all: Sums = vec![];
    let take = |usage: Usage| {
        if all.is_empty() {
            all = usage.sums;
        } else {
            let (to, from) = (all.iter_mut().flatten().flatten(), usage.sums.iter().flatten().flatten());
            to.zip(from).for_each(|(sum, part)| *sum += part);
        }
    };
    observed(config, weights, inputs, start, |usage, picture| (usage.picture, usage.layer) = (picture, 0), take, &|| {})?;
    let mut scores = Scores::new();
    for (layer, levels) in all.into_iter().enumerate() {
        let whole = levels.iter().flatten().sum::<f64>().max(f64::MIN_POSITIVE);
        for (level, points) in levels.into_iter().enumerate() {
            scores.insert(format!("decoder.{layer}.cross_attention.points.{level}"), points.into_iter().map(|sum| sum / whole).collect());
        }
    }
    Ok(scores)
}
