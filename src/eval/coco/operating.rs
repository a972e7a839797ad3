//! The score from which on detections are best shown: an operating point on the precision-recall curve of all classes together.

use super::matching::Area;
use super::metrics::Evaluation;
use serde::Serialize;

/// What is shown, and what of it is right, at one score threshold and an intersection over union of at least 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Detections with at least this score are shown.
    pub threshold: f64,
    pub precision: f64,
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
}

impl OperatingPoint {
    /// Where F1 is highest; none where nothing that is found is right.
    pub fn best(evaluation: &Evaluation) -> Option<Self> {
        let classes = || evaluation.matches.iter().map(|matches| &matches[Area::All as usize]);
        let positives: u64 = classes().flat_map(|matches| &matches.positives).map(|&n| u64::from(n)).sum();
        let judged = classes().flat_map(|matches| &matches.judged).filter(|judged| judged.ignored & 1 == 0);
        let mut all: Vec<(f64, bool)> = judged.map(|judged| (judged.score, judged.matched & 1 == 1)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut shown, mut right) = (0u64, 0u64);
        let mut best: Option<Self> = None;
        // Those of one score are shown together or not at all.
        for equal in all.chunk_by(|a, b| a.0 == b.0) {
            shown += equal.len() as u64;
            right += equal.iter().filter(|(_, right)| *right).count() as u64;
            let f1 = 2.0 * right as f64 / (shown + positives) as f64;
            if right > 0 && best.is_none_or(|best| f1 > best.f1) {
                let (precision, recall) = (right as f64 / shown as f64, right as f64 / positives as f64);
                best = Some(Self { threshold: equal[0].0, precision, recall, f1 });
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::coco::matching::{Judged, Matches};

    fn evaluation(scores: &[(f64, bool)], positives: u32) -> Evaluation {
        let judged = |&(score, right): &(f64, bool)| Judged { score, image: 0, rank: 0, matched: u16::from(right), ignored: 0 };
        let matches = || Matches { judged: scores.iter().map(judged).collect(), positives: vec![positives] };
        Evaluation { matches: vec![[matches(), matches(), matches(), matches()]] }
    }

    #[test]
    fn the_best_point_weighs_what_is_right_against_what_is_shown() {
        // Three of four boxes are found; the wrong one at 0.6 costs less than the right one at 0.5 gains, those below don't pay.
        let found = [(0.9, true), (0.7, true), (0.6, false), (0.5, true), (0.3, false), (0.3, false), (0.1, true)];
        let best = OperatingPoint::best(&evaluation(&found, 4)).unwrap();
        assert_eq!((best.threshold, best.precision, best.recall), (0.5, 0.75, 0.75));
        assert!((best.f1 - 0.75).abs() < 1e-12);
        // Of equal scores none is shown without the other.
        let best = OperatingPoint::best(&evaluation(&[(0.9, true), (0.9, false)], 1)).unwrap();
        assert_eq!((best.precision, best.recall), (0.5, 1.0));
        assert_eq!(OperatingPoint::best(&evaluation(&[(0.9, false)], 1)), None);
    }
}
