//! A training run as far as it has come, and how it goes on.

use super::clip::clip;
use super::ema::{Average, Ema};
use super::optimiser::{AdamW, Group, Moments, parameters};
use super::schedule::Schedule;
use super::step::{Losses, Outcome};
use super::trained::Trained;
use super::{network, rt_detr};
use crate::checkpoint::{Card, Checkpoint};
use crate::config::{Architecture, NetworkConfig};
use crate::error::{Error, Result};
use crate::weights::{Data as Numbers, Weights};
use fastrand::Rng;
use std::collections::BTreeMap;

/// What a run is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    pub optimiser: AdamW,
    pub ema: Ema,
    pub schedule: Schedule,
    /// The learning rate at its highest.
    pub rate: f64,
    /// Which tensors are trained.
    pub trained: Trained,
    /// Factor on the learning rate of the backbone.
    pub backbone_rate: f64,
    /// The most that the norm of all gradients together may be.
    pub clip: f64,
    /// Steps in all.
    pub steps: u64,
    pub seed: u64,
}

/// All that changes in a run. The same state, settings and data always go on in the same way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// The step at which the optimiser's memory began.
    pub since: u64,
    /// In f32, with training's own.
    pub weights: Weights,
    pub moments: Moments,
    pub average: Average,
    /// Steps that were left out because their gradients weren't finite.
    pub skipped: u64,
    /// How the model that the run began with was made, a sentence for each thing that was done.
    pub provenance: Vec<String>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub losses: Losses,
    pub rate: f64,
    /// Of the gradient, before it was clipped.
    pub norm: f64,
}

/// So many steps in a row without a finite gradient end a run.
const PATIENCE: u64 = 20;

impl State {
    /// The beginning of a run: weights in f32 (see [`trainable`](super::step::trainable)), no step done.
    pub fn new(weights: Weights) -> Self {
        Self { weights, ..Self::default() }
    }

    /// The detector that the mean of the weights makes.
    pub fn detector<C: NetworkConfig>(&self, config: &C) -> Result<Checkpoint<C>> {
        let mean = self.average.over(&self.weights);
        let weights = match config.architecture() {
            Architecture::Detr(config) => network::finished(&config, &mean)?,
            Architecture::RtDetr(config) => rt_detr::finished(&config, &mean)?,
        };
        let trained = format!("trained for {} steps by detrim {}", self.step, env!("CARGO_PKG_VERSION"));
        let provenance = self.provenance.iter().cloned().chain([trained]).collect();
        Ok(Checkpoint { config: config.clone(), weights, card: Card { provenance, ..Card::default() }, guesses: Vec::new() })
    }

    /// How many of the backbone's stages the optimiser remembers; `None` where it remembers nothing.
    pub fn stages(&self) -> Option<usize> {
        (!self.moments.0.is_empty()).then(|| Trained::count_stages(self.moments.0.keys()))
    }

    /// Ends the training of what isn't to be `trained` any more: it becomes what its mean is.
    pub fn freeze(&mut self, trained: &Trained) {
        self.moments.0.retain(|name, _| trained.includes(name));
        let all = std::mem::take(&mut self.average.values);
        let (kept, frozen): (BTreeMap<_, _>, BTreeMap<_, _>) = all.into_iter().partition(|(name, _)| trained.includes(name));
        self.average.values = frozen;
        self.weights = self.average.over(&self.weights);
        self.average.values = kept;
    }

    /// Takes one step by what `losses` says: the losses of this step's examples, and their gradients.
    pub fn advance(&mut self, settings: &Settings, losses: impl FnOnce(&Self, &mut Rng) -> Result<Outcome>) -> Result<Report> {
        // A generator for each step, so that going on needs no memory of the former ones.
        let mut rng = Rng::with_seed(settings.seed.wrapping_add(self.step).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let outcome = losses(self, &mut rng)?;
        let rate = settings.rate * settings.schedule.factor(self.step, settings.steps, self.since);
        let clipped = clip(outcome.gradients.values().map(Vec::as_slice), settings.clip);
        self.step += 1;
        if let Some(factor) = clipped.factor {
            let parameters = parameters(&mut self.weights, &outcome.gradients, |name| settings.group(name))?;
            settings.optimiser.step(&mut self.moments, parameters, rate, factor)?;
            let weights = self.weights.tensors.iter().filter(|(name, _)| settings.trained.includes(name));
            let numbers = weights.filter_map(|(name, tensor)| match &tensor.data {
                Numbers::F32(numbers) => Some((name.as_str(), numbers.as_slice())),
                Numbers::F16(_) | Numbers::I8(_) => None,
            });
            settings.ema.update(&mut self.average, numbers)?;
            self.skipped = 0;
        } else {
            self.skipped += 1;
            if self.skipped > PATIENCE {
                let problem = format!("no finite gradients of it for {PATIENCE} steps in a row: training has diverged; lower the rate");
                return Err(Error::Output(problem));
            }
        }
        Ok(Report { losses: outcome.losses, rate, norm: clipped.norm })
    }
}

impl Settings {
    /// Matrices decay; biases, norms and what stands for places and classes don't.
    fn group(&self, name: &str) -> Group {
        let matrix = name.ends_with(".weight") && !name.contains("norm");
        Group { rate: if Trained::is_backbone(name) { self.backbone_rate } else { 1.0 }, decay: matrix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimiser::Moment;
    use crate::weights::HostTensor;

    #[test]
    fn what_is_frozen_becomes_its_mean() {
        let mut state = State::default();
        for name in ["backbone.stage0.block0.project.bias", "backbone.stage1.block0.project.bias", "decoder.norm.bias"] {
            state.weights.insert(name, HostTensor::f32(&[1], vec![1.0]));
            state.average.values.insert(name.into(), vec![2.0]);
            state.moments.0.insert(name.into(), Moment { steps: 1, first: vec![0.0], second: vec![0.0] });
        }
        assert_eq!((state.stages(), State::default().stages()), (Some(2), None));
        let before = state.average.over(&state.weights);
        state.freeze(&Trained::default());
        assert_eq!(state.stages(), Some(0));
        assert_eq!(state.average.values.keys().collect::<Vec<_>>(), ["decoder.norm.bias"]);
        let value = |name: &str| state.weights.tensors[name].to_f32()[0];
        assert_eq!((value("backbone.stage1.block0.project.bias"), value("decoder.norm.bias")), (2.0, 1.0));
        assert_eq!(state.average.over(&state.weights), before);
    }
}
