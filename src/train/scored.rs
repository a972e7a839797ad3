//! What a layer says, on the host, and the gradient of the losses by it. Losses and their gradients are in closed form (`loss.rs`); a surrogate
//! hands the gradient over to autograd.

use super::Target;
use super::distil::Distillation;
use super::loss::{Criterion, Normaliser, Parts, Predicted};
use super::teacher::Lesson;
use crate::error::Result;
use crate::model::Output;
use candle_core::Tensor;
use std::ops::Range;

/// A layer's output on the host, and the gradient of the losses by it.
pub(super) struct Scored<'a> {
    output: &'a Output<Tensor>,
    logits: Vec<f32>,
    boxes: Vec<f32>,
    grad_logits: Vec<f32>,
    grad_boxes: Vec<f32>,
    /// Of an image.
    pub rows: usize,
    classes: usize,
    bounded: bool,
}

impl<'a> Scored<'a> {
    pub fn new(output: &'a Output<Tensor>) -> Result<Self> {
        let (_, rows, classes) = output.logits.dims3()?;
        let (logits, boxes) = (numbers(&output.logits)?, numbers(&output.boxes)?);
        let (grad_logits, grad_boxes) = (vec![0.0; logits.len()], vec![0.0; boxes.len()]);
        Ok(Self { output, logits, boxes, grad_logits, grad_boxes, rows, classes, bounded: false })
    }

    /// The same with boxes within 0..1, as D-FINE's losses have them: its boxes aren't bounded by a sigmoid.
    pub fn bounded(output: &'a Output<Tensor>) -> Result<Self> {
        let mut scored = Self::new(output)?;
        scored.bounded = true;
        scored.boxes.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        Ok(scored)
    }

    /// A row of an image.
    pub fn bounds_of(&self, picture: usize, row: usize) -> [f32; 4] {
        std::array::from_fn(|i| self.boxes[(picture * self.rows + row) * 4 + i])
    }

    /// Shows some rows of a picture to a loss, with where it adds its gradient by logits and boxes.
    pub fn rows<T>(&mut self, (picture, rows): (usize, Range<usize>), loss: impl FnOnce(&Predicted, &mut [f32], &mut [f32]) -> T) -> Result<T> {
        let at = |width: usize| (picture * self.rows + rows.start) * width..(picture * self.rows + rows.end) * width;
        let predicted = Predicted { logits: &self.logits[at(self.classes)], boxes: &self.boxes[at(4)], classes: self.classes };
        predicted.check()?;
        Ok(loss(&predicted, &mut self.grad_logits[at(self.classes)], &mut self.grad_boxes[at(4)]))
    }

    /// Adds the loss of some rows of a picture.
    pub fn add(
        &mut self,
        criterion: &Criterion,
        rows: (usize, Range<usize>),
        (targets, known): (&[Target], &[bool]),
        normaliser: Normaliser,
        pairs: impl FnOnce(&Predicted) -> Vec<(usize, usize)>,
    ) -> Result<Parts> {
        self.rows(rows, |predicted, grad_logits, grad_boxes| {
            criterion.loss(predicted, targets, known, &pairs(predicted), normaliser, grad_logits, grad_boxes)
        })
    }

    /// Adds the loss of some rows of a picture by what a teacher's layer says of it.
    pub fn teach(&mut self, rows: (usize, Range<usize>), lesson: &Lesson, layer: usize, layers: usize, share: Normaliser) -> Result<f32> {
        let teaching = &lesson.teaching;
        let teacher = lesson.layer(layer, layers).predicted();
        let distillation = teaching.distillation.weighted(teaching.weight);
        self.rows(rows, |predicted, grad_logits, grad_boxes| {
            let pairs = if teaching.same { Distillation::same(predicted.queries()) } else { teaching.distillation.assign(predicted, &teacher) };
            distillation.loss(predicted, &teacher, &pairs, share, grad_logits, grad_boxes).weighted(distillation.weights)
        })
    }

    /// A number whose gradient by the output is the losses'.
    pub fn surrogate(mut self) -> Result<Tensor> {
        if self.bounded {
            let inside = numbers(&self.output.boxes)?.into_iter().map(|x| (0.0..=1.0).contains(&x));
            self.grad_boxes.iter_mut().zip(inside).filter(|(_, inside)| !inside).for_each(|(grad, _)| *grad = 0.0);
        }
        Ok((product(&self.output.logits, self.grad_logits)? + product(&self.output.boxes, self.grad_boxes)?)?)
    }
}

/// On the host.
pub(super) fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// A number whose gradient by `x` is `gradient`.
pub(super) fn product(x: &Tensor, gradient: Vec<f32>) -> Result<Tensor> {
    Ok((x * Tensor::from_vec(gradient, x.shape(), x.device())?)?.sum_all()?)
}
