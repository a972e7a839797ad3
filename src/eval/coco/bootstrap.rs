//! How sure a measured AP is: the bootstrap over pictures (Efron, 1979).
//!
//! Intervals are the basic ones ("Bootstrap Methods and their Application", Davison and Hinkley, 1997, section 5.2): the AP of resampled pictures
//! lies about the measured one as this lies about that of all pictures there are. It is systematically higher (by a point on the 782 pictures that
//! the embedded models are measured on), and an interval of resampled APs themselves would be shifted twice as far from the truth.

use super::metrics::Evaluation;
use rayon::prelude::*;

/// Where the truth lies with a probability of 95%.
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
    let measure = |weights: &[u32]| one.weighted(weights);
    let within = |Interval { low, high }| Interval { low: f64::max(low, 0.0), high: f64::min(high, 1.0) };
    let Intervals { ap, ap50 } = basic(measure(&vec![1; pictures]), draws(pictures, resamples, seed, measure));
    Intervals { ap: within(ap), ap50: within(ap50) }
}

/// Intervals of how much more AP and AP50 `one` has than `other` on the same draws, which is far narrower than two
/// intervals apart: both find the same pictures hard.
pub fn paired(one: &Evaluation, other: &Evaluation, pictures: usize, resamples: usize, seed: u64) -> Intervals {
    let measure = |weights: &[u32]| {
        let ((a, a50), (b, b50)) = (one.weighted(weights), other.weighted(weights));
        (a - b, a50 - b50)
    };
    basic(measure(&vec![1; pictures]), draws(pictures, resamples, seed, measure))
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

/// What was measured, and what was measured on each draw.
fn basic((ap, ap50): (f64, f64), drawn: Vec<(f64, f64)>) -> Intervals {
    let interval = |measured: f64, mut drawn: Vec<f64>| {
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn.get((share * (drawn.len().max(1) - 1) as f64).round() as usize).copied().unwrap_or(measured);
        Interval { low: 2.0 * measured - at(0.975), high: 2.0 * measured - at(0.025) }
    };
    let (draws, draws50) = drawn.into_iter().unzip();
    Intervals { ap: interval(ap, draws), ap50: interval(ap50, draws50) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resampling_adds_is_taken_away() {
        // Draws from 0.38 to 0.48, by 0.03 too high in the middle.
        let drawn = (0..=1000).map(|i| (0.38 + 0.1 * f64::from(i) / 1000.0, 0.5)).collect();
        let Intervals { ap, ap50 } = basic((0.4, 0.5), drawn);
        assert!((ap.low - 0.3225).abs() < 1e-9 && (ap.high - 0.4175).abs() < 1e-9, "{ap:?}");
        assert_eq!((ap50.low, ap50.high), (0.5, 0.5));
    }
}
