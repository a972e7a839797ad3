//! Which views of which pictures make up a training step. Any step can be asked for, so that a resumed run goes on exactly.

use crate::hash;

/// Goes through all pictures, each time in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    pictures: usize,
    views: usize,
    batch: usize,
    seed: u64,
}

impl Sampler {
    pub fn new(pictures: usize, views: usize, batch: usize, seed: u64) -> Self {
        Self { pictures, views, batch, seed }
    }

    /// Picture and view of each example of step `n`, counted from 0. An epoch's last step goes on in the next epoch.
    pub fn step(&self, n: usize) -> Vec<(usize, usize)> {
        let mut examples = Vec::with_capacity(self.batch);
        if self.pictures == 0 || self.views == 0 {
            return examples;
        }
        let start = n as u128 * self.batch as u128;
        let (mut epoch, mut first) = (start / self.pictures as u128, (start % self.pictures as u128) as usize);
        while examples.len() < self.batch {
            let missing = self.batch - examples.len();
            examples.extend(self.epoch(epoch).into_iter().skip(first).take(missing));
            (epoch, first) = (epoch + 1, 0);
        }
        examples
    }

    /// How many steps show every picture once.
    pub fn steps_per_epoch(&self) -> f64 {
        self.pictures as f64 / self.batch as f64
    }

    /// All pictures in this epoch's order, each in a view that the seed chooses.
    fn epoch(&self, epoch: u128) -> Vec<(usize, usize)> {
        let mut random = fastrand::Rng::with_seed(hash::number(&[&self.seed.to_le_bytes(), &epoch.to_le_bytes()]));
        let mut examples: Vec<_> = (0..self.pictures).map(|picture| (picture, random.usize(..self.views))).collect();
        random.shuffle(&mut examples);
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_shows_every_picture_once_in_another_order() {
        let sampler = Sampler::new(10, 4, 4, 1);
        let stream: Vec<_> = (0..5).flat_map(|n| sampler.step(n)).collect();
        let epochs: Vec<Vec<usize>> = stream.chunks(10).map(|epoch| epoch.iter().map(|example| example.0).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(epochs.len(), 2);
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn a_step_depends_on_its_number_and_the_seed_alone() {
        let sampler = Sampler::new(100, 8, 16, 1);
        assert_eq!(sampler.step(1_000_000), Sampler::new(100, 8, 16, 1).step(1_000_000));
        assert_ne!(sampler.step(3), Sampler::new(100, 8, 16, 2).step(3));
    }

    #[test]
    fn all_views_are_used_alike() {
        let sampler = Sampler::new(100, 4, 100, 1);
        let mut seen = [0; 4];
        (0..100).flat_map(|n| sampler.step(n)).for_each(|(_, view)| seen[view] += 1);
        assert!(seen.iter().all(|&seen| (2_300..2_700).contains(&seen)), "{seen:?}");
    }

    #[test]
    fn a_batch_may_be_larger_than_all_there_is() {
        let examples = Sampler::new(3, 1, 8, 1).step(5);
        assert_eq!(examples.len(), 8);
        assert!((0..3).all(|picture| examples.iter().filter(|example| example.0 == picture).count() >= 2));
        assert_eq!(Sampler::new(0, 1, 8, 1).step(0), []);
    }
}
