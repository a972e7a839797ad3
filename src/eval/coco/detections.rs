//! COCO's result files: lists of scored boxes.

use super::dataset::{Annotation, Dataset};
use super::id::Id;
use super::json::{self, first, invalid};
use super::read::AnnotationEntry;
use super::tally::Tally;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One detected box, as in COCO's result files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub image_id: Id,
    pub category_id: Id,
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    pub score: f64,
}

/// Whether a file is a list, as result files are.
pub fn is_list(path: &Path) -> Result<bool> {
    Ok(first(path)? == Some('['))
}

/// Reads a result file, and tells what of it is left out, a sentence for each kind.
pub fn read_detections(path: &Path) -> Result<(Vec<Scored>, Vec<String>)> {
    const WHAT: &str = "these aren't COCO detections (a list of image_id, category_id, bbox, score)";
    let (mut detections, mut left_out, mut count) = (Vec::new(), Tally::default(), 0);
    let parsed = json::list(&json::read(path)?, |value| {
        count += 1;
        let entry = AnnotationEntry::of(&value);
        match scored(&entry) {
            Ok(scored) => detections.push(scored),
            Err(problem) => left_out.add("detection", problem, || format!("detection {count}{}", entry.named())),
        }
    });
    parsed.map_err(|error| invalid(path, &format!("{WHAT}: {error}")))?;
    let problems = left_out.left_out();
    match problems.first() {
        Some(problem) if detections.is_empty() => Err(invalid(path, &format!("{WHAT}: {problem}"))),
        _ => Ok((detections, problems)),
    }
}

/// A detection's box may be a line or inside out: it counts as one that is wrong.
fn scored(entry: &AnnotationEntry) -> Result<Scored, &'static str> {
    let (bbox, _) = entry.bbox.clone()?;
    let image_id = entry.image_id.clone().ok_or("it has no image_id")?;
    let category_id = entry.category_id.clone().ok_or("it has no category_id")?;
    let score = entry.score.ok_or("it has no score")?;
    if !score.is_finite() {
        return Err("the score isn't finite");
    }
    Ok(Scored { image_id, category_id, bbox, score })
}

impl Dataset {
    /// The places of a detection's image and category, or why it counts for nothing.
    pub fn places(&self, found: &Scored) -> Result<(usize, usize), &'static str> {
        let image = self.image_ids.place(&found.image_id).ok_or("no image has its image_id")?;
        Ok((image, self.category_ids.place(&found.category_id).ok_or("no category has its category_id")?))
    }

    /// Which detections count for nothing.
    pub fn strays(&self, detections: &[Scored]) -> Tally {
        let mut strays = Tally::default();
        for (i, found) in detections.iter().enumerate() {
            if let Err(problem) = self.places(found) {
                strays.add("detection", problem, || format!("detection {}: image_id {}, category_id {}", i + 1, found.image_id, found.category_id));
            }
        }
        strays
    }

    /// Its images and categories with detected boxes in the place of the true ones. Strays are left out and named in `problems`.
    pub fn detected(self, detections: &[Scored]) -> Self {
        let annotation = |found: &Scored| {
            let (image, category) = self.places(found).ok()?;
            let Scored { bbox, score, .. } = *found;
            Some(Annotation { image, category, bbox, area: bbox[2] * bbox[3], crowd: false, score: Some(score), id: None })
        };
        let annotations = detections.iter().filter_map(annotation).collect();
        Self { annotations, problems: self.strays(detections).left_out(), ..self }
    }
}
