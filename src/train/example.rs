//! What a training step is given of one picture.

use super::teacher::Lesson;
use crate::weights::HostTensor;
use std::sync::Arc;

/// An object that a picture is known, or believed, to show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The index of the class logit that stands for it.
    pub class: usize,
    /// (centre x, centre y, width, height) in fractions of the view.
    pub bounds: [f32; 4],
    /// How sure it is: 1 where a person drew it, a teacher's score in between, 0 where it is to be neither learnt nor unlearnt
    /// (a crowd, an object that people found too difficult).
    pub weight: f32,
}

/// One view of a picture.
#[derive(Clone, Debug)]
pub struct Example {
    /// What the frozen stages of the backbone make of it, `[rows, columns, channels]`.
    pub features: HostTensor,
    pub targets: Vec<Target>,
    /// For each class, whether all its objects in this picture are among the targets: only then is finding more of them an error.
    pub known: Arc<[bool]>,
    /// What a teacher says of it.
    pub lesson: Option<Lesson>,
}

impl Example {
    /// The targets, and which classes are known.
    pub fn labels(&self) -> (&[Target], &[bool]) {
        (&self.targets, &self.known)
    }
}
