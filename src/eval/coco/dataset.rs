//! COCO's annotation and detection files (<https://cocodataset.org/#format-data>), as far as boxes go.

use crate::config::Label;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Pictures with their true boxes.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// In the order of their ids.
    pub images: Vec<Image>,
    /// In the order of their ids.
    pub categories: Vec<Category>,
    pub annotations: Vec<Annotation>,
    /// What was wrong in the file and is left out, a sentence each.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    pub id: u64,
    pub file_name: String,
    pub width: f64,
    pub height: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Category {
    pub id: u64,
    pub name: String,
}

/// One true box.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotation {
    pub image_id: u64,
    pub category_id: u64,
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    /// In square pixels; of the object's outline where there is one, so it may be less than the box's.
    #[serde(default)]
    pub area: Option<f64>,
    /// 1 for a crowd: detections in it are neither right nor wrong.
    #[serde(default)]
    pub iscrowd: u8,
    /// How sure a detector was that labelled the picture; nothing where a person did.
    #[serde(default)]
    pub score: Option<f64>,
}

/// One detected box, as in COCO's result files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub image_id: u64,
    pub category_id: u64,
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    pub score: f64,
}

impl Annotation {
    pub fn area(&self) -> f64 {
        self.area.unwrap_or(self.bbox[2] * self.bbox[3])
    }
}

#[derive(Deserialize)]
struct Whole {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

impl Dataset {
    /// Reads an annotation file. Boxes that can't be used are left out and named in `problems`.
    pub fn open(path: &Path) -> Result<Self> {
        let Whole { mut images, annotations, mut categories } = read_json(path, "COCO annotations (images, annotations, categories)")?;
        images.sort_by_key(|image| image.id);
        categories.sort_by_key(|category| category.id);
        let image_ids: HashSet<u64> = images.iter().map(|image| image.id).collect();
        let category_ids: HashSet<u64> = categories.iter().map(|category| category.id).collect();
        if image_ids.len() < images.len() || category_ids.len() < categories.len() {
            return Err(invalid(path, "two pictures or two categories have the same id"));
        }
        let mut problems = Vec::new();
        let mut kept = Vec::with_capacity(annotations.len());
        for (i, annotation) in annotations.into_iter().enumerate() {
            let [_, _, width, height] = annotation.bbox;
            let problem = if !image_ids.contains(&annotation.image_id) {
                format!("there is no picture {}", annotation.image_id)
            } else if !category_ids.contains(&annotation.category_id) {
                format!("there is no category {}", annotation.category_id)
            } else if !annotation.bbox.iter().all(|v| v.is_finite()) || width < 0.0 || height < 0.0 {
                format!("impossible box {:?}", annotation.bbox)
            } else {
                kept.push(annotation);
                continue;
            };
            problems.push(format!("annotation {}: {problem}", i + 1));
        }
        Ok(Self { images, categories, annotations: kept, problems })
    }

    /// Leaves the first `pictures` pictures and their boxes.
    pub fn truncate(&mut self, pictures: usize) {
        self.images.truncate(pictures);
        let kept: HashSet<u64> = self.images.iter().map(|image| image.id).collect();
        self.annotations.retain(|annotation| kept.contains(&annotation.image_id));
    }

    /// The category of each of a model's classes that has one of its name; nothing where none has.
    fn named(&self, labels: &[Label]) -> Option<Vec<Option<u64>>> {
        let by_name: HashMap<&str, u64> = self.categories.iter().map(|c| (c.name.as_str(), c.id)).collect();
        let named: Vec<Option<u64>> = labels.iter().map(|label| by_name.get(label.name.as_str()).copied()).collect();
        named.iter().any(Option::is_some).then_some(named)
    }

    /// The category of each of a model's classes: by name, else by id.
    pub fn categories_of(&self, labels: &[Label]) -> Result<Vec<Option<u64>>> {
        let mapped = self.named(labels).unwrap_or_else(|| {
            let ids: HashSet<u64> = self.categories.iter().map(|c| c.id).collect();
            labels.iter().map(|label| Some(u64::from(label.id)).filter(|id| ids.contains(id))).collect()
        });
        if mapped.iter().all(Option::is_none) {
            let names = |all: Vec<&str>| all.into_iter().take(5).collect::<Vec<_>>().join(", ");
            let (ours, theirs) = (names(labels.iter().map(|l| &*l.name).collect()), names(self.categories.iter().map(|c| &*c.name).collect()));
            return Err(Error::Config(format!("the model's classes ({ours} …) and the annotations' categories ({theirs} …) have nothing in common")));
        }
        Ok(mapped)
    }

    /// How [`Dataset::categories_of`] relates them, where that goes by ids since no name is the same: for people, who may have meant other classes.
    pub fn by_id(&self, labels: &[Label]) -> Option<String> {
        if self.named(labels).is_some() {
            return None;
        }
        let of = |label: &Label| self.categories.iter().find(|category| category.id == u64::from(label.id));
        let pairs = labels.iter().filter_map(|label| Some(format!("{:?} for {:?}", of(label)?.name, label.name)));
        let pairs: Vec<String> = pairs.take(5).collect();
        (!pairs.is_empty()).then(|| format!("no category has the name of one of the model's classes; by their ids, {}", pairs.join(", ")))
    }

    /// Which detections are of pictures or categories that aren't here, and so count for nothing: a sentence each.
    pub fn strays(&self, detections: &[Scored]) -> Vec<String> {
        let stray = self.stray();
        let numbered = detections.iter().enumerate();
        numbered.filter_map(|(i, found)| Some(format!("detection {}: {}", i + 1, stray(found)?))).collect()
    }

    /// Why a detection counts for nothing, where it does.
    fn stray(&self) -> impl Fn(&Scored) -> Option<String> + use<> {
        let (images, categories) = (self.image_index(), self.category_index());
        move |found| {
            if !images.contains_key(&found.image_id) {
                Some(format!("there is no picture {}", found.image_id))
            } else if !categories.contains_key(&found.category_id) {
                Some(format!("there is no category {}", found.category_id))
            } else {
                None
            }
        }
    }

    /// Its pictures and categories with detected boxes in the place of the true ones. Strays are left out and named in `problems`.
    pub fn detected(self, detections: &[Scored]) -> Self {
        let stray = self.stray();
        let annotation = |&Scored { image_id, category_id, bbox, score }: &Scored| {
            let (area, iscrowd, score) = (None, 0, Some(score));
            Annotation { image_id, category_id, bbox, area, iscrowd, score }
        };
        let annotations = detections.iter().filter(|found| stray(found).is_none()).map(annotation).collect();
        Self { annotations, problems: self.strays(detections), ..self }
    }

    /// The index in `images` of each id.
    pub fn image_index(&self) -> HashMap<u64, usize> {
        self.images.iter().enumerate().map(|(i, image)| (image.id, i)).collect()
    }

    /// The index in `categories` of each id.
    pub fn category_index(&self) -> HashMap<u64, usize> {
        self.categories.iter().enumerate().map(|(i, category)| (category.id, i)).collect()
    }
}

/// Whether a file is a list, as result files are.
pub fn is_list(path: &Path) -> Result<bool> {
    let fail = |source| Error::Io { file: path.display().to_string(), source };
    let bytes = BufReader::new(File::open(path).map_err(fail)?).bytes();
    let first = bytes.into_iter().find(|byte| !byte.as_ref().is_ok_and(u8::is_ascii_whitespace)).transpose().map_err(fail)?;
    Ok(first == Some(b'['))
}

/// Reads a result file: a list of scored boxes.
pub fn read_detections(path: &Path) -> Result<Vec<Scored>> {
    let detections: Vec<Scored> = read_json(path, "COCO detections (a list of image_id, category_id, bbox, score)")?;
    match detections.iter().position(|d| !d.score.is_finite() || !d.bbox.iter().all(|v| v.is_finite())) {
        Some(i) => Err(invalid(path, &format!("detection {} has a number that isn't finite", i + 1))),
        None => Ok(detections),
    }
}

/// Tells if labels state the width and the height that a picture was `found` to have the other way round: their boxes are then of the pixels
/// as the file stores them, not of the upright picture.
pub fn turned(name: &str, [width, height]: [f64; 2], found: [usize; 2]) -> Option<String> {
    let [across, down] = found.map(|side| side as f64);
    (across != down && (width, height) == (down, across)).then(|| format!("{name}: the labels say {width}×{height}, the picture is {across}×{down}"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { file: path.display().to_string(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(path, &format!("these aren't {what}: {error}")))
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::Dataset { file: path.display().to_string(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quarter_turn_is_told() {
        assert_eq!(turned("a.jpg", [640.0, 480.0], [480, 640]).unwrap(), "a.jpg: the labels say 640×480, the picture is 480×640");
        // Labels may be of another resolution.
        for found in [[640, 480], [1280, 960], [960, 1280], [480, 480]] {
            assert_eq!(turned("a.jpg", [640.0, 480.0], found), None);
        }
        assert_eq!(turned("a.jpg", [480.0, 480.0], [480, 480]), None);
    }
}
