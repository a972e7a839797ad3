//! Labelled pictures as a training step wants them: labels from several files, random views, the backbone's features from disk.

mod cache;
mod labels;
mod sampler;
mod view;

pub use cache::Features;
pub use labels::{Counts, Labelled, Pictures};
pub use sampler::Sampler;
pub use view::View;

use super::Example;
use crate::error::{Error, Result};

/// All examples of a training run, in the order of its steps.
pub struct Data {
    pictures: Pictures,
    features: Features,
    /// Of the pictures that can be used.
    sampler: Sampler,
}

impl Data {
    /// `features` are those of `pictures`; `seed` decides which examples a step has.
    pub fn new(pictures: Pictures, features: Features, batch: usize, seed: u64) -> Result<Self> {
        let usable = features.usable().len();
        if usable == 0 || features.views() == 0 || batch == 0 {
            let problem = format!("{usable} pictures in {} views can't make batches of {batch}", features.views());
            return Err(Error::Dataset { file: pictures.folder.display().to_string(), problem });
        }
        Ok(Self { sampler: Sampler::new(usable, features.views(), batch, seed), pictures, features })
    }

    /// The examples of a step, counted from 0.
    pub fn batch(&self, step: usize) -> Result<Vec<Example>> {
        self.sampler.step(step).into_iter().map(|(place, view)| self.example(self.features.usable()[place], view)).collect()
    }

    /// A picture (its index in the list) in a view.
    fn example(&self, picture: usize, number: usize) -> Result<Example> {
        let Labelled { file_name, size, targets, known, .. } = &self.pictures.list[picture];
        let targets = View::new(self.features.seed(), file_name, number).targets(targets, *size);
        Ok(Example { features: self.features.get(picture, number)?, targets, known: known.clone() })
    }

    pub fn pictures(&self) -> &Pictures {
        &self.pictures
    }

    /// How many steps show every picture once.
    pub fn steps_per_epoch(&self) -> f64 {
        self.sampler.steps_per_epoch()
    }

    /// All that is left out, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.pictures.problems.iter().chain(&self.features.problems).map(String::as_str)
    }
}
