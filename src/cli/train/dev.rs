//! Held-out pictures, by which the best state of a run is chosen.

use crate::cli::{complain, locate, open_annotations, relate};
use anyhow::{Result, ensure};
use detrim::checkpoint::Checkpoint;
use detrim::config::{Architecture, Label};
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::metrics::{Evaluation, Metrics};
use detrim::eval::coco::run::detect_all;
use std::path::Path;

/// Pictures that nothing is learnt from.
pub struct Dev<'a> {
    dataset: Dataset,
    images: &'a Path,
    /// The step since which a run is measured on them: what it had measured by then can't be compared.
    pub since: u64,
}

impl<'a> Dev<'a> {
    /// Tells of what can't be used. Fails if a detector with these labels can't be measured at all.
    pub fn open(file: &Path, images: &'a Path, labels: &[Label], since: u64) -> Result<Self> {
        let name = format!("--dev {}", file.display());
        let mut dataset = open_annotations(&name, file)?;
        ensure!(!dataset.annotations.is_empty(), "{name}: there are no boxes");
        relate(&name, &dataset, labels, "none of them can be found")?;
        locate(&mut dataset, images);
        let missing: Vec<String> = dataset.images.iter().filter_map(|image| image.absent.clone()).collect();
        let pictures = dataset.images.len();
        if let Some(first) = missing.first() {
            ensure!(missing.len() < pictures, "{name}: none of its {pictures} pictures is in {} ({first})", images.display());
        }
        complain(&name, &format!("of {pictures} pictures are not there"), &missing);
        Ok(Self { dataset, images, since })
    }

    pub fn pictures(&self) -> usize {
        self.dataset.images.len()
    }

    /// How well a detector detects, and which pictures could not be used, as if it had found nothing in them.
    pub fn measure(&self, detector: &Checkpoint<Architecture>) -> Result<(Metrics, Vec<String>)> {
        let run = detect_all(detector, &self.dataset, self.images, || {})?;
        Ok((Evaluation::new(&self.dataset, &run.detections).metrics(), run.problems))
    }
}
