//! One training step's losses and gradients: images in, a gradient for every trained tensor out. As for DETR (`step.rs` of the parent module),
//! the batch is dealt out to threads whose gradients are summed in a fixed order.

use super::Example;
use super::features::relative_error;
use super::labelled::LayerLosses;
use super::localisation::{Bins, WEIGHT};
use super::network::{Network, TrainOutputs};
use super::teacher::{Predictions, TeacherOutputs};
use crate::config::{ClassActivation, RtDetr as Config};
use crate::error::{Error, Result};
use crate::model::Levels;
use crate::train::denoise::{Noise, Noised, noised};
use crate::train::distil::Distillation;
use crate::train::loss::{Criterion, Normaliser};
use crate::train::scored::{numbers, product};
use crate::train::step::{Losses, Outcome, asked, pairs};
use crate::train::trained::Trained;
use crate::weights::Weights;
use candle_core::{Device, Tensor};
use fastrand::Rng;
use std::collections::BTreeMap;

/// How much each kind of losses counts; nothing is computed for one that counts nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// The neck's maps, against a teacher's.
    pub features: f32,
    /// Predictions, against a teacher's.
    pub outputs: f32,
    pub labels: f32,
}

/// How examples are learnt from.
#[derive(Clone, Debug)]
pub struct Method {
    pub weights: LossWeights,
    /// Against labels.
    pub criterion: Criterion,
    /// As many denoising queries as this answer for targets, and as many have to find nothing; none without an embedding of classes
    /// ([`with_label`](super::with_label)).
    pub denoising: usize,
    pub noise: Noise,
    /// How many pieces a batch is dealt out in. It decides how sums are rounded, so that it belongs to the method.
    pub shards: usize,
    /// Where the network is computed. (Losses, matching and the optimiser stay on the CPU.)
    pub device: Device,
}

impl Method {
    /// transformers' denoising (`get_contrastive_denoising_training_group`): each corner by up to half a side, by more for what has to find
    /// nothing; a quarter of all are told a random class.
    pub fn noise() -> Noise {
        Noise { boxes: 1.0, flip: 0.25, negatives: true }
    }
}

/// Losses and gradients of `examples` (at least one, all of one size). What is `trained` gets gradients; `rng` disguises the denoising queries.
pub fn step(config: &Config, weights: &Weights, trained: &Trained, method: &Method, examples: &[Example], rng: &mut Rng) -> Result<Outcome> {
    let Method { criterion, denoising, noise, weights: LossWeights { labels, .. }, .. } = method;
    let count = if *labels > 0.0 { *denoising } else { 0 };
    let disguised = |example: &Example| noised(rng, &example.targets, criterion.least, config.classes, count, 2 * count, noise);
    let noised: Vec<Vec<Noised>> = examples.iter().map(disguised).collect();
    outcome(config, weights, trained, method, examples, &noised)
}

/// The same with each example's denoising queries given.
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
    let noised = if network.can_denoise() { noised } else { &nobody };
    let bins = Bins::new(&config.decoder.boxes);
    let shares = Shares::new(config, method, examples, noised);
    let size = examples.len().div_ceil(method.shards.max(1)).max(1);
    let work = |(examples, noised): (&[Example], &[Vec<Noised>])| {
        Shard { network: &network, method, bins: bins.as_ref(), shares, examples, noised }.outcome()
    };
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let pieces = examples.chunks(size).zip(noised.chunks(size));
        let workers: Vec<_> = pieces.map(|piece| scope.spawn(move || work(piece))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    Outcome::sum(outcomes)
}

/// What the batch's losses are divided by.
#[derive(Clone, Copy)]
struct Shares {
    queries: Normaliser,
    denoising: Normaliser,
    /// The teacher's of what it selects, and of its predictions.
    teacher: [Normaliser; 2],
    /// Of each image and level.
    features: f32,
}

impl Shares {
    fn new(config: &Config, method: &Method, examples: &[Example], noised: &[Vec<Noised>]) -> Self {
        let criterion = &method.criterion;
        let own = examples.iter().map(|example| {
            let certain = (0..example.targets.len()).filter(|&t| criterion.is_certain(&example.targets[t]));
            let pairs: Vec<_> = certain.map(|t| (0, t)).take(config.queries).collect();
            criterion.share(config.queries, &example.targets, &pairs)
        });
        let denoising = examples.iter().zip(noised).map(|(example, noised)| criterion.share(noised.len(), &example.targets, &pairs(noised)));
        let predictions = || examples.iter().filter_map(|example| example.teacher.as_ref()?.predictions.as_ref());
        let teacher = [0, 1].map(|i| predictions().map(|predictions| predictions.shares[i]).sum());
        let maps: usize = examples.iter().filter_map(|example| Some(example.teacher.as_ref()?.levels.len())).sum();
        Self { queries: own.sum(), denoising: denoising.sum(), teacher, features: 1.0 / maps.max(1) as f32 }
    }
}

/// A thread's piece of a batch.
struct Shard<'a> {
    network: &'a Network,
    method: &'a Method,
    bins: Option<&'a Bins>,
    shares: Shares,
    examples: &'a [Example],
    noised: &'a [Vec<Noised>],
}

impl Shard<'_> {
    fn outcome(self) -> Result<Outcome> {
        let weights = self.method.weights;
        let levels = self.network.encode(&self.pixels()?)?;
        let mut losses = Losses::default();
        let mut surrogates = Vec::new();
        if weights.features > 0.0 {
            surrogates.push(self.features(&levels, &mut losses)?);
        }
        if weights.outputs > 0.0 || weights.labels > 0.0 {
            let asked = asked(self.noised);
            let count = asked.as_ref().map_or(0, |asked| asked.classes.len() / self.examples.len());
            let chosen = self.chosen(&levels)?;
            let aligned = chosen.is_some();
            let outputs = self.network.decode(&levels, chosen, asked.as_ref())?;
            self.decoded(&outputs, count, aligned, &mut losses, &mut surrogates)?;
        }
        losses.total += losses.denoising + losses.dense + losses.teacher;
        let total = surrogates.into_iter().map(Ok).reduce(|a: Result<Tensor>, b| Ok((a? + b?)?));
        let total = total.ok_or_else(|| Error::Config("no losses are asked for: there is nothing to be learnt".into()))??;
        let store = total.backward()?;
        let mut gradients = BTreeMap::new();
        for (name, variable) in self.network.backend.variables() {
            if let Some(gradient) = store.get(&variable) {
                gradients.insert(name, numbers(gradient)?);
            }
        }
        Ok(Outcome { losses, gradients })
    }

    /// `[batch, height, width, 3]`
    fn pixels(&self) -> Result<Tensor> {
        let mut shape = vec![self.examples.len()];
        shape.extend(self.examples.first().map_or(&[][..], |example| &example.pixels.shape));
        if let Some(other) = self.examples.iter().find(|example| example.pixels.shape != shape[1..]) {
            return Err(Error::Config(format!("images {:?} and {:?} can't be in one batch", &shape[1..], other.pixels.shape)));
        }
        let values = self.examples.iter().flat_map(|example| example.pixels.to_f32().into_owned()).collect();
        Ok(Tensor::from_vec(values, shape, self.network.backend.device())?)
    }

    /// The loss of the maps.
    fn features(&self, levels: &Levels<Tensor>, losses: &mut Losses) -> Result<Tensor> {
        let (_, tokens, width) = levels.tokens.dims3()?;
        let own = numbers(&levels.tokens)?;
        let mut grad = vec![0.0; own.len()];
        let size = tokens * width;
        let weight = self.method.weights.features;
        for (n, teacher) in self.taught() {
            if teacher.levels != levels.deformable.levels || teacher.tokens.len() != size {
                let (theirs, ours) = (&teacher.levels, &levels.deformable.levels);
                return Err(Error::Config(format!("a teacher's maps {theirs:?} can't be compared with the student's {ours:?}")));
            }
            let at = n * size..(n + 1) * size;
            let share = weight * self.shares.features;
            let loss = relative_error(&own[at.clone()], &teacher.tokens, &teacher.levels, width, share, &mut grad[at]);
            losses.features += loss / weight;
            losses.teacher += loss;
        }
        product(&levels.tokens, grad)
    }

    /// The examples that a teacher has looked at.
    fn taught(&self) -> impl Iterator<Item = (usize, &TeacherOutputs)> {
        self.examples.iter().enumerate().filter_map(|(n, example)| Some((n, example.teacher.as_ref()?)))
    }

    /// The teacher's tokens as queries `[batch, queries]`, where all images have a teacher with the same tokens: the student's predictions are
    /// then compared with the teacher's one by one.
    fn chosen(&self, levels: &Levels<Tensor>) -> Result<Option<Tensor>> {
        let tokens = levels.tokens.dim(1)?;
        let queries = self.network.queries().min(tokens);
        if self.method.weights.outputs == 0.0 {
            return Ok(None);
        }
        let mut all: Vec<u32> = Vec::with_capacity(self.examples.len() * queries);
        for example in self.examples {
            let same = |teacher: &&TeacherOutputs| teacher.levels == levels.deformable.levels;
            let predictions = example.teacher.as_ref().filter(same).and_then(|teacher| teacher.predictions.as_ref());
            match predictions.and_then(|predictions| predictions.chosen.get(..queries)) {
                Some(chosen) => all.extend(chosen),
                None => return Ok(None),
            }
        }
        Ok(Some(Tensor::from_vec(all, (self.examples.len(), queries), self.network.backend.device())?))
    }

    /// The losses of what the selection and the decoder say; each image's first `count` queries are denoising ones.
    fn decoded(&self, said: &TrainOutputs, count: usize, aligned: bool, losses: &mut Losses, surrogates: &mut Vec<Tensor>) -> Result<()> {
        let weights = self.method.weights;
        let criterion = self.method.criterion.weighted(weights.labels);
        let queries = said.selection.logits.dim(1)?;
        let own = |n: usize| (n, count..count + queries);

        let mut selection = LayerLosses::new(&said.selection, None, self.bins)?;
        let initial = said.decoded.initial.as_ref().map(|initial| LayerLosses::new(initial, None, self.bins)).transpose()?;
        let each = said.decoded.layers.iter().map(|layer| LayerLosses::new(&layer.output, layer.distributions.as_ref(), self.bins));
        let mut each = each.collect::<Result<Vec<_>>>()?;
        if let Some(last) = each.last_mut().filter(|_| weights.outputs > 0.0) {
            for (n, predictions) in self.taught().filter_map(|(n, teacher)| Some((n, teacher.predictions.as_ref()?))) {
                losses.teacher += self.distilled(&mut selection, (n, 0..queries), (predictions, 0), aligned)?;
                losses.teacher += self.distilled(last, own(n), (predictions, 1), aligned)?;
            }
        }
        if weights.labels > 0.0 {
            for (n, example) in self.examples.iter().enumerate() {
                losses.dense += selection.matched(&criterion, (n, 0..queries), example, self.shares.queries)?.1;
            }
        }
        surrogates.extend(selection.surrogates()?);
        // D-FINE's first boxes count as a layer of their own.
        let mut all: Vec<LayerLosses> = initial.into_iter().chain(each).collect();
        let last = all.len().saturating_sub(1);
        if weights.labels == 0.0 {
            all.drain(..last);
        }
        let last = all.len().saturating_sub(1);
        for (i, mut layer) in all.into_iter().enumerate() {
            if weights.labels > 0.0 {
                for (n, (example, noised)) in self.examples.iter().zip(self.noised).enumerate() {
                    let (parts, sum) = layer.matched(&criterion, own(n), example, self.shares.queries)?;
                    losses.total += sum;
                    if i == last {
                        losses.last += parts;
                    }
                    losses.denoising += layer.denoised(&criterion, n, noised, example, self.shares.denoising)?;
                }
            }
            surrogates.extend(layer.surrogates()?);
        }
        Ok(())
    }

    /// Adds the loss of image `n`'s rows by what a teacher's selection (`which` is 0) or last layer (1) says.
    fn distilled(
        &self,
        layer: &mut LayerLosses,
        (n, rows): (usize, std::ops::Range<usize>),
        (predictions, which): (&Predictions, usize),
        aligned: bool,
    ) -> Result<f32> {
        let weight = self.method.weights.outputs;
        let distillation = Distillation::new(ClassActivation::Sigmoid).weighted(weight);
        let teacher = if which == 0 { &predictions.selection } else { &predictions.last }.predicted();
        let share = self.shares.teacher[which];
        let (mut loss, pairs) = layer.scored.rows((n, rows.clone()), |predicted, grad_logits, grad_boxes| {
            let pairs = if aligned { Distillation::same(predicted.queries()) } else { distillation.assign(predicted, &teacher) };
            let parts = distillation.loss(predicted, &teacher, &pairs, share, grad_logits, grad_boxes);
            (parts.weighted(distillation.weights), pairs)
        })?;
        // Distances are told from the initial box: only a query of the same token has nearly the same.
        if let (Some(localisation), Some(theirs), true) = (&mut layer.localisation, &predictions.distributions, aligned) {
            let by = WEIGHT * weight * share.factors(ClassActivation::Sigmoid).1;
            let width = theirs.len() / predictions.chosen.len().max(1);
            for (query, teachers) in pairs {
                let score = teacher.logits_of(teachers).iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
                let share = by / (1.0 + (-score).exp());
                loss += localisation.distil(n, rows.start + query, &theirs[teachers * width..][..width], share);
            }
        }
        Ok(loss)
    }
}
