//! How sure a measured AP is: the bootstrap over pictures (Efron, 1979).

use super::metrics::Evaluation;
use rayon::prelude::*;

/// The middle 95% of what resampled sets of pictures gave, in 0..1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Intervals of AP and AP50.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Intervals {
    pub ap: Interval,
    pub ap50: Interval,
}

/// Intervals of `one`'s AP and AP50 over `resamples` draws of as many pictures with replacement.
pub fn interval(one: &Evaluation, pictures: usize, resamples: usize, seed: u64) -> Intervals {
    summarise(draws(pictures, resamples, seed, |weights| one.weighted(weights)))
}

/// Intervals of how much more AP and AP50 `one` has than `other` on the same draws, which is far narrower than two
/// intervals apart: both find the same pictures hard.
pub fn paired(one: &Evaluation, other: &Evaluation, pictures: usize, resamples: usize, seed: u64) -> Intervals {
    summarise(draws(pictures, resamples, seed, |weights| {
        let ((a, a50), (b, b50)) = (one.weighted(weights), other.weighted(weights));
        (a - b, a50 - b50)
    }))
}

fn draws(pictures: usize, resamples: usize, seed: u64, measure: impl Fn(&[u32]) -> (f64, f64) + Sync) -> Vec<(f64, f64)> {
    let draw = |resample| {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(resample as u64));
        let mut weights = vec![0; pictures];
        for _ in 0..pictures {
            weights[random.usize(..pictures)] += 1;
        }
        measure(&weights)
    };
    (0..resamples).into_par_iter().map(draw).collect()
}

fn summarise(values: Vec<(f64, f64)>) -> Intervals {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get((share * (values.len().max(1) - 1) as f64).round() as usize).copied().unwrap_or(0.0);
        Interval { low: at(0.025), high: at(0.975) }
    };
    let (ap, ap50) = values.into_iter().unzip();
    Intervals { ap: middle(ap), ap50: middle(ap50) }
}
