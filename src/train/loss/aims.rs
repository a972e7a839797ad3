//! What each class score of a query should be, as far as the labels tell.
//!
//! An aim is a score to reach, or none where the labels can't tell right from wrong: for a class whose objects aren't all
//! labelled, and for whatever lies at a target that isn't to be learnt. At a doubtful target the aim is its weight, for
//! queries that happen to be there.

use super::{ClassLoss, Criterion};
use crate::boxes::{iou, part_inside};
use crate::config::ClassActivation;
use crate::train::Target;

/// From which overlap on a query is at a doubtful target.
const OVERLAP: f32 = 0.5;

pub(super) struct Aims<'a> {
    activation: ClassActivation,
    /// Of the overlap.
    exponent: f32,
    doubtful: Vec<&'a Target>,
    objects: usize,
    /// Of a query that finds nothing, where nothing is doubtful.
    nothing: Vec<Option<f32>>,
    row: Vec<Option<f32>>,
}

impl<'a> Aims<'a> {
    pub(super) fn new(criterion: &Criterion, classes: usize, targets: &'a [Target], known: &[bool]) -> Self {
        let objects = criterion.objects(classes);
        // No-object is none of the classes that can be aimed at: it gets what the others leave (see `cross_entropy`).
        let nothing = (0..classes).map(|class| (class < objects && known.get(class).is_none_or(|known| *known)).then_some(0.0)).collect();
        let doubtful = targets.iter().filter(|target| !criterion.is_certain(target) && target.class < objects).collect();
        let exponent = match criterion.class_loss {
            ClassLoss::MatchabilityAware { gamma } => gamma,
            ClassLoss::QualityFocal | ClassLoss::Varifocal { .. } => 1.0,
        };
        Self { activation: criterion.activation, exponent, doubtful, objects, nothing, row: Vec::with_capacity(classes) }
    }

    /// The aims `[classes]` of a query whose box is `bounds` and that answers for `answer`.
    pub(super) fn of(&mut self, bounds: [f32; 4], answer: Option<&Target>) -> &[Option<f32>] {
        self.row.clone_from(&self.nothing);
        match answer {
            Some(target) if target.class < self.objects => {
                self.row[target.class] = Some(match self.activation {
                    ClassActivation::Softmax => 1.0,
                    // The score should tell how good the box is.
                    ClassActivation::Sigmoid => target.weight * iou(bounds, target.bounds).powf(self.exponent),
                });
            }
            Some(_) => {}
            None => self.doubt(bounds),
        }
        &self.row
    }

    fn doubt(&mut self, bounds: [f32; 4]) {
        let overlap = |target: &Target| match target.weight {
            // A crowd's box is far larger than any object in it: as in COCO's evaluation, being inside is enough.
            0.0 => part_inside(bounds, target.bounds),
            _ => iou(bounds, target.bounds),
        };
        let mut near: Vec<_> = self.doubtful.iter().map(|target| (overlap(target), *target)).filter(|(overlap, _)| *overlap > OVERLAP).collect();
        // Of several of one class the nearest one tells.
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, target) in near {
            self.row[target.class] = (target.weight > 0.0).then_some(target.weight);
        }
    }
}
