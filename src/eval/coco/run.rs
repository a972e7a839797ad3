//! Runs a detector over all pictures of a dataset, on all cores.

use super::dataset::{Category, Dataset, Image, turned};
use super::detections::Scored;
use crate::checkpoint::Checkpoint;
use crate::config::{Architecture, NetworkConfig};
use crate::detector::{Detection, Detections, Detector, Device};
use crate::error::{Error, Result};
use crate::{image, share};
use std::path::Path;
use std::sync::Mutex;

/// Detections of all pictures, and what was wrong with pictures that could not be used.
#[derive(Debug, Default)]
pub struct Run {
    pub detections: Vec<Scored>,
    pub problems: Vec<String>,
    /// Which pictures' labels have them turned (see [`turned`]), a sentence each.
    pub turned: Vec<String>,
}

/// Detections of a picture, as many as published figures of an architecture count: of all classes together, where COCO's own limit of 100 is
/// for each class.
fn ranked(architecture: &Architecture) -> usize {
    match architecture {
        Architecture::Detr(_) => 100,
        Architecture::RtDetr(_) => 300,
    }
}

/// The best detections of every picture under `folder`, whatever their scores; `done` is called after each picture.
///
/// Each thread has its own copy of the network.
pub fn detect_all(checkpoint: &Checkpoint<impl NetworkConfig + Sync>, dataset: &Dataset, folder: &Path, done: impl Fn() + Sync) -> Result<Run> {
    let architecture = checkpoint.config.architecture();
    let most = ranked(&architecture);
    let categories = dataset.categories_of(architecture.labels())?;
    let classes: Vec<Option<&Category>> = categories.into_iter().map(|place| dataset.categories.get(place?)).collect();
    let all = Mutex::new(Vec::new());
    let load = || pollster::block_on(Detector::load(checkpoint, Device::Cpu));
    share::each(dataset.images.len(), load, |detector, index| {
        let picture = &dataset.images[index];
        let pixels = match &picture.absent {
            Some(problem) => Err(Error::Image(problem.clone())),
            None => image::open(&folder.join(&picture.file_name)),
        };
        let found = pixels.and_then(|pixels| pollster::block_on(detector.rank(&pixels, most)));
        let measured = |found: Detections| {
            let turned = picture.size.and_then(|size| turned(&picture.file_name, size, [found.width, found.height]));
            (scored(picture, &found, &classes), turned)
        };
        let found = found.map(measured).map_err(|error| error.to_string());
        all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, found));
        done();
        Ok(())
    })?;

    let mut all = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.sort_by_key(|(index, _)| *index);
    let mut run = Run::default();
    for (_, found) in all {
        match found {
            Ok((found, turned)) => {
                run.detections.extend(found);
                run.turned.extend(turned);
            }
            Err(problem) => run.problems.push(problem),
        }
    }
    Ok(run)
}

/// Detections in COCO's form. Annotations are in pixels of the size they state, which need not be the file's; where they state none, it is.
fn scored(image: &Image, found: &Detections, classes: &[Option<&Category>]) -> Vec<Scored> {
    let actual = [found.width, found.height].map(|side| side as f64);
    let [width, height] = image.size.unwrap_or(actual);
    let (across, down) = (width / actual[0], height / actual[1]);
    let coco = |detection: &Detection| {
        let b = detection.bounds;
        let [left, top, right, bottom] = [b.xmin, b.ymin, b.xmax, b.ymax].map(f64::from);
        let bbox = [left * across, top * down, (right - left) * across, (bottom - top) * down];
        let category_id = classes[detection.class]?.id.clone();
        Some(Scored { image_id: image.id.clone(), category_id, bbox, score: f64::from(detection.score) })
    };
    found.detections.iter().filter_map(coco).collect()
}
