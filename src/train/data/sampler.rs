//! Which views of which pictures make up a training step. Any step can be asked for, so that a resumed run goes on exactly.

use crate::hash;

/// Goes through all pictures, each time in another order.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// How often an epoch shows each picture and all before it together; never less than the one before. The last is a whole number, so that all
    /// epochs are of one length.
    until: Vec<f64>,
    views: usize,
    batch: usize,
    seed: u64,
}

impl Sampler {
    /// `repeats` says how often an epoch shows each picture: 2.5 is twice in every other epoch, three times in the others.
    pub fn new(repeats: &[f64], views: usize, batch: usize, seed: u64) -> Self {
        let mut until: Vec<f64> = repeats
            .iter()
            .scan(0.0, |sum, repeats| {
                *sum += repeats;
                Some(*sum)
            })
            .collect();
        if let Some(last) = until.last_mut() {
            *last = last.ceil();
        }
        Self { until, views, batch, seed }
    }

    /// Picture and view of each example of step `n`, counted from 0. An epoch's last step goes on in the next epoch.
    pub fn step(&self, n: usize) -> Vec<(usize, usize)> {
        let mut examples = Vec::new();
        let length = self.length();
        if length == 0 || self.views == 0 {
            return examples;
        }
        let start = n as u128 * self.batch as u128;
        let (mut epoch, mut first) = (start / length as u128, (start % length as u128) as usize);
        while examples.len() < self.batch {
            let missing = self.batch - examples.len();
            examples.extend(self.epoch(epoch).into_iter().skip(first).take(missing));
            (epoch, first) = (epoch + 1, 0);
        }
        examples
    }

    /// How many steps an epoch has.
    pub fn steps_per_epoch(&self) -> f64 {
        self.length() as f64 / self.batch as f64
    }

    /// Examples of an epoch.
    fn length(&self) -> usize {
        self.until.last().map_or(0, |&last| last as usize)
    }

    /// All pictures in this epoch's order, each in views that the seed chooses.
    fn epoch(&self, epoch: u128) -> Vec<(usize, usize)> {
        let key = |what: &[u8]| hash::number(&[&self.seed.to_le_bytes(), &epoch.to_le_bytes(), what]);
        // Systematic sampling: whole numbers from a random offset on fall into each picture's stretch, as many every time.
        let offset = fastrand::Rng::with_seed(key(b"offset")).f64();
        let shown = self.until.iter().map(|until| (until + offset) as usize);
        let mut random = fastrand::Rng::with_seed(key(b""));
        let mut examples: Vec<_> = shown
            .scan(0, |before, until| Some(until - std::mem::replace(before, until)))
            .enumerate()
            .flat_map(|(picture, times)| std::iter::repeat_n(picture, times))
            .map(|picture| (picture, random.usize(..self.views)))
            .collect();
        random.shuffle(&mut examples);
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_shows_every_picture_once_in_another_order() {
        let sampler = Sampler::new(&[1.0; 10], 4, 4, 1);
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
        let sampler = Sampler::new(&[1.0; 100], 8, 16, 1);
        assert_eq!(sampler.step(1_000_000), Sampler::new(&[1.0; 100], 8, 16, 1).step(1_000_000));
        assert_ne!(sampler.step(3), Sampler::new(&[1.0; 100], 8, 16, 2).step(3));
    }

    #[test]
    fn all_views_are_used_alike() {
        let sampler = Sampler::new(&[1.0; 100], 4, 100, 1);
        let mut seen = [0; 4];
        (0..100).flat_map(|n| sampler.step(n)).for_each(|(_, view)| seen[view] += 1);
        assert!(seen.iter().all(|&seen| (2_300..2_700).contains(&seen)), "{seen:?}");
    }

    #[test]
    fn a_batch_may_be_larger_than_all_there_is() {
        let examples = Sampler::new(&[1.0; 3], 1, 8, 1).step(5);
        assert_eq!(examples.len(), 8);
        assert!((0..3).all(|picture| examples.iter().filter(|example| example.0 == picture).count() >= 2));
        assert_eq!(Sampler::new(&[], 1, 8, 1).step(0), []);
    }

    #[test]
    fn pictures_come_as_often_as_they_are_to_be_repeated() {
        let sampler = Sampler::new(&[1.0, 2.5, 1.0, 0.5, 3.25], 2, 9, 1);
        // 8.25 in all, of which the last makes 9.
        assert_eq!(sampler.steps_per_epoch(), 1.0);
        let mut seen = [0; 5];
        for n in 0..400 {
            let examples = sampler.step(n);
            let times = |picture| examples.iter().filter(|example| example.0 == picture).count();
            assert!((2..=3).contains(&times(1)) && times(3) <= 1 && times(4) == 4, "{examples:?}");
            (0..5).for_each(|picture| seen[picture] += times(picture));
        }
        assert_eq!([seen[0], seen[2]], [400, 400]);
        assert!((950..1_050).contains(&seen[1]) && (160..240).contains(&seen[3]), "{seen:?}");
    }

    #[test]
    fn the_last_pictures_are_not_cut_short() {
        // 1.2 in all: rounded down, the epoch would be over before the second picture's stretch is, and the third never shown.
        let sampler = Sampler::new(&[0.6, 0.5, 0.1], 1, 2, 1);
        assert!(sampler.until.is_sorted());
        assert!((0..100).any(|n| sampler.step(n).contains(&(1, 0))) && (0..100).any(|n| sampler.step(n).contains(&(2, 0))));
    }
}
