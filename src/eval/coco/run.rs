//! Runs a detector over all pictures of a dataset, on all cores.

use super::dataset::{Dataset, Image, Scored};
use crate::checkpoint::Checkpoint;
use crate::config::Label;
use crate::detector::{Detection, Detections, Detector, Device};
use crate::error::{Error, Result};
use crate::image;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Detections of all pictures, and what was wrong with pictures that could not be used.
#[derive(Debug, Default)]
pub struct Run {
    pub detections: Vec<Scored>,
    pub problems: Vec<String>,
}

/// Every query of every picture under `folder`, whatever its score; `done` is called after each picture.
///
/// Each thread works on its own picture with its own copy of the network, which keeps all cores busy where one small
/// picture could not.
pub fn detect_all(checkpoint: &Checkpoint, dataset: &Dataset, folder: &Path, done: impl Fn() + Sync) -> Result<Run> {
    let categories = categories(&checkpoint.config.labels, dataset)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(dataset.images.len().max(1));
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let mut detector = pollster::block_on(Detector::load(checkpoint, Device::Cpu))?;
        while let Some((index, picture)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            dataset.images.get(index).map(|image| (index, image))
        } {
            let found = image::open(&folder.join(&picture.file_name)).and_then(|pixels| pollster::block_on(detector.detect(&pixels, 0.0)));
            let found = found.map(|found| scored(picture, &found, &categories)).map_err(|error| error.to_string());
            all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, found));
            done();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // One thread in each pool: the cores are already shared out by picture.
        let alone = || match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
            Ok(pool) => pool.install(work),
            Err(_) => work(),
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;

    let mut all = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.sort_by_key(|(index, _)| *index);
    let mut run = Run::default();
    for (_, found) in all {
        match found {
            Ok(found) => run.detections.extend(found),
            Err(problem) => run.problems.push(problem),
        }
    }
    Ok(run)
}

/// The dataset's category of each of the model's classes: by name, else by id.
fn categories(labels: &[Label], dataset: &Dataset) -> Result<Vec<Option<u64>>> {
    let by_name: HashMap<&str, u64> = dataset.categories.iter().map(|c| (c.name.as_str(), c.id)).collect();
    let ids: HashSet<u64> = dataset.categories.iter().map(|c| c.id).collect();
    let named: Vec<Option<u64>> = labels.iter().map(|label| by_name.get(label.name.as_str()).copied()).collect();
    let mapped = if named.iter().any(Option::is_some) {
        named
    } else {
        labels.iter().map(|label| Some(u64::from(label.id)).filter(|id| ids.contains(id))).collect()
    };
    if mapped.iter().all(Option::is_none) {
        let names = |all: Vec<&str>| all.into_iter().take(5).collect::<Vec<_>>().join(", ");
        let (ours, theirs) = (names(labels.iter().map(|l| &*l.name).collect()), names(dataset.categories.iter().map(|c| &*c.name).collect()));
        return Err(Error::Config(format!("the model's classes ({ours} …) and the annotations' categories ({theirs} …) have nothing in common")));
    }
    Ok(mapped)
}

/// Detections in COCO's form. Annotations are in pixels of the size they state, which need not be the file's.
fn scored(image: &Image, found: &Detections, categories: &[Option<u64>]) -> Vec<Scored> {
    let (across, down) = (image.width / found.width as f64, image.height / found.height as f64);
    let coco = |detection: &Detection| {
        let b = detection.bounds;
        let [left, top, right, bottom] = [b.xmin, b.ymin, b.xmax, b.ymax].map(f64::from);
        let bbox = [left * across, top * down, (right - left) * across, (bottom - top) * down];
        let category_id = categories[detection.class]?;
        Some(Scored { image_id: image.id, category_id, bbox, score: f64::from(detection.score) })
    };
    found.detections.iter().filter_map(coco).collect()
}
