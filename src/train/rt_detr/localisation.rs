//! Losses on box distributions: D-FINE's fine-grained localisation loss (Peng et al. 2024, arXiv:2410.13842; `DFineLoss.loss_local` in
//! transformers), and their divergence from a teacher's.
//!
//! An edge's true distance from the initial box lies between two bins; the loss is the cross-entropy with these two, each by how near it is,
//! and counts by the overlap of the predicted box with the object.

use crate::config::BoxHead;
use crate::error::Result;
use crate::model::{EdgeDistributions, distances};
use crate::train::matching::log_sum_exp;
use crate::train::scored::{numbers, product};
use candle_core::Tensor;

/// How much the loss counts beside class and box losses (`weight_loss_fgl`).
pub const WEIGHT: f32 = 0.15;

/// The bins of an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// Of each bin, in the initial box's sizes over `scale`; ascending.
    distances: Vec<f64>,
    scale: f64,
}

impl Bins {
    /// None where boxes aren't distributions.
    pub fn new(head: &BoxHead) -> Option<Self> {
        match *head {
            BoxHead::Distributions { bins, reg_scale, up, .. } => {
                Some(Self { distances: distances(bins, f64::from(reg_scale), f64::from(up)), scale: f64::from(reg_scale.abs()) })
            }
            BoxHead::Offsets => None,
        }
    }

    pub fn count(&self) -> usize {
        self.distances.len()
    }

    /// Of the left, upper, right and lower edge of a box the lower of the two nearest bins, and the share of the upper one.
    fn targets(&self, initial: [f32; 4], aim: [f32; 4]) -> [(usize, f32); 4] {
        let [x, y, width, height] = initial.map(f64::from);
        let [aim_x, aim_y, aim_width, aim_height] = aim.map(f64::from);
        let edges = [
            (x - (aim_x - aim_width / 2.0), width),
            (y - (aim_y - aim_height / 2.0), height),
            (aim_x + aim_width / 2.0 - x, width),
            (aim_y + aim_height / 2.0 - y, height),
        ];
        edges.map(|(distance, size)| self.between(distance / (size / self.scale + 1e-16) - 0.5 * self.scale))
    }

    fn between(&self, distance: f64) -> (usize, f32) {
        let last = self.distances.len() - 1;
        match self.distances.partition_point(|bin| *bin <= distance) {
            0 => (0, 0.0),
            upper if upper > last => (last - 1, 1.0),
            upper => {
                let (low, high) = (self.distances[upper - 1], self.distances[upper]);
                (upper - 1, ((distance - low) / (high - low)) as f32)
            }
        }
    }
}

/// A layer's distributions on the host, and the gradient of the losses by their logits.
pub struct Localisation<'a> {
    source: &'a EdgeDistributions<Tensor>,
    bins: &'a Bins,
    /// `[batch, rows, 4, bins]`
    logits: Vec<f32>,
    /// `[batch, rows, 4]`
    initial: Vec<f32>,
    grad: Vec<f32>,
    rows: usize,
}

impl<'a> Localisation<'a> {
    pub fn new(source: &'a EdgeDistributions<Tensor>, bins: &'a Bins) -> Result<Self> {
        let rows = source.logits.dim(1)?;
        let (logits, initial) = (numbers(&source.logits)?, numbers(&source.initial)?);
        Ok(Self { source, bins, grad: vec![0.0; logits.len()], logits, initial, rows })
    }

    fn at(&self, picture: usize, row: usize) -> std::ops::Range<usize> {
        let width = 4 * self.bins.count();
        let start = (picture * self.rows + row) * width;
        start..start + width
    }

    /// Adds `share` times the loss of a query that answers for the box `aim`, and returns it.
    pub fn add(&mut self, picture: usize, row: usize, aim: [f32; 4], share: f32) -> f32 {
        let (at, count) = (self.at(picture, row), self.bins.count());
        let initial = std::array::from_fn(|i| self.initial[(picture * self.rows + row) * 4 + i]);
        let edges = self.logits[at.clone()].chunks_exact(count).zip(self.grad[at].chunks_exact_mut(count));
        let mut loss = 0.0;
        for ((logits, grad), (low, upper)) in edges.zip(self.bins.targets(initial, aim)) {
            let all = log_sum_exp(logits.iter().copied());
            loss += all - (1.0 - upper) * logits[low] - upper * logits[low + 1];
            logits.iter().zip(grad.iter_mut()).for_each(|(x, grad)| *grad += share * (x - all).exp());
            grad[low] -= share * (1.0 - upper);
            grad[low + 1] -= share * upper;
        }
        share * loss
    }

    /// Adds `share` times the divergence (Kullback and Leibler's, mean over the edges) of a query's distributions from a teacher's, whose logits
    /// `[4, bins]` are given.
    pub fn distil(&mut self, picture: usize, row: usize, teachers: &[f32], share: f32) -> f32 {
        let (at, count) = (self.at(picture, row), self.bins.count());
        let edges = self.logits[at.clone()].chunks_exact(count).zip(self.grad[at].chunks_exact_mut(count));
        let mut loss = 0.0;
        for ((logits, grad), teachers) in edges.zip(teachers.chunks_exact(count)) {
            let (all, teachers_all) = (log_sum_exp(logits.iter().copied()), log_sum_exp(teachers.iter().copied()));
            for ((x, teacher), grad) in logits.iter().zip(teachers).zip(grad) {
                let wanted = (teacher - teachers_all).exp();
                loss += wanted * ((teacher - teachers_all) - (x - all));
                *grad += 0.25 * share * ((x - all).exp() - wanted);
            }
        }
        0.25 * share * loss
    }

    /// A number whose gradient by the logits is the losses'.
    pub fn surrogate(self) -> Result<Tensor> {
        product(&self.source.logits, self.grad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn bins() -> Bins {
        Bins { distances: distances(8, 4.0, 0.5), scale: 4.0 }
    }

    #[test]
    fn a_distance_lies_between_two_bins() {
        // The bins are at -4, -2, -1.08, -0.44, 0, 0.44, 1.08, 2 and 4.
        let bins = bins();
        for (distance, bin, share) in
            [(-9.0, 0, 0.0), (-4.0, 0, 0.0), (-3.0, 0, 0.5), (0.0, 4, 0.0), (1.0, 5, 0.8744), (3.5, 7, 0.75), (4.0, 7, 1.0), (9.0, 7, 1.0)]
        {
            let found = bins.between(distance);
            assert!(found.0 == bin && (found.1 - share).abs() < 1e-3, "{distance}: {found:?}");
        }
        // An initial box that is the object's own: every edge is half a box away, which is the distance zero.
        let own = [0.4, 0.5, 0.2, 0.3];
        for (bin, share) in bins.targets(own, own) {
            assert!((bin as f32 + share - 4.0).abs() < 1e-4, "{bin} {share}");
        }
    }

    #[test]
    fn gradients_are_slopes() {
        let bins = bins();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut random = |count: usize| (0..count).map(|_| 2.0 * rng.f32() - 1.0).collect::<Vec<f32>>();
        let (logits, teachers) = (random(36), random(36));
        let (initial, aim) = ([0.4f32, 0.5, 0.2, 0.3], [0.42, 0.47, 0.26, 0.31]);
        let run = |logits: &[f32]| {
            let tensor = |data: &[f32], shape: (usize, usize, usize)| Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
            let source = EdgeDistributions { logits: tensor(logits, (1, 1, 36)), initial: tensor(&initial, (1, 1, 4)) };
            let mut found = Localisation::new(&source, &bins).unwrap();
            let loss = found.add(0, 0, aim, 0.7) + found.distil(0, 0, &teachers, 0.4);
            (loss, found.grad.clone())
        };
        let gradient = run(&logits).1;
        for i in 0..36 {
            let moved = |by: f32| {
                let mut logits = logits.clone();
                logits[i] += by;
                run(&logits).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - gradient[i]).abs() < 1e-3, "{i}: {} {slope}", gradient[i]);
        }
        // A student like its teacher has nothing to learn of it.
        let source = EdgeDistributions {
            logits: Tensor::from_slice(&teachers, (1, 1, 36), &Device::Cpu).unwrap(),
            initial: Tensor::from_slice(&initial, (1, 1, 4), &Device::Cpu).unwrap(),
        };
        let mut same = Localisation::new(&source, &bins).unwrap();
        assert!(same.distil(0, 0, &teachers, 1.0).abs() < 1e-6 && same.grad.iter().all(|g| g.abs() < 1e-6));
    }
}
