//! Measures the networks of a report: costs, time in turns with the parent, accuracy on labelled pictures, difference of the outputs.

use super::{Costs, Quality};
use crate::checkpoint::{Checkpoint, Guess, Storage, open, to_bytes};
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::eval::coco::bootstrap::paired;
use crate::eval::coco::dataset::Dataset;
use crate::eval::coco::detections::{Scored, read_detections};
use crate::eval::coco::metrics::Evaluation;
use crate::eval::coco::run::detect_all;
use crate::eval::cost::cost;
use crate::hash::sha256;
use crate::image::typical_size;
use crate::output::write;
use crate::progress::Progress;
use crate::prune::difference::{Answer, difference, look};
use crate::prune::inputs::Inputs;
use std::path::{Path, PathBuf};

/// A network's costs at the size that it takes a typical photo at; `bytes` is its file as f16.
pub fn costs(checkpoint: &Checkpoint, bytes: usize) -> Result<Costs> {
    let size = typical_size(checkpoint.config.pixels.resize)?;
    let parts = cost(&checkpoint.config, size);
    Ok(Costs {
        size,
        parameters: parts.iter().map(|part| part.parameters).sum(),
        macs: parts.iter().map(|part| part.macs).sum(),
        f16_bytes: bytes,
        int8_bytes: to_bytes(checkpoint, Storage::Int8)?.len(),
    })
}

/// Labelled pictures.
pub struct Labelled<'a> {
    pub dataset: &'a Dataset,
    /// Folder that the pictures are in.
    pub photos: &'a Path,
    /// Stands for the annotations' file.
    pub sha256: String,
    /// Resampled sets of pictures behind an interval.
    pub resamples: usize,
    pub seed: u64,
}

/// Judges networks by their parent.
pub struct Judge<'a> {
    pub labelled: Option<Labelled<'a>>,
    pub held_out: &'a Inputs,
    /// What the parent says of the held-out pictures.
    seen: Vec<Answer>,
    /// The parent on the labelled pictures.
    evaluation: Option<Evaluation>,
    /// Where detections are kept, so that no network is run over the pictures twice.
    folder: &'a Path,
    progress: &'a dyn Progress,
}

impl<'a> Judge<'a> {
    /// With the parent of the file, and what it is worth itself.
    pub fn new(
        parent: &Path,
        labelled: Option<Labelled<'a>>,
        held_out: &'a Inputs,
        folder: &'a Path,
        progress: &'a dyn Progress,
    ) -> Result<(Self, Quality)> {
        let checkpoint = open(parent, &Guess::default())?;
        let seen = look(&checkpoint.config.architecture(), &checkpoint.weights, held_out)?;
        let mut judge = Self { labelled, held_out, seen, evaluation: None, folder, progress };
        judge.evaluation = judge.evaluate(&checkpoint, parent)?;
        let metrics = judge.evaluation.as_ref().map(Evaluation::metrics).unwrap_or_default();
        let quality = Quality { file: name(parent), ap: metrics.ap, ap50: metrics.ap50, ..Quality::default() };
        Ok((judge, quality))
    }

    /// A file of the report's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How good the network of a file is. `sure` asks for the interval too, which takes longer.
    pub fn judge(&self, file: &Path, sure: bool) -> Result<Quality> {
        let checkpoint = open(file, &Guess::default())?;
        let mut quality = Quality { file: file.strip_prefix(self.folder).unwrap_or(file).display().to_string(), ..Quality::default() };
        // Where queries are gone, outputs can't be compared one by one.
        let same = self.seen.first().is_some_and(|seen| seen.queries() == checkpoint.config.queries);
        if same && !self.held_out.is_empty() {
            let found = difference(&self.seen, &look(&checkpoint.config.architecture(), &checkpoint.weights, self.held_out)?);
            quality.difference = Some(found).filter(|found| found.is_finite());
        }
        if let (Some(theirs), Some(labelled), Some(ours)) = (&self.evaluation, &self.labelled, self.evaluate(&checkpoint, file)?) {
            let metrics = ours.metrics();
            (quality.ap, quality.ap50) = (metrics.ap, metrics.ap50);
            let pictures = labelled.dataset.images.len();
            quality.against_parent = sure.then(|| paired(&ours, theirs, pictures, labelled.resamples, labelled.seed));
        }
        Ok(quality)
    }

    fn evaluate(&self, checkpoint: &Checkpoint, file: &Path) -> Result<Option<Evaluation>> {
        let Some(labelled) = &self.labelled else { return Ok(None) };
        let found = self.detections(labelled, checkpoint, file)?;
        Ok(Some(Evaluation::new(labelled.dataset, &found)))
    }

    /// What a network finds in the labelled pictures, as it was kept or anew.
    fn detections(&self, labelled: &Labelled, checkpoint: &Checkpoint, file: &Path) -> Result<Vec<Scored>> {
        let fail = |path: &Path, source| Error::Io { file: path.display().to_string(), source };
        let bytes = std::fs::read(file).map_err(|source| fail(file, source))?;
        let (network, pictures) = (sha256(&bytes), labelled.dataset.images.len());
        let key = sha256(format!("{network} {} {pictures} {}", labelled.sha256, labelled.photos.display()).as_bytes());
        let folder = self.folder.join("detections");
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let kept = folder.join(format!("{stem}-{}.json", &key[..12]));
        if kept.is_file() {
            return Ok(read_detections(&kept)?.0);
        }
        self.progress.begin(&format!("detecting with {stem}"), pictures);
        let run = detect_all(checkpoint, labelled.dataset, labelled.photos, || self.progress.step())?;
        if let Some(problem) = run.problems.first() {
            // Pictures without detections would pass for a bad network.
            let problem = format!("{} of the {pictures} annotated pictures can't be used, the first: {problem}", run.problems.len());
            return Err(Error::Dataset { file: labelled.photos.display().to_string(), problem });
        }
        std::fs::create_dir_all(&folder).map_err(|source| fail(&folder, source))?;
        let json = serde_json::to_vec(&run.detections).map_err(|error| Error::Config(error.to_string()))?;
        write(&kept, &json)?;
        Ok(run.detections)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
