//! How wrong a decoder layer's queries are, and the gradient of that.
//!
//! DETR's set loss (Carion et al. 2020, arXiv:2005.12872): a class loss for every query, L1 and generalised IoU for the matched
//! ones. Gradients are in closed form, for one picture and one layer. The class loss has to live with labels that are
//! neither complete nor certain, so what it is given for a query is an *aim* per class, see `loss/aims.rs`.

mod aims;
mod class;
#[cfg(test)]
mod tests;

pub(super) use class::{cross_entropy, quality_focal};

use super::Target;
use crate::boxes::giou_with_gradient;
use crate::config::{ClassActivation, ModelType};
use crate::error::{Error, Result};
use aims::Aims;
use class::weighted_entropy;

/// What one decoder layer says of one picture.
#[derive(Clone, Copy, Debug)]
pub struct Predicted<'a> {
    /// Class logits `[queries, classes]`; with softmax the last class is no-object.
    pub logits: &'a [f32],
    /// (centre x, centre y, width, height) `[queries, 4]`, after the sigmoid: fractions of the view.
    pub boxes: &'a [f32],
    pub classes: usize,
}

impl<'a> Predicted<'a> {
    pub fn queries(&self) -> usize {
        self.boxes.len() / 4
    }

    pub(super) fn logits_of(&self, query: usize) -> &'a [f32] {
        &self.logits[query * self.classes..][..self.classes]
    }

    pub(super) fn bounds_of(&self, query: usize) -> [f32; 4] {
        std::array::from_fn(|i| self.boxes[query * 4 + i])
    }

    /// That the lengths fit, and that all numbers are finite: those of a network that has diverged are not.
    pub fn check(&self) -> Result<()> {
        if self.classes == 0 || !self.boxes.len().is_multiple_of(4) || self.logits.len() != self.queries() * self.classes {
            let (logits, boxes, classes) = (self.logits.len(), self.boxes.len(), self.classes);
            return Err(Error::Output(format!("{logits} logits don't go with {boxes} box numbers and {classes} classes")));
        }
        if self.logits.iter().chain(self.boxes).all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err(Error::Output("numbers that aren't finite: training has diverged; lower the rate".into()))
        }
    }
}

/// What counts how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    pub class: f32,
    pub l1: f32,
    pub giou: f32,
}

/// A loss by its parts, each divided by the normaliser but not yet weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    pub class: f32,
    /// Sum over the four numbers of a box.
    pub l1: f32,
    /// 1 - generalised IoU.
    pub giou: f32,
}

impl Parts {
    pub fn weighted(&self, weights: Weights) -> f32 {
        self.class * weights.class + self.l1 * weights.l1 + self.giou * weights.giou
    }
}

impl std::ops::AddAssign for Parts {
    fn add_assign(&mut self, other: Self) {
        self.class += other.class;
        self.l1 += other.l1;
        self.giou += other.giou;
    }
}

/// What a batch's losses are divided by. Each picture has its share ([`Criterion::share`]); the batch's is their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Normaliser {
    /// For the class loss. With softmax: the sum of the queries' weights, as in torch's weighted `cross_entropy`.
    /// With sigmoid: as `boxes`.
    pub class: f32,
    /// The sum of the weights of the targets that are answered for, each as often as it is. Counts as 1 if below.
    pub boxes: f32,
}

impl Normaliser {
    /// What class and box losses are multiplied by.
    pub(super) fn factors(self, activation: ClassActivation) -> (f32, f32) {
        let class = match activation {
            // Never 0 where there is a query to divide for, unless no-object is to count nothing.
            ClassActivation::Softmax => self.class.max(f32::EPSILON),
            ClassActivation::Sigmoid => self.class.max(1.0),
        };
        (1.0 / class, 1.0 / self.boxes.max(1.0))
    }
}

impl std::ops::AddAssign for Normaliser {
    fn add_assign(&mut self, other: Self) {
        self.class += other.class;
        self.boxes += other.boxes;
    }
}

impl std::iter::Sum for Normaliser {
    fn sum<I: Iterator<Item = Self>>(shares: I) -> Self {
        shares.fold(Self::default(), |mut sum, share| {
            sum += share;
            sum
        })
    }
}

/// The class loss with sigmoids. A score's target is the overlap of the query's box with the object's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassLoss {
    /// Quality focal loss (Li et al. 2020, arXiv:2006.04388), which distance from the target scales.
    QualityFocal,
    /// RT-DETR's and D-FINE's: varifocal loss (Zhang et al. 2020, arXiv:2008.13367). What answers for an object counts by its overlap, all else
    /// by `alpha` times the score to the power of `gamma`.
    Varifocal { alpha: f32, gamma: f32 },
    /// DEIM's and DEIMv2's: matchability-aware loss (Huang et al. 2024, arXiv:2412.04234). What answers for an object counts fully, all else by
    /// the score to the power of `gamma`; the target is the overlap to that power.
    MatchabilityAware { gamma: f32 },
}

/// What is wanted of the queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Criterion {
    pub activation: ClassActivation,
    /// With sigmoids.
    pub class_loss: ClassLoss,
    /// With softmax: how much a query that should find nothing counts.
    pub no_object: f32,
    /// Of the loss.
    pub weights: Weights,
    /// Of what matching minimises.
    pub costs: Weights,
    /// Targets of a lower weight are doubtful: no query has to answer for them, but one that does isn't wrong.
    pub least: f32,
}

impl Criterion {
    /// DETR's numbers for softmax, Deformable DETR's and DINO's for sigmoid.
    pub fn new(activation: ClassActivation) -> Self {
        let class = match activation {
            ClassActivation::Softmax => 1.0,
            ClassActivation::Sigmoid => 2.0,
        };
        let weights = Weights { class: 1.0, l1: 5.0, giou: 2.0 };
        let class_loss = ClassLoss::QualityFocal;
        Self { activation, class_loss, no_object: 0.1, weights, costs: Weights { class, ..weights }, least: 0.3 }
    }

    /// As an architecture of RT-DETR's family was trained: sigmoids, the same costs and weights.
    pub fn of_family(model: ModelType) -> Self {
        let class_loss = match model {
            ModelType::RtDetr | ModelType::RtDetrV2 | ModelType::DFine => ClassLoss::Varifocal { alpha: 0.75, gamma: 2.0 },
            ModelType::Deimv2 => ClassLoss::MatchabilityAware { gamma: 1.5 },
        };
        Self { class_loss, ..Self::new(ClassActivation::Sigmoid) }
    }

    /// A loss so many times as large. What is matched stays.
    pub(super) fn weighted(&self, by: f32) -> Self {
        let Weights { class, l1, giou } = self.weights;
        Self { weights: Weights { class: by * class, l1: by * l1, giou: by * giou }, ..self.clone() }
    }

    /// How many of the class logits stand for objects.
    pub(super) fn objects(&self, classes: usize) -> usize {
        match self.activation {
            ClassActivation::Softmax => classes.saturating_sub(1),
            ClassActivation::Sigmoid => classes,
        }
    }

    /// What this picture adds to the batch's normaliser.
    pub fn share(&self, queries: usize, targets: &[Target], pairs: &[(usize, usize)]) -> Normaliser {
        let matched: f32 = pairs.iter().map(|&(_, target)| targets[target].weight).sum();
        let class = match self.activation {
            ClassActivation::Softmax => matched + self.no_object * queries.saturating_sub(pairs.len()) as f32,
            ClassActivation::Sigmoid => matched,
        };
        Normaliser { class, boxes: matched }
    }

    /// The loss of one picture. `known` tells for each class whether all its objects are among `targets` (classes beyond
    /// its end are known); `pairs` are (query, index into `targets`), each query at most once; `normaliser` is the batch's.
    /// The gradient of the weighted sum is added to `grad_logits` `[queries, classes]` and `grad_boxes` `[queries, 4]`.
    #[allow(clippy::too_many_arguments)]
    pub fn loss(
        &self,
        predicted: &Predicted,
        targets: &[Target],
        known: &[bool],
        pairs: &[(usize, usize)],
        normaliser: Normaliser,
        grad_logits: &mut [f32],
        grad_boxes: &mut [f32],
    ) -> Parts {
        let (by_class, by_box) = normaliser.factors(self.activation);
        let mut answers = vec![None; predicted.queries()];
        for &(query, target) in pairs {
            answers[query] = Some(&targets[target]);
        }

        let mut parts = Parts::default();
        let mut aims = Aims::new(self, predicted.classes, targets, known);
        for (query, answer) in answers.into_iter().enumerate() {
            let bounds = predicted.bounds_of(query);
            let logits = predicted.logits_of(query);
            let grad_logits = &mut grad_logits[query * predicted.classes..][..predicted.classes];
            let aims = aims.of(bounds, answer);
            parts.class +=
                match self.activation {
                    ClassActivation::Softmax => {
                        let share = by_class * answer.map_or(self.no_object, |target| target.weight);
                        share * cross_entropy(logits, aims, share * self.weights.class, grad_logits)
                    }
                    ClassActivation::Sigmoid => {
                        let share = by_class * self.weights.class;
                        let positive = |class: usize, aim: f32| aim > 0.0 || answer.is_some_and(|target| target.class == class);
                        by_class
                            * match self.class_loss {
                                ClassLoss::QualityFocal => quality_focal(logits, aims, share, grad_logits),
                                ClassLoss::Varifocal { alpha, gamma } => weighted_entropy(logits, aims, share, grad_logits, |class, aim, score| {
                                    if positive(class, aim) { aim } else { alpha * score.powf(gamma) }
                                }),
                                ClassLoss::MatchabilityAware { gamma } => {
                                    weighted_entropy(
                                        logits,
                                        aims,
                                        share,
                                        grad_logits,
                                        |class, aim, score| {
                                            if positive(class, aim) { 1.0 } else { score.powf(gamma) }
                                        },
                                    )
                                }
                            }
                    }
                };
            if let Some(target) = answer {
                parts += box_loss(bounds, target.bounds, target.weight * by_box, self.weights, &mut grad_boxes[query * 4..][..4]);
            }
        }
        parts
    }
}

/// `share` times the L1 and generalised IoU loss of a box; adds their gradient, weighted.
pub(super) fn box_loss(bounds: [f32; 4], aim: [f32; 4], share: f32, weights: Weights, grad: &mut [f32]) -> Parts {
    let (giou, giou_by) = giou_with_gradient(bounds, aim);
    let mut l1 = 0.0;
    for (i, grad) in grad.iter_mut().enumerate() {
        let off = bounds[i] - aim[i];
        l1 += off.abs();
        let l1_by = if off == 0.0 { 0.0 } else { off.signum() };
        *grad += share * (weights.l1 * l1_by - weights.giou * giou_by[i]);
    }
    Parts { class: 0.0, l1: share * l1, giou: share * (1.0 - giou) }
}
