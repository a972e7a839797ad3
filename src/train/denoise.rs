//! Noised copies of the targets, as queries that know which target they are to answer for.
//!
//! Queries that start near a target learn to refine boxes from the first step on, long before matching is stable: DN-DETR (Li
//! et al. 2022, arXiv:2203.01305). Copies that are further off and have to find nothing teach to leave that to the nearest:
//! contrastive denoising of DINO (Zhang et al. 2022, arXiv:2203.03605), whose noise on corners this is.

use super::Target;

/// Boxes are at least this wide and high, and half of it away from the view's edge: so their logits are finite.
const LEAST_SIDE: f32 = 1e-3;

/// A query made of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noised {
    /// The class that it is told.
    pub class_in: usize,
    /// The box that it is told: (centre x, centre y, width, height) in 0..1.
    pub bounds: [f32; 4],
    /// The index of the target that it has to answer for; none if it has to find nothing.
    pub target: Option<usize>,
    /// Queries of different groups mustn't see each other: each group has every target once.
    pub group: usize,
}

/// How copies differ from their targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Each corner moves by up to this part of half the width and half the height.
    pub boxes: f32,
    /// How many copies are told a class drawn from all.
    pub flip: f32,
    /// Whether each copy comes with one that moves by once to twice as much and has to find nothing.
    pub negatives: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self { boxes: 0.4, flip: 0.2, negatives: false }
    }
}

/// Up to `groups` groups of noised copies of the targets whose weight is at least `least`, at most `capacity` copies together: by
/// group, in which negatives come last. Where not even one group fits, it has some of the targets, by chance. `classes`
/// are those that objects can have, no-object not counted.
pub fn noised(rng: &mut fastrand::Rng, targets: &[Target], least: f32, classes: usize, groups: usize, capacity: usize, noise: &Noise) -> Vec<Noised> {
    let mut certain: Vec<usize> = (0..targets.len()).filter(|&t| targets[t].weight >= least && targets[t].weight > 0.0).collect();
    let copies = if noise.negatives { 2 } else { 1 };
    if certain.len() * copies > capacity {
        rng.shuffle(&mut certain);
        certain.truncate(capacity / copies);
    }
    if certain.is_empty() {
        return Vec::new();
    }
    let groups = groups.min(capacity / (certain.len() * copies));
    let mut queries = Vec::with_capacity(groups * certain.len() * copies);
    for group in 0..groups {
        for negative in [false, true].into_iter().take(copies) {
            for &t in &certain {
                let Target { class, bounds, .. } = targets[t];
                let class_in = if classes > 0 && rng.f32() < noise.flip { rng.usize(..classes) } else { class };
                let bounds = moved(rng, bounds, noise.boxes, negative);
                queries.push(Noised { class_in, bounds, target: (!negative).then_some(t), group });
            }
        }
    }
    queries
}

/// The box with its corners moved; by more than `noise` if it is to be a wrong one.
fn moved(rng: &mut fastrand::Rng, bounds: [f32; 4], noise: f32, negative: bool) -> [f32; 4] {
    let mut to = [0.0; 4];
    for axis in 0..2 {
        let (centre, half) = (bounds[axis], bounds[axis + 2] / 2.0);
        let mut end = |at: f32| {
            let far = rng.f32() + if negative { 1.0 } else { 0.0 };
            at + half * noise * if rng.bool() { far } else { -far }
        };
        let ends = [end(centre - half), end(centre + half)].map(|end| end.clamp(0.0, 1.0));
        // More noise than 1 can make the corners change places.
        let size = (ends[0] - ends[1]).abs().clamp(LEAST_SIDE, 1.0 - LEAST_SIDE);
        to[axis] = ((ends[0] + ends[1]) / 2.0).clamp((size + LEAST_SIDE) / 2.0, 1.0 - (size + LEAST_SIDE) / 2.0);
        to[axis + 2] = size;
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::iou;

    fn targets(certain: usize) -> Vec<Target> {
        let doubtful = Target { class: 9, bounds: [0.5; 4], weight: 0.1 };
        let at = |i| Target { class: i % 3, bounds: [0.3 + 0.01 * i as f32, 0.6, 0.3, 0.2], weight: 1.0 };
        (0..certain).map(at).chain([doubtful, Target { weight: 0.0, ..doubtful }]).collect()
    }

    #[test]
    fn groups_have_every_certain_target_once_as_capacity_lets() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (certain, groups, capacity, negatives, expected) in
            [(5, 3, 40, false, 3), (5, 30, 40, false, 8), (5, 30, 40, true, 4), (40, 3, 40, false, 1), (0, 3, 40, true, 0), (3, 0, 40, true, 0)]
        {
            let queries = noised(&mut rng, &targets(certain), 0.3, 3, groups, capacity, &Noise { negatives, ..Noise::default() });
            let mut answered: Vec<_> = queries.iter().filter_map(|query| query.target.map(|target| (query.group, target))).collect();
            answered.sort_unstable();
            assert_eq!(answered, (0..expected).flat_map(|group| (0..certain).map(move |target| (group, target))).collect::<Vec<_>>());
            let negative = queries.len() - answered.len();
            assert_eq!(negative, if negatives { answered.len() } else { 0 });
            assert!(queries.len() <= capacity);
        }
        // More than fit: some of them, each once.
        let queries = noised(&mut rng, &targets(60), 0.3, 3, 4, 40, &Noise { negatives: true, ..Noise::default() });
        let mut answered: Vec<_> = queries.iter().filter_map(|query| query.target).collect();
        answered.sort_unstable();
        answered.dedup();
        assert_eq!((queries.len(), answered.len()), (40, 20));
        assert!(answered.iter().any(|target| *target >= 20), "not only the first ones");
    }

    #[test]
    fn boxes_stay_near_their_targets_and_negatives_further_off() {
        let mut rng = fastrand::Rng::with_seed(2);
        let bounds = [0.5, 0.5, 0.3, 0.2];
        let target = Target { class: 0, bounds, weight: 1.0 };
        let queries = noised(&mut rng, &[target], 0.3, 80, 1000, 2000, &Noise { negatives: true, ..Noise::default() });
        for query in &queries {
            let moved_by = |low: f32| {
                (0..2).map(move |axis| {
                    (query.bounds[axis] + low * query.bounds[axis + 2] - bounds[axis] - low * bounds[axis + 2]).abs() / (bounds[axis + 2] / 2.0)
                })
            };
            for by in moved_by(-0.5).chain(moved_by(0.5)) {
                let range = if query.target.is_some() { 0.0..0.4001 } else { 0.3999..0.8001 };
                assert!(range.contains(&by), "{query:?}: {by}");
            }
        }
        let mean = |negative: bool| {
            let overlaps: Vec<_> = queries.iter().filter(|query| query.target.is_none() == negative).map(|query| iou(query.bounds, bounds)).collect();
            overlaps.iter().sum::<f32>() / overlaps.len() as f32
        };
        assert!(mean(false) > mean(true) + 0.1);
        let flipped = queries.iter().filter(|query| query.class_in != 0).count() as f32 / queries.len() as f32;
        assert!((flipped - 0.2).abs() < 0.04, "{flipped}");
    }

    #[test]
    fn boxes_are_inside_the_view() {
        let mut rng = fastrand::Rng::with_seed(3);
        for bounds in [[0.5, 0.5, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.99, 0.01, 0.02, 0.02], [0.5, 0.5, 3.0, 1e-6]] {
            let target = Target { class: 0, bounds, weight: 1.0 };
            for query in noised(&mut rng, &[target], 0.3, 1, 100, 100, &Noise { boxes: 1.5, ..Noise::default() }) {
                let [x, y, width, height] = query.bounds;
                assert!(width >= LEAST_SIDE && height >= LEAST_SIDE, "{query:?}");
                for (centre, size) in [(x, width), (y, height)] {
                    assert!(centre - size / 2.0 > 0.0 && centre + size / 2.0 < 1.0, "{query:?}");
                }
            }
        }
    }
}
