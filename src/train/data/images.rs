//! Views of images as pixels: for a network that is trained from these on, nothing is kept on the disk.

use super::close_up::Views;
use super::labels::{Labelled, Pictures};
use super::sampler::Sampler;
use super::{one_size, repeat};
use crate::config::Pixels;
use crate::error::{Error, Result};
use crate::image::{self, prepare};
use crate::train::rt_detr::{Example, Teacher};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// All examples of a training run, in the order of its steps.
pub struct Images {
    pictures: Pictures,
    views: Views,
    sampler: Sampler,
    pixels: Pixels,
    teacher: Option<Teacher>,
    /// Images that could not be decoded, a sentence each.
    broken: Mutex<BTreeSet<String>>,
}

impl Images {
    /// Prepared as `pixels` says; `rare` and `seed` as for [`Data`](super::Data). Fails where images aren't of one size.
    pub fn new(pictures: Pictures, views: Views, pixels: &Pixels, rare: f64, batch: usize, seed: u64) -> Result<Self> {
        one_size(pixels.resize)?;
        let all: Vec<&Labelled> = pictures.list.iter().collect();
        if all.is_empty() || views.count == 0 || batch == 0 {
            let problem = format!("{} images in {} views can't make batches of {batch}", all.len(), views.count);
            return Err(Error::Dataset { file: pictures.folder.display().to_string(), problem });
        }
        let sampler = Sampler::new(&repeat::factors(&all, rare), views.count, batch, seed);
        Ok(Self { sampler, views, pixels: pixels.clone(), pictures, teacher: None, broken: Mutex::default() })
    }

    /// With what a teacher makes of every example.
    pub fn taught(self, teacher: Teacher) -> Self {
        Self { teacher: Some(teacher), ..self }
    }

    /// The examples of a step, counted from 0. Images that can't be decoded are left out; that all of a step's are is an error.
    pub fn batch(&self, step: usize) -> Result<Vec<Example>> {
        let drawn = self.sampler.step(step);
        let examples = drawn.into_par_iter().filter_map(|(image, view)| self.example(image, view).transpose()).collect::<Result<Vec<_>>>()?;
        match examples.is_empty() {
            false => Ok(examples),
            true => {
                let first = self.broken().into_iter().next().unwrap_or_default();
                let problem = format!("none of step {}'s images can be decoded ({first})", step + 1);
                Err(Error::Dataset { file: self.pictures.folder.display().to_string(), problem })
            }
        }
    }

    /// An image (its index in the list) in a view; nothing where it can't be decoded.
    fn example(&self, index: usize, number: usize) -> Result<Option<Example>> {
        let labelled = &self.pictures.list[index];
        let picture = match image::open(&self.pictures.folder.join(&labelled.file_name)) {
            Ok(picture) => picture,
            Err(error) => {
                self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(error.to_string());
                return Ok(None);
            }
        };
        let view = self.views.view(labelled, number);
        let seen = view.apply(&picture);
        // Without the batch's axis.
        let prepared = |pixels: &Pixels| {
            let mut pixels = prepare(&seen, pixels)?;
            pixels.shape.remove(0);
            Ok::<_, Error>(pixels)
        };
        let pixels = prepared(&self.pixels)?;
        let teacher = match &self.teacher {
            Some(teacher) if *teacher.pixels() == self.pixels => Some(teacher.outputs(&pixels)?),
            Some(teacher) => Some(teacher.outputs(&prepared(teacher.pixels())?)?),
            None => None,
        };
        let targets = view.targets(&labelled.targets, labelled.size);
        Ok(Some(Example { pixels, targets, known: labelled.known.clone(), teacher }))
    }

    /// How many steps show all images, each as often as it is to be repeated.
    pub fn steps_per_epoch(&self) -> f64 {
        self.sampler.steps_per_epoch()
    }

    /// Which images couldn't be decoded so far, a sentence each.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::tests::pictures;
    use super::*;
    use crate::config::Resize;
    use crate::train::Target;

    fn images(folder: &std::path::Path, batch: usize) -> Images {
        let mut pictures = pictures(folder);
        for picture in &mut pictures.list {
            picture.targets = vec![Target { class: 0, bounds: [0.25, 0.5, 0.5, 0.5], weight: 1.0 }];
            picture.known = [true].into();
        }
        let pixels = Pixels { mean: [0.0; 3], std: [1.0; 3], resize: Resize::Stretch { height: 8, width: 12 } };
        let views = Views::new(3, 5, 0.0, &pictures);
        Images::new(pictures, views, &pixels, 0.0, batch, 1).unwrap()
    }

    #[test]
    fn pixels_and_labels_are_of_one_view_and_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 4);
        let drawn = images.sampler.step(2);
        let examples = images.batch(2).unwrap();
        assert!(!examples.is_empty() && examples.len() < 4, "one of three images is broken");
        assert_eq!(images.broken().len(), 1);
        assert!(images.broken()[0].contains("broken.png"), "{:?}", images.broken());
        let there: Vec<_> = drawn.into_iter().filter(|(image, _)| images.pictures.list[*image].file_name != "broken.png").collect();
        assert_eq!(there.len(), examples.len());
        for ((image, number), example) in there.into_iter().zip(&examples) {
            let labelled = &images.pictures.list[image];
            let view = images.views.view(labelled, number);
            let picture = image::open(&folder.path().join(&labelled.file_name)).unwrap();
            assert_eq!(example.targets, view.targets(&labelled.targets, labelled.size));
            assert_eq!(example.pixels.shape, [8, 12, 3]);
            assert_eq!(example.pixels.to_f32(), prepare(&view.apply(&picture), &images.pixels).unwrap().to_f32());
        }
        for (one, other) in examples.iter().zip(images.batch(2).unwrap()) {
            assert_eq!((&one.pixels, &one.targets), (&other.pixels, &other.targets));
        }
    }

    #[test]
    fn a_step_of_broken_images_alone_is_an_error_that_names_one() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 1);
        let errors: Vec<String> = (0..3).filter_map(|step| images.batch(step).err()).map(|error| error.to_string()).collect();
        assert!(errors.len() == 1 && errors[0].contains("broken.png"), "{errors:?}");
    }
}
