//! How often a teacher's boxes are right, by their scores.
//!
//! A detector's score ranks its boxes; it needn't be the share of them that are right, and what is learnt of boxes that mostly are wrong is
//! wrong. Where people have labelled the same classes of the same pictures, the share can be measured. It is fitted by a sigmoid of the
//! score's logit: Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with its targets that keep the fit finite.

use crate::boxes::iou;
use crate::train::Target;

/// With fewer boxes that people's labels tell right from wrong nothing is measured.
pub const FEWEST: usize = 100;
/// From which overlap on a box is right.
const OVERLAP: f32 = 0.5;

/// Tells from a score how sure a box is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surety {
    slope: f64,
    offset: f64,
}

impl Surety {
    /// `judged` are scores, each with whether its box was right. `None` where there are too few, or where a higher score is no better.
    pub fn fit(judged: &[(f64, bool)]) -> Option<Self> {
        let right = judged.iter().filter(|judged| judged.1).count();
        let aims = [1.0 / ((judged.len() - right) as f64 + 2.0), (right as f64 + 1.0) / (right as f64 + 2.0)];
        let points: Vec<(f64, f64)> = judged.iter().map(|&(score, right)| (logit(score), aims[usize::from(right)])).collect();
        let mut fit = Self { slope: 1.0, offset: 0.0 };
        // Newton's method, each step halved until it is one downhill: the loss is convex.
        for _ in 0..100 {
            let (mut gradient, mut curvature) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
            for &(x, aim) in &points {
                let p = fit.at(x);
                for (sum, by) in gradient.iter_mut().zip([x, 1.0]) {
                    *sum += (p - aim) * by;
                }
                for (sum, by) in curvature.iter_mut().zip([x * x, x, 1.0]) {
                    *sum += p * (1.0 - p) * by;
                }
            }
            let ([g, h], [xx, x, one]) = (gradient, curvature);
            let determinant = xx * one - x * x;
            let step = [(one * g - x * h) / determinant, (xx * h - x * g) / determinant];
            let stepped = |share: f64| Self { slope: fit.slope - share * step[0], offset: fit.offset - share * step[1] };
            let before = fit.loss(&points);
            let Some(next) = (0..20).map(|halvings| stepped(0.5_f64.powi(halvings))).find(|next| next.loss(&points) < before) else { break };
            fit = next;
        }
        (judged.len() >= FEWEST && fit.slope > 0.0 && fit.slope.is_finite() && fit.offset.is_finite()).then_some(fit)
    }

    /// The share of boxes with this score that are right.
    pub fn of(self, score: f64) -> f64 {
        self.at(logit(score))
    }

    fn at(self, x: f64) -> f64 {
        1.0 / (1.0 + (-self.slope * x - self.offset).exp())
    }

    /// Cross-entropy.
    fn loss(self, points: &[(f64, f64)]) -> f64 {
        let of = |&(x, aim): &(f64, f64)| {
            let z = self.slope * x + self.offset;
            z.max(0.0) + (-z.abs()).exp().ln_1p() - aim * z
        };
        points.iter().map(of).sum()
    }
}

/// A teacher's box: score and (centre x, centre y, width, height).
pub type Scored = (f64, [f32; 4]);

/// Which of a teacher's boxes of one class on one picture are right, by what people found there. Each of their objects has one box, the
/// highest score choosing first; where they couldn't tell, nothing is told.
pub fn judge(boxes: &mut [Scored], people: &[&Target]) -> Vec<(f64, bool)> {
    boxes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut taken = vec![false; people.len()];
    let mut judged = Vec::new();
    for &(score, bounds) in &*boxes {
        let free = (0..people.len()).filter(|&i| !taken[i]).map(|i| (iou(bounds, people[i].bounds), i));
        let nearest = free.filter(|(overlap, _)| *overlap >= OVERLAP).max_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((_, i)) if people[i].weight < 1.0 => {}
            Some((_, i)) => {
                taken[i] = true;
                judged.push((score, true));
            }
            None => judged.push((score, false)),
        }
    }
    judged
}

/// Scores of 0 and 1 have none.
fn logit(score: f64) -> f64 {
    let score = score.clamp(1e-4, 1.0 - 1e-4);
    (score / (1.0 - score)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_right_is_found_again() {
        let truth = Surety { slope: 2.5, offset: -0.3 };
        let mut random = fastrand::Rng::with_seed(1);
        let judged: Vec<(f64, bool)> = (0..20_000)
            .map(|_| {
                let score = random.f64();
                (score, random.f64() < truth.of(score))
            })
            .collect();
        let found = Surety::fit(&judged).unwrap();
        for score in [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0] {
            assert!((found.of(score) - truth.of(score)).abs() < 0.03, "{score}: {} instead of {}", found.of(score), truth.of(score));
        }
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        let all =
            |count: usize, right: fn(f64) -> bool| (0..count).map(|i| i as f64 / count as f64).map(|score| (score, right(score))).collect::<Vec<_>>();
        // Nothing but right boxes, or a score that parts right from wrong without any overlap, still gives finite numbers.
        for judged in [all(200, |_| true), all(200, |score| score > 0.5), all(200, |_| false)] {
            assert!(Surety::fit(&judged).is_none_or(|fit| [0.0, 0.5, 1.0].iter().all(|&score| (0.0..=1.0).contains(&fit.of(score)))));
        }
        assert!(Surety::fit(&all(200, |score| score > 0.5)).is_some_and(|fit| fit.of(0.9) > 0.95 && fit.of(0.1) < 0.05));
        assert_eq!(Surety::fit(&all(FEWEST - 1, |score| score > 0.5)), None);
        assert_eq!(Surety::fit(&all(200, |score| score < 0.5)), None);
        assert_eq!(Surety::fit(&[]), None);
    }

    #[test]
    fn each_object_has_one_box_and_what_people_could_not_tell_is_left_out() {
        let at = |x: f32, weight: f32| Target { class: 0, bounds: [x, 0.5, 0.2, 0.2], weight };
        let (sure, difficult) = (at(0.2, 1.0), at(0.7, 0.0));
        let mut boxes = [(0.3, [0.2, 0.5, 0.2, 0.2]), (0.9, [0.21, 0.5, 0.2, 0.2]), (0.5, [0.7, 0.5, 0.2, 0.2]), (0.4, [0.5, 0.1, 0.1, 0.1])];
        assert_eq!(judge(&mut boxes, &[&sure, &difficult]), [(0.9, true), (0.4, false), (0.3, false)]);
        assert_eq!(judge(&mut [], &[&sure]), []);
    }
}
