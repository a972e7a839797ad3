//! One training step's losses and gradients: examples in, a gradient for every trained tensor out.
//!
//! The batch is dealt out to threads, which share the network's weights and each build a graph of their own; their gradients
//! are summed in a fixed order, so that a step always gives the same numbers. Losses and their gradients by the network's output
//! are computed on the host in closed form (`loss.rs`); autograd goes on from there.

use super::denoise::{self, Noise, Noised};
use super::loss::{Criterion, Normaliser, Parts, Predicted};
use super::network::{Asked, Network};
use super::scored::{Scored, numbers, product};
use super::teacher::{Lesson, hint};
use super::trained::Trained;
use super::{Example, Target};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};
use candle_core::{Device, Tensor};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// How examples are learnt from.
#[derive(Clone, Debug)]
pub struct Method {
    pub criterion: Criterion,
    /// The most denoising queries of a picture; there are none where queries aren't anchored.
    pub denoising: usize,
    /// How targets are disguised for them.
    pub noise: Noise,
    /// How many of the encoder's tokens answer for each target.
    pub tokens: usize,
    /// How many pieces a batch is dealt out in. It decides how sums are rounded, so that it belongs to the method.
    pub shards: usize,
    /// Where the network is computed. (Losses, matching and the optimiser stay on the CPU.)
    pub device: Device,
}

/// What a step's losses were, and what would lower them.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub losses: Losses,
    /// By the tensors' names, as long as these.
    pub gradients: BTreeMap<String, Vec<f32>>,
}

impl Outcome {
    /// Of a batch's pieces, in their order.
    pub(super) fn sum(outcomes: impl IntoIterator<Item = Result<Self>>) -> Result<Self> {
        let mut sum = Self::default();
        for outcome in outcomes {
            let outcome = outcome?;
            sum.losses += outcome.losses;
            for (name, gradient) in outcome.gradients {
                match sum.gradients.get_mut(&name) {
                    Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
                    None => drop(sum.gradients.insert(name, gradient)),
                }
            }
        }
        Ok(sum)
    }
}

/// Losses over a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Weighted sum of everything.
    pub total: f32,
    /// Of the last decoder layer.
    pub last: Parts,
    /// Weighted sums of all decoder layers' denoising queries, and of the encoder's tokens.
    pub denoising: f32,
    pub dense: f32,
    /// Weighted sum of all that a teacher gives.
    pub teacher: f32,
    /// Of that, the relative squared error of the neck's maps (RT-DETR's family), unweighted.
    pub features: f32,
    /// Weighted sum of all decoder layers' further groups of queries: their mean.
    pub groups: f32,
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.last += other.last;
        self.denoising += other.denoising;
        self.dense += other.dense;
        self.teacher += other.teacher;
        self.features += other.features;
        self.groups += other.groups;
    }
}

/// Losses and gradients of `examples` (at least one, all of one size). What is `trained` gets gradients; `rng` disguises the denoising queries.
pub fn step(config: &Config, weights: &Weights, trained: &Trained, method: &Method, examples: &[Example], rng: &mut Rng) -> Result<Outcome> {
    let Method { criterion, denoising, noise, .. } = method;
    let disguised = |example: &Example| denoise::noised(rng, &example.targets, criterion.least, config.labels.len(), *denoising, *denoising, noise);
    let noised: Vec<Vec<Noised>> = examples.iter().map(disguised).collect();
    outcome(config, weights, trained, method, examples, &noised)
}

/// The same with each example's denoising queries given. Where queries aren't anchored nothing is asked.
pub fn outcome(
    config: &Config,
    weights: &Weights,
    trained: &Trained,
    method: &Method,
    examples: &[Example],
    noised: &[Vec<Noised>],
) -> Result<Outcome> {
    let network = Network::load(config, weights, trained, &method.device)?;
    let nobody = vec![Vec::new(); examples.len()];
    let noised = if network.is_anchored() { noised } else { &nobody };
    let shares = Shares::new(config, trained, method, examples, noised);
    let size = examples.len().div_ceil(method.shards.max(1)).max(1);
    let work = |(examples, noised): (&[Example], &[Vec<Noised>])| Shard { network: &network, config, method, shares, examples, noised }.outcome();
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let pieces = examples.chunks(size).zip(noised.chunks(size));
        let workers: Vec<_> = pieces.map(|piece| scope.spawn(move || work(piece))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    Outcome::sum(outcomes)
}

/// What the batch's losses are divided by. All of it is known before any query is matched.
#[derive(Clone, Copy)]
struct Shares {
    queries: Normaliser,
    denoising: Normaliser,
    dense: Normaliser,
    teacher: Normaliser,
    /// Of each picture's hints.
    picture: f32,
}

impl Shares {
    fn new(config: &Config, trained: &Trained, method: &Method, examples: &[Example], noised: &[Vec<Noised>]) -> Self {
        let criterion = &method.criterion;
        let share = |queries: usize, targets: &[Target], repeat: usize| {
            let certain = (0..targets.len()).filter(|&t| criterion.is_certain(&targets[t]));
            let pairs: Vec<_> = certain.flat_map(|t| std::iter::repeat_n((0, t), repeat)).take(queries).collect();
            criterion.share(queries, targets, &pairs)
        };
        let of = |queries: usize, repeat: usize| examples.iter().map(|example| share(queries, &example.targets, repeat)).sum();
        // All examples are of one size.
        let tokens = examples.first().map_or(0, |example| {
            let size = [example.features.shape[0], example.features.shape[1]];
            config.backbone.reduced(trained.first_stage(&config.backbone), size).iter().product()
        });
        let denoising = examples.iter().zip(noised).map(|(example, noised)| criterion.share(noised.len(), &example.targets, &pairs(noised)));
        let teacher = examples.iter().filter_map(|example| Some(example.lesson.as_ref()?.share)).sum();
        let picture = 1.0 / examples.len().max(1) as f32;
        Self { queries: of(config.queries, 1), denoising: denoising.sum(), dense: of(tokens, method.tokens), teacher, picture }
    }
}

/// Which denoising query answers for which target.
pub(super) fn pairs(noised: &[Noised]) -> Vec<(usize, usize)> {
    noised.iter().enumerate().filter_map(|(query, noised)| Some((query, noised.target?))).collect()
}

/// A thread's piece of a batch.
struct Shard<'a> {
    network: &'a Network,
    config: &'a Config,
    method: &'a Method,
    shares: Shares,
    examples: &'a [Example],
    noised: &'a [Vec<Noised>],
}

impl Shard<'_> {
    fn outcome(self) -> Result<Outcome> {
        let asked = asked(self.noised);
        let said = self.network.forward(&self.features()?, asked.as_ref())?;
        let count = asked.map_or(0, |asked| asked.classes.len() / self.examples.len());
        let criterion = &self.method.criterion;
        let (queries, groups) = (self.config.queries, self.network.groups());
        let mean = criterion.weighted(1.0 / groups.max(1) as f32);
        let mut losses = Losses::default();
        let mut total: Option<Tensor> = None;
        let mut add = |surrogate: Tensor| -> Result<()> {
            total = Some(match total.take() {
                Some(total) => (total + surrogate)?,
                None => surrogate,
            });
            Ok(())
        };
        let layers = said.layers.len();
        for (i, layer) in said.layers.iter().enumerate() {
            let mut scored = Scored::new(layer)?;
            for (n, (example, noised)) in self.examples.iter().zip(self.noised).enumerate() {
                let own = || (n, count..count + queries);
                let parts = scored
                    .add(criterion, own(), example.labels(), self.shares.queries, |predicted| criterion.assign(predicted, &example.targets, 1))?;
                losses.total += parts.weighted(criterion.weights);
                if i + 1 == layers {
                    losses.last += parts;
                }
                for first in (1..=groups).map(|group| count + group * queries) {
                    let rows = (n, first..first + queries);
                    let assign = |predicted: &Predicted| mean.assign(predicted, &example.targets, 1);
                    losses.groups += scored.add(&mean, rows, example.labels(), self.shares.queries, assign)?.weighted(mean.weights);
                }
                let parts = scored.add(criterion, (n, 0..noised.len()), example.labels(), self.shares.denoising, |_| pairs(noised))?;
                losses.denoising += parts.weighted(criterion.weights);
                if let Some(lesson) = &example.lesson {
                    losses.teacher += scored.teach(own(), lesson, i, layers, self.shares.teacher)?;
                }
            }
            add(scored.surrogate()?)?;
            if let Some((loss, surrogate)) =
                self.hint(&said.contents[i], count..count + queries, |lesson| lesson.layer(i, layers).content.as_deref())?
            {
                losses.teacher += loss;
                add(surrogate)?;
            }
        }
        if let Some((loss, surrogate)) = self.hint(&said.memory, 0..said.memory.dim(1)?, |lesson| lesson.memory(said.grid))? {
            losses.teacher += loss;
            add(surrogate)?;
        }
        if let Some(dense) = &said.dense {
            let mut scored = Scored::new(dense)?;
            let tokens = scored.rows;
            for (n, example) in self.examples.iter().enumerate() {
                let assign = |predicted: &Predicted| criterion.assign(predicted, &example.targets, self.method.tokens);
                losses.dense += scored.add(criterion, (n, 0..tokens), example.labels(), self.shares.dense, assign)?.weighted(criterion.weights);
            }
            add(scored.surrogate()?)?;
        }
        losses.total += losses.denoising + losses.dense + losses.teacher + losses.groups;
        // (The encoder's tokens alone may have something to learn, but make no detector.)
        let total = total.filter(|_| layers > 0).ok_or_else(|| Error::Config("a network without decoder layers can't be trained".into()))?;
        let store = total.backward()?;
        let mut gradients = BTreeMap::new();
        for (name, variable) in self.network.backend.variables() {
            if let Some(gradient) = store.get(&variable) {
                gradients.insert(name, numbers(gradient)?);
            }
        }
        Ok(Outcome { losses, gradients })
    }

    /// The loss of some rows of `[batch, rows, d_model]` by a teacher's, and its surrogate; nothing where no teacher has such rows.
    fn hint(&self, x: &Tensor, which: Range<usize>, teachers: impl Fn(&Lesson) -> Option<&[f32]>) -> Result<Option<(f32, Tensor)>> {
        let (_, rows, width) = x.dims3()?;
        let own = numbers(x)?;
        let (mut loss, mut grad) = (None, vec![0.0; own.len()]);
        for (n, lesson) in self.examples.iter().enumerate().filter_map(|(n, example)| Some((n, example.lesson.as_ref()?))) {
            let at = (n * rows + which.start) * width..(n * rows + which.end) * width;
            let Some(teachers) = teachers(lesson).filter(|teachers| teachers.len() == at.len()) else { continue };
            let share = lesson.teaching.weight * lesson.teaching.hint * self.shares.picture;
            *loss.get_or_insert(0.0) += hint(&own[at.clone()], teachers, width, share, &mut grad[at]);
        }
        loss.map(|loss| Ok((loss, product(x, grad)?))).transpose()
    }

    /// `[batch, rows, columns, channels]`
    fn features(&self) -> Result<Tensor> {
        let mut shape = vec![self.examples.len()];
        shape.extend(self.examples.first().map_or(&[][..], |example| &example.features.shape));
        if let Some(other) = self.examples.iter().find(|example| example.features.shape != shape[1..]) {
            return Err(Error::Config(format!("features {:?} and {:?} can't be in one batch", &shape[1..], other.features.shape)));
        }
        let numbers = self.examples.iter().flat_map(|example| example.features.to_f32().into_owned()).collect();
        Ok(Tensor::from_vec(numbers, shape.clone(), self.network.backend.device())?)
    }
}

/// The denoising queries of all pictures, as many for each as the one with the most has.
pub(super) fn asked(noised: &[Vec<Noised>]) -> Option<Asked> {
    let count = noised.iter().map(Vec::len).max().filter(|&count| count > 0)?;
    let mut asked = Asked { classes: Vec::new(), boxes: Vec::new(), parties: Vec::new() };
    for noised in noised {
        let padding = count - noised.len();
        asked.classes.extend(noised.iter().map(|noised| noised.class_in as u32).chain(std::iter::repeat_n(0, padding)));
        asked.boxes.extend(noised.iter().flat_map(|noised| noised.bounds).chain(std::iter::repeat_n(0.5, 4 * padding)));
        asked.parties.extend(noised.iter().map(|noised| Some(noised.group)).chain(std::iter::repeat_n(None, padding)));
    }
    Some(asked)
}

/// Weights in f32, which is what can be trained.
pub fn trainable(weights: &Weights) -> Weights {
    let tensors = weights.tensors.iter().map(|(name, tensor)| (name.clone(), HostTensor::f32(&tensor.shape, tensor.to_f32().into_owned())));
    Weights { tensors: tensors.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, EfficientNetLite, InvertedResidual};

    #[test]
    fn a_network_without_decoder_layers_is_refused() {
        let block = InvertedResidual { expansion: None, kernel: 3, stride: 2, channels: 6, residual: false };
        let mut config = Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }));
        (config.d_model, config.queries) = (8, 2);
        config.encoder.clear();
        config.decoder.clear();
        let weights = trainable(&crate::checkpoint::random(config.clone(), "tiny", 1).weights);
        let criterion = Criterion::new(config.class_activation);
        let method = Method { criterion, denoising: 0, noise: Noise::default(), tokens: 1, shards: 1, device: Device::Cpu };
        let example = Example { features: HostTensor::f32(&[2, 3, 6], vec![0.5; 36]), targets: vec![], known: [].into(), lesson: None };
        let error = step(&config, &weights, &Trained::default(), &method, &[example], &mut Rng::with_seed(1)).unwrap_err().to_string();
        assert!(error.contains("without decoder layers"), "{error}");
    }
}
