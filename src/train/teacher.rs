//! A teacher: another detector whose answers, and ways to them, a student is held to. It needs no labels.
//!
//! Each decoder layer of the student is taught by the teacher's layer at the same relative depth: its queries' scores and boxes
//! (`distil.rs`), and, where they are the same queries, what these hold. Encoders are compared by their tokens, through a map where
//! one is wider than the other (`hints.rs`); where they have others of a picture, not at all. Such hints
//! ("FitNets", Romero et al. 2015, arXiv:1412.6550) are between normalised rows, so that no network's scale matters.

use super::distil::Distillation;
use super::loss::{Normaliser, Predicted};
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::{ClassActivation, Config};
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::model::{Detr, PixelMask};
use crate::weights::{Data as Numbers, HostTensor, Weights};
use std::sync::Arc;

/// From this cosine on, two networks' query tensors are one that was trained further. Those of strangers are near 0.
const RELATED: f64 = 0.5;

/// How much a teacher counts, and in which way.
#[derive(Clone, Debug, PartialEq)]
pub struct Teaching {
    /// Of all that it says, beside the labels' losses.
    pub weight: f32,
    /// Of the encoder's hint and of each decoder layer's, before `weight`.
    pub hint: f32,
    pub distillation: Distillation,
    /// Query by query, instead of by matching.
    pub same: bool,
}

/// What a teacher says of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    pub teaching: Arc<Teaching>,
    pub layers: Vec<Layer>,
    /// The encoder's tokens `[rows, columns, the teacher's d_model]`.
    pub memory: HostTensor,
    /// What the picture adds to the batch's normaliser.
    pub share: Normaliser,
}

/// A decoder layer of a teacher's.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `[queries, classes]`, in the student's order of classes; negative infinity for those that the teacher doesn't have.
    pub logits: Vec<f32>,
    /// `[queries, 4]`
    pub boxes: Vec<f32>,
    /// `[queries, d_model]`, where they are the student's queries.
    pub content: Option<Vec<f32>>,
    pub classes: usize,
}

impl Layer {
    pub fn predicted(&self) -> Predicted<'_> {
        Predicted { logits: &self.logits, boxes: &self.boxes, classes: self.classes }
    }
}

impl Lesson {
    /// The encoder's tokens, where the student has as many rows and columns of them.
    pub fn memory(&self, grid: [usize; 2]) -> Option<&[f32]> {
        match &self.memory.data {
            Numbers::F32(numbers) if self.memory.shape[..2] == grid => Some(numbers),
            _ => None,
        }
    }

    /// Of the student's decoder layer `i` of `layers`.
    pub fn layer(&self, i: usize, layers: usize) -> &Layer {
        &self.layers[((i + 1) * self.layers.len()).div_ceil(layers) - 1]
    }
}

/// A detector that teaches.
pub struct Teacher {
    teaching: Arc<Teaching>,
    config: Config,
    network: Detr<Cpu>,
    /// For each of the student's classes the teacher's.
    classes: Vec<Option<usize>>,
    student: Config,
}

impl Teacher {
    /// Classes go by their names. Fails where the two have none in common, and where scores of one can't be those of the other.
    pub fn new(checkpoint: &Checkpoint, student: &Config, weights: &Weights, weight: f32) -> Result<Self> {
        let Checkpoint { config, weights: own, .. } = checkpoint;
        if (config.class_activation, student.class_activation) == (ClassActivation::Sigmoid, ClassActivation::Softmax) {
            return Err(Error::Config("a teacher with sigmoid scores can't teach a student with softmax: its scores don't add up to 1".into()));
        }
        let mut classes: Vec<Option<usize>> =
            student.labels.iter().map(|label| config.labels.iter().position(|other| other.name == label.name)).collect();
        if classes.iter().all(Option::is_none) {
            let name = |config: &Config| config.labels.first().map_or("nothing".into(), |label| format!("{:?}", label.name));
            let (teachers, students) = (name(config), name(student));
            return Err(Error::Config(format!(
                "teacher and student have no class name in common: one's first is {teachers}, the other's {students}"
            )));
        }
        classes.resize(student.classes, None);
        if student.class_activation == ClassActivation::Softmax {
            classes[student.classes - 1] = Some(config.classes - 1);
        }
        let same = config.queries == student.queries && related(own, weights);
        Ok(Self {
            teaching: Arc::new(Teaching { weight, hint: 1.0, distillation: Distillation::new(student.class_activation), same }),
            network: Detr::load(&Cpu, config, own)?,
            classes,
            config: config.clone(),
            student: student.clone(),
        })
    }

    pub fn teaching(&self) -> &Teaching {
        &self.teaching
    }

    /// Of its tokens.
    pub fn width(&self) -> usize {
        self.config.d_model
    }

    /// How many of the student's classes it knows.
    pub fn known(&self) -> usize {
        self.classes.iter().take(self.student.labels.len()).flatten().count()
    }

    /// What it says of its own backbone's features `[rows, columns, channels]` of a picture.
    pub fn lesson(&self, features: &HostTensor) -> Result<Lesson> {
        let [rows, columns, channels] = features.shape[..] else {
            return Err(Error::Config(format!("features of shape {:?} instead of [rows, columns, channels]", features.shape)));
        };
        let features = Cpu.constant(&HostTensor::f32(&[1, rows, columns, channels], features.to_f32().into_owned()))?;
        let encoded = self.network.encode(&Cpu, features, &PixelMask::full(rows, columns))?;
        let (queries, reference) = self.network.queries();
        let contents = self.network.decode_each(&Cpu, queries, &encoded)?;

        let numbers = |x: &_| -> Result<Vec<f32>> { Ok(cpu::to_host(x)?.to_f32().into_owned()) };
        let like = self.config.d_model == self.student.d_model;
        let mut layers = Vec::new();
        for content in &contents {
            let output = self.network.predict(&Cpu, content, reference)?;
            layers.push(Layer {
                logits: self.logits(&numbers(&output.logits)?),
                boxes: numbers(&output.boxes)?,
                content: (like && self.teaching.same).then(|| numbers(content)).transpose()?,
                classes: self.student.classes,
            });
            layers.last().map_or(Ok(()), |layer| layer.check())?;
        }
        let last = layers.last().ok_or_else(|| Error::Config("a teacher without decoder layers has nothing to say".into()))?;
        let share = self.teaching.distillation.surest(&last.predicted(), self.student.queries);
        let memory = HostTensor::f32(&[rows, columns, self.config.d_model], numbers(&encoded.memory)?);
        Ok(Lesson { teaching: self.teaching.clone(), layers, memory, share })
    }

    /// The teacher's logits `[queries, its classes]` as the student's.
    fn logits(&self, own: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.config.queries * self.classes.len());
        for row in own.chunks_exact(self.config.classes) {
            let all = super::matching::log_sum_exp(row.iter().copied());
            let logit = |class: usize| match (self.config.class_activation, self.student.class_activation) {
                // The sigmoid's logit of a softmax's probability.
                (ClassActivation::Softmax, ClassActivation::Sigmoid) => {
                    let p = (row[class] - all).exp().clamp(1e-6, 1.0 - 1e-6);
                    (p / (1.0 - p)).ln()
                }
                _ => row[class],
            };
            out.extend(self.classes.iter().map(|class| class.map_or(f32::NEG_INFINITY, logit)));
        }
        out
    }
}

impl Layer {
    pub(super) fn check(&self) -> Result<()> {
        match self.logits.iter().any(|x| x.is_nan()) || self.boxes.iter().any(|x| !x.is_finite()) {
            true => Err(Error::Output("a teacher's answer holds what is not a number".into())),
            false => Ok(()),
        }
    }
}

/// Whether one network's queries were the other's once: what they hold is another where a first decoder layer is folded or left out, their
/// positions stay.
fn related(weights: &Weights, others: &Weights) -> bool {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum() };
    ["query_content", "query_position"].iter().any(|name| {
        let (Some(one), Some(other)) = (weights.tensors.get(*name), others.tensors.get(*name)) else { return false };
        let (one, other) = (one.to_f32(), other.to_f32());
        one.len() == other.len() && dot(&one, &other) > RELATED * (dot(&one, &one) * dot(&other, &other)).sqrt()
    })
}

/// `share` times the mean squared distance of rows of `width` numbers from a teacher's, each row normalised to mean 0 and
/// variance 1. Adds the gradient by `own`.
pub fn hint(own: &[f32], teachers: &[f32], width: usize, share: f32, grad: &mut [f32]) -> f32 {
    let by = share / own.len().max(1) as f32;
    let mut loss = 0.0;
    for ((own, teachers), grad) in own.chunks_exact(width).zip(teachers.chunks_exact(width)).zip(grad.chunks_exact_mut(width)) {
        let ((own, deviation), (teachers, _)) = (normalised(own), normalised(teachers));
        let off: Vec<f32> = own.iter().zip(&teachers).map(|(x, y)| x - y).collect();
        loss += off.iter().map(|off| off * off).sum::<f32>();
        // Through the normalisation: what moves a row's mean or its size is no change.
        let mean = off.iter().sum::<f32>() / width as f32;
        let along = off.iter().zip(&own).map(|(off, x)| off * x).sum::<f32>() / width as f32;
        grad.iter_mut().zip(off.iter().zip(&own)).for_each(|(grad, (off, x))| *grad += 2.0 * by * (off - mean - x * along) / deviation);
    }
    by * loss
}

/// And the deviation that it was divided by.
fn normalised(row: &[f32]) -> (Vec<f32>, f32) {
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / row.len() as f32;
    let deviation = (variance + 1e-5).sqrt();
    (row.iter().map(|x| (x - mean) / deviation).collect(), deviation)
}

#[cfg(test)]
mod tests;
