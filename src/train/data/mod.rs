//! Labelled pictures as a training step wants them: labels from several files, random views, the backbone's features from disk.

mod cache;
mod close_up;
mod images;
mod labels;
mod repeat;
mod sampler;
mod surety;
mod view;

pub use cache::{Features, one_size};
pub use close_up::Views;
pub use images::Images;
pub use labels::{Counts, Labelled, Pictures};
pub use sampler::Sampler;

use super::Example;
use super::teacher::Teacher;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// All examples of a training run, in the order of its steps.
pub struct Data {
    pictures: Pictures,
    features: Features,
    /// Of the pictures that can be used.
    sampler: Sampler,
    /// With its own backbone's features of the same pictures.
    teacher: Option<(Teacher, Features)>,
}

impl Data {
    /// `features` are those of `pictures`; `rare` is the share of pictures below which a class has its pictures shown more often (0: all
    /// alike); `seed` decides which examples a step has.
    pub fn new(pictures: Pictures, features: Features, rare: f64, batch: usize, seed: u64) -> Result<Self> {
        let usable: Vec<&Labelled> = features.usable().iter().map(|&picture| &pictures.list[picture]).collect();
        if usable.is_empty() || features.views().count == 0 || batch == 0 {
            let usable = usable.len();
            let problem = format!("{usable} pictures in {} views can't make batches of {batch}", features.views().count);
            return Err(Error::Dataset { file: pictures.folder.display().to_string(), problem });
        }
        let sampler = Sampler::new(&repeat::factors(&usable, rare), features.views().count, batch, seed);
        Ok(Self { sampler, pictures, features, teacher: None })
    }

    /// With what a teacher says of every example; `features` are those that its backbone makes of the same views.
    pub fn taught(self, teacher: Teacher, features: Features) -> Self {
        Self { teacher: Some((teacher, features)), ..self }
    }

    /// The examples of a step, counted from 0.
    pub fn batch(&self, step: usize) -> Result<Vec<Example>> {
        // A picture for each core at a time, for a teacher has much to do for each.
        self.sampler.step(step).into_par_iter().map(|(place, view)| self.example(self.features.usable()[place], view)).collect()
    }

    /// A picture (its index in the list) in a view.
    fn example(&self, picture: usize, number: usize) -> Result<Example> {
        let labelled = &self.pictures.list[picture];
        let targets = self.features.views().view(labelled, number).targets(&labelled.targets, labelled.size);
        let lesson = self.teacher.as_ref().map(|(teacher, features)| teacher.lesson(&features.get(picture, number)?)).transpose()?;
        Ok(Example { features: self.features.get(picture, number)?, targets, known: labelled.known.clone(), lesson })
    }

    pub fn pictures(&self) -> &Pictures {
        &self.pictures
    }

    /// How many steps show all pictures, each as often as it is to be repeated.
    pub fn steps_per_epoch(&self) -> f64 {
        self.sampler.steps_per_epoch()
    }

    /// Which pictures couldn't be decoded, a sentence each.
    pub fn undecoded(&self) -> &[String] {
        &self.features.problems
    }
}

#[cfg(test)]
mod tests {
    use super::cache::tests::{open, pictures};
    use super::*;
    use crate::train::Target;
    use std::path::Path;

    /// Three pictures of which the first can't be decoded, each with one object of the class that is its number.
    fn data(folder: &Path, rare: f64, batch: usize) -> Result<Data> {
        let mut pictures = pictures(folder);
        for (class, picture) in pictures.list.iter_mut().enumerate() {
            picture.targets = vec![Target { class, bounds: [0.25, 0.5, 0.5, 0.5], weight: 1.0 }];
            picture.known = (0..3).map(|other| other == class).collect();
        }
        Data::new(pictures, open(folder, 3).0, rare, batch, 1)
    }

    #[test]
    fn labels_view_and_features_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let data = data(folder.path(), 0.0, 4).unwrap();
        let pairs = data.sampler.step(3);
        let examples = data.batch(3).unwrap();
        assert_eq!(examples.len(), 4);
        for ((place, number), example) in pairs.into_iter().zip(examples) {
            let picture = place + 1;
            let labelled = &data.pictures.list[picture];
            let view = data.features.views().view(labelled, number);
            assert_eq!(example.targets, view.targets(&labelled.targets, [10, 20]));
            assert_eq!(example.features, data.features.get(picture, number).unwrap());
            assert_eq!(example.known.iter().position(|&known| known), Some(picture));
        }
    }

    #[test]
    fn a_picture_that_cannot_be_decoded_is_named_and_never_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let data = data(folder.path(), 0.0, 2).unwrap();
        assert!((0..20).flat_map(|step| data.batch(step).unwrap()).all(|example| !example.known[0]));
        assert_eq!(data.undecoded().len(), 1);
        assert_eq!(data.steps_per_epoch(), 1.0);
    }

    #[test]
    fn an_empty_batch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(data(folder.path(), 0.0, 0).is_err());
    }

    #[test]
    fn rare_classes_make_an_epoch_longer() {
        let folder = tempfile::tempdir().unwrap();
        let data = data(folder.path(), 0.9, 3).unwrap();
        // Each class is in one of the two pictures that can be used: √(0.9 / 0.5) times 2, rounded up.
        assert_eq!(data.steps_per_epoch(), 1.0);
        for step in 0..10 {
            let examples = data.batch(step).unwrap();
            assert!([1_usize, 2].iter().all(|&picture| examples.iter().any(|example| example.known[picture])));
        }
    }

    #[test]
    fn threads_can_share_the_data() {
        fn shared<T: Sync + Send>() {}
        shared::<Data>();
    }
}
