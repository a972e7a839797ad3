//! What a training step is given of one image.

use super::teacher::TeacherOutputs;
use crate::train::Target;
use crate::weights::HostTensor;
use std::sync::Arc;

/// One view of an image.
#[derive(Clone, Debug)]
pub struct Example {
    /// `[height, width, 3]`, resized and normalised.
    pub pixels: HostTensor,
    pub targets: Vec<Target>,
    /// For each class, whether all its objects in this image are among the targets.
    pub known: Arc<[bool]>,
    /// What a teacher makes of it.
    pub teacher: Option<TeacherOutputs>,
}

impl Example {
    /// The targets, and which classes are known.
    pub fn labels(&self) -> (&[Target], &[bool]) {
        (&self.targets, &self.known)
    }
}
