//! Pictures with their true boxes, as COCO's annotation files hold them (<https://cocodataset.org/#format-data>).

use super::id::{Id, Ids};
use super::read;
use crate::error::Result;
use std::path::Path;

/// Pictures with their true boxes.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// In the order of their ids.
    pub images: Vec<Image>,
    /// In the order of their ids.
    pub categories: Vec<Category>,
    pub annotations: Vec<Annotation>,
    /// What of the file is left out, a sentence for each kind.
    pub problems: Vec<String>,
    /// What was assumed of the file, a sentence each.
    pub notes: Vec<String>,
    /// Places in `images`.
    pub(super) image_ids: Ids,
    /// Places in `categories`; several ids may have one.
    pub(super) category_ids: Ids,
}

#[derive(Clone, Debug)]
pub struct Image {
    pub id: Id,
    /// Below the pictures' folder.
    pub file_name: String,
    /// Width and height in pixels, where the file states them: its boxes are in these.
    pub size: Option<[f64; 2]>,
    /// Why the picture can't be used, where that is known ([`super::image_folder::ImageFolder::locate`]).
    pub absent: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Category {
    pub id: Id,
    pub name: String,
}

/// One true box.
#[derive(Clone, Debug)]
pub struct Annotation {
    /// Its place in [`Dataset::images`].
    pub image: usize,
    /// Its place in [`Dataset::categories`].
    pub category: usize,
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    /// In square pixels; of the object's outline where there is one, so it may be less than the box's.
    pub area: f64,
    /// Several objects: detections in it are neither right nor wrong.
    pub crowd: bool,
    /// How sure a detector was that labelled the picture; nothing where a person did.
    pub score: Option<f64>,
    /// Only where pycocotools takes it for something: the same for annotations that share an id; 0 is the id 0.
    pub id: Option<u32>,
}

impl Annotation {
    /// pycocotools has no match for an annotation whose id is 0: that is its mark for none.
    pub fn is_zero(&self) -> bool {
        self.id == Some(0)
    }
}

impl Dataset {
    /// Reads an annotation file. What can't be used is left out and named in `problems`.
    pub fn open(path: &Path) -> Result<Self> {
        read::open(path)
    }

    /// Leaves the first `pictures` pictures and their boxes.
    pub fn truncate(&mut self, pictures: usize) {
        self.images.truncate(pictures);
        self.annotations.retain(|annotation| annotation.image < pictures);
        self.image_ids = self.images.iter().map(|image| &image.id).zip(0..).collect();
    }

    /// With other categories, and no boxes.
    pub fn with_categories(self, categories: Vec<Category>) -> Self {
        let category_ids = categories.iter().map(|category| &category.id).zip(0..).collect();
        Self { categories, category_ids, annotations: Vec::new(), ..self }
    }
}

/// Tells if labels state the width and the height that a picture was `found` to have the other way round: their boxes are then of the pixels
/// as the file stores them, not of the upright picture.
pub fn turned(name: &str, [width, height]: [f64; 2], found: [usize; 2]) -> Option<String> {
    let [across, down] = found.map(|side| side as f64);
    (across != down && (width, height) == (down, across)).then(|| format!("{name}: the labels say {width}×{height}, the picture is {across}×{down}"))
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
