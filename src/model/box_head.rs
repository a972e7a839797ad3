//! How boxes are refined from layer to layer: RT-DETR's offsets before the sigmoid, or D-FINE's distributions of each edge's distance, with
//! the correction of class scores that goes by how sharp these are (`DFineIntegral`, `distance2bbox`, `DFineLQE` in transformers).

use super::load::Loader;
use super::mlp::Mlp;
use crate::backend::Backend;
use crate::config::{Activation, BoxHead as Config, Decoder};
use crate::error::Result;
use crate::weights::HostTensor;

/// The bounds that `inverse_sigmoid(x, eps=1e-5)` gives a logit.
const LOGIT_BOUND: f32 = 11.512_925;

pub enum BoxHead<B: Backend> {
    /// One for each layer.
    Offsets(Vec<Mlp<B>>),
    Distributions(Distributions<B>),
}

pub struct Distributions<B: Backend> {
    /// From the first layer's queries to the boxes that all layers refine.
    initial: Mlp<B>,
    /// One for each layer, or one for all.
    heads: Vec<Mlp<B>>,
    /// The quality heads, one for each layer.
    quality: Vec<Mlp<B>>,
    /// From four edges' probabilities `[4 * bins + 4]` to changes of centre and size, in sizes of the box.
    changes: B::Linear,
    /// From a box to its sizes, twice.
    sizes: B::Linear,
    /// Bins of each edge, both ends counted.
    bins: usize,
    top: usize,
}

/// Boxes on their way through the layers.
pub struct Refinement<T> {
    /// Before the sigmoid, `[batch, queries, 4]`.
    logits: T,
    /// Centre, width and height in fractions of the picture, `[batch, queries, 4]`.
    boxes: T,
    distribution: Option<Distribution<T>>,
}

/// What D-FINE's layers hand on.
struct Distribution<T> {
    /// The boxes that all layers refine, `[batch, queries, 4]`; no gradient goes back through them.
    initial: T,
    /// The same as the first layer predicts them, for their own loss.
    predicted: T,
    /// `initial`'s sizes, twice.
    sizes: T,
    /// Logits of each edge's bins, `[batch, queries, 4 * bins + 4]`, summed over the layers.
    corners: T,
    /// Their softmax, `[batch, queries * 4, bins + 1]`.
    probabilities: T,
    /// The queries after the layer.
    content: T,
}

/// Each edge's distance from the initial box as a distribution.
#[derive(Clone)]
pub struct EdgeDistributions<T> {
    /// Of the left, upper, right and lower edge's bins, before their softmax: `[batch, queries, 4 * bins + 4]`.
    pub logits: T,
    /// `[batch, queries, 4]`
    pub initial: T,
}

impl<T: Clone> Refinement<T> {
    /// From the selected tokens' boxes as logits.
    pub fn new<B: Backend<Tensor = T>>(backend: &B, logits: T) -> Result<Self> {
        Ok(Self { boxes: backend.activate(&logits, Activation::Sigmoid)?, logits, distribution: None })
    }

    pub fn boxes(&self) -> &T {
        &self.boxes
    }

    /// What the layers' box distributions are: their logits `[batch, queries, 4 * bins + 4]` and the boxes that they refine.
    pub fn distribution(&self) -> Option<EdgeDistributions<T>> {
        self.distribution.as_ref().map(|now| EdgeDistributions { logits: now.corners.clone(), initial: now.initial.clone() })
    }

    /// The boxes that the first layer predicts and all refine, where boxes are distributions.
    pub fn initial(&self) -> Option<&T> {
        self.distribution.as_ref().map(|now| &now.predicted)
    }

    /// What the next layer is given: as in the papers' training, no gradient goes back through boxes and queries, only through the sum of
    /// the distributions.
    pub fn detached<B: Backend<Tensor = T>>(self, backend: &B) -> Self {
        let distribution = self.distribution.map(|now| Distribution { content: backend.detach(&now.content), ..now });
        Self { logits: backend.detach(&self.logits), boxes: backend.detach(&self.boxes), distribution }
    }
}

impl<B: Backend> BoxHead<B> {
    /// `loader` is at the root.
    pub fn load(loader: &Loader<B>, decoder: &Decoder, d_model: usize) -> Result<Self> {
        let head = |name: String, output, activation| Mlp::load(&loader.part(&name), d_model, d_model, output, 3, activation);
        let Config::Distributions { bins, reg_scale, up, shared, activation, top, quality_hidden, quality_layers } = decoder.boxes else {
            let heads = (0..decoder.layers).map(|i| head(format!("box_head.{i}"), 4, Activation::Relu));
            return heads.collect::<Result<_>>().map(Self::Offsets);
        };
        let heads = match shared {
            true => vec![head("box_head".into(), 4 * (bins + 1), activation)?],
            false => (0..decoder.layers).map(|i| head(format!("box_head.{i}"), 4 * (bins + 1), activation)).collect::<Result<_>>()?,
        };
        let quality = (0..decoder.layers).map(|i| {
            // The mean of the top probabilities is folded into the first map (`checkpoint/foreign/rt_detr.rs`).
            Mlp::load(&loader.part(&format!("quality_head.{i}")), 4 * top, quality_hidden, 1, quality_layers, activation)
        });
        let sizes = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        Ok(Self::Distributions(Distributions {
            initial: head("initial_box".into(), 4, activation)?,
            heads,
            quality: quality.collect::<Result<_>>()?,
            changes: loader.fixed_linear("changes", &changes(bins, f64::from(reg_scale), f64::from(up)))?,
            sizes: loader.fixed_linear("sizes", &HostTensor::f32(&[4, 4], sizes.repeat(2)))?,
            bins: bins + 1,
            top,
        }))
    }

    /// The boxes after layer `i`, whose queries are `content` `[batch, queries, d_model]`.
    pub fn refine(&self, backend: &B, i: usize, content: &B::Tensor, before: Refinement<B::Tensor>) -> Result<Refinement<B::Tensor>> {
        let reference = |logits: &B::Tensor| backend.clamp(logits, -LOGIT_BOUND, LOGIT_BOUND);
        let head = match self {
            Self::Offsets(heads) => {
                let logits = heads[i].forward(backend, content, Some(&reference(&before.logits)?))?;
                return Refinement::new(backend, logits);
            }
            Self::Distributions(head) => head,
        };
        let mlp = &head.heads[if head.heads.len() == 1 { 0 } else { i }];
        let (predicted, initial, sizes, corners) = match before.distribution {
            None => {
                let logits = head.initial.forward(backend, content, Some(&reference(&before.logits)?))?;
                let predicted = backend.activate(&logits, Activation::Sigmoid)?;
                let initial = backend.detach(&predicted);
                let sizes = backend.linear(&initial, &head.sizes, Activation::None, None)?;
                (predicted, initial, sizes, mlp.forward(backend, content, None)?)
            }
            Some(last) => {
                let both = backend.add(content, &last.content, Activation::None)?;
                (last.predicted, last.initial, last.sizes, mlp.forward(backend, &both, Some(&last.corners))?)
            }
        };
        let shape = backend.shape(&corners);
        let (batch, queries) = (shape[0], shape[1]);
        let probabilities = backend.softmax(&backend.reshape(&corners, &[batch, queries * 4, head.bins])?)?;
        let changes = backend.linear(&backend.reshape(&probabilities, &shape)?, &head.changes, Activation::None, None)?;
        let boxes = backend.add(&backend.multiply(&changes, &sizes)?, &initial, Activation::None)?;
        let distribution = Distribution { predicted, initial, sizes, corners, probabilities, content: content.clone() };
        Ok(Refinement { logits: before.logits, boxes, distribution: Some(distribution) })
    }

    /// Class logits `[batch, queries, classes]` of layer `i`, corrected by how sharp its boxes' distributions are.
    pub fn score(&self, backend: &B, i: usize, logits: B::Tensor, refinement: &Refinement<B::Tensor>) -> Result<B::Tensor> {
        let (Self::Distributions(head), Some(distribution)) = (self, &refinement.distribution) else { return Ok(logits) };
        let top = backend.top_values(&distribution.probabilities, head.top)?;
        let shape = backend.shape(&logits);
        let top = backend.reshape(&top, &[shape[0], shape[1], 4 * head.top])?;
        let quality = head.quality[i].forward(backend, &top, None)?;
        backend.add(&logits, &quality, Activation::None)
    }
}

/// The distance that each of `bins + 1` bins stands for (transformers' `weighting_function`).
pub fn distances(bins: usize, reg_scale: f64, up: f64) -> Vec<f64> {
    let reach = (up * reg_scale).abs();
    let step = (reach + 1.0).powf(2.0 / (bins as f64 - 2.0));
    let inner = (1..bins as i32 / 2).map(|i| step.powi(i) - 1.0);
    let left = inner.clone().rev().map(|distance| -distance);
    std::iter::once(-2.0 * reach).chain(left).chain([0.0]).chain(inner).chain([2.0 * reach]).collect()
}

/// `[4, 4 * (bins + 1)]`: from the probabilities of the left, upper, right and lower edge to the changes of centre x, centre y, width and
/// height, in widths and heights of the box (`distance2bbox` after `Integral`).
fn changes(bins: usize, reg_scale: f64, up: f64) -> HostTensor {
    let distances = distances(bins, reg_scale, up);
    let scale = reg_scale.abs();
    let (half, whole) = (0.5 / scale, 1.0 / scale);
    // What an edge's distance does to each of the four.
    let edges = [[-half, 0.0, half, 0.0], [0.0, -half, 0.0, half], [whole, 0.0, whole, 0.0], [0.0, whole, 0.0, whole]];
    let data = edges.iter().flatten().flat_map(|by| distances.iter().map(move |distance| (by * distance) as f32));
    HostTensor::f32(&[4, 4 * (bins + 1)], data.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers 5.24: weighting_function(8, torch.tensor([0.5]), torch.tensor([4.0]))
    #[test]
    fn bins_are_denser_around_zero() {
        let found = distances(8, 4.0, 0.5);
        let expected = [-4.0, -2.0, -1.080_084, -0.442_25, 0.0, 0.442_25, 1.080_084, 2.0, 4.0];
        assert_eq!(found.len(), 9);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
