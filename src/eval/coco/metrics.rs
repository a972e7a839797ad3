//! COCO's twelve box metrics (`pycocotools/cocoeval.py`, `accumulate` and `summarize`).

use super::dataset::Dataset;
use super::detections::Scored;
use super::matching::{Area, MOST_DETECTIONS, Matches, THRESHOLDS, match_all};
use serde::Serialize;

/// Recall levels at which precision is read: 0.00, 0.01 … 1.00.
pub const LEVELS: usize = 101;

/// Average precision and recall in 0..1; `None` where there is no true box to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Mean over classes and the thresholds 0.50…0.95: what is called AP.
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
    pub ap75: Option<f64>,
    pub ap_small: Option<f64>,
    pub ap_medium: Option<f64>,
    pub ap_large: Option<f64>,
    /// Recall with at most 1, 10 and 100 detections a class and picture.
    pub ar1: Option<f64>,
    pub ar10: Option<f64>,
    pub ar100: Option<f64>,
    pub ar_small: Option<f64>,
    pub ar_medium: Option<f64>,
    pub ar_large: Option<f64>,
}

impl Metrics {
    /// The twelve with COCO's names, in COCO's order.
    pub fn named(&self) -> [(&'static str, Option<f64>); 12] {
        [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("AP small", self.ap_small),
            ("AP medium", self.ap_medium),
            ("AP large", self.ap_large),
            ("AR 1", self.ar1),
            ("AR 10", self.ar10),
            ("AR 100", self.ar100),
            ("AR small", self.ar_small),
            ("AR medium", self.ar_medium),
            ("AR large", self.ar_large),
        ]
    }
}

/// Precision at the 101 recall levels, and the highest recall.
#[derive(Clone, Debug)]
pub struct Curve {
    pub precision: [f64; LEVELS],
    pub recall: f64,
}

/// Detections matched with true boxes, from which every metric follows.
pub struct Evaluation {
    /// By category in the dataset's order, then by [`Area::EVERY`].
    pub matches: Vec<[Matches; 4]>,
}

impl Evaluation {
    pub fn new(dataset: &Dataset, detections: &[Scored]) -> Self {
        Self { matches: match_all(dataset, detections) }
    }

    pub fn metrics(&self) -> Metrics {
        use Area::*;
        let every = 0..THRESHOLDS;
        let precision = |area, thresholds: std::ops::Range<usize>| self.mean(area, thresholds, MOST_DETECTIONS, |c| mean(&c.precision));
        let recall = |area, most| self.mean(area, 0..THRESHOLDS, most, |c| c.recall);
        Metrics {
            ap: precision(All, every.clone()),
            ap50: precision(All, 0..1),
            ap75: precision(All, 5..6),
            ap_small: precision(Small, every.clone()),
            ap_medium: precision(Medium, every.clone()),
            ap_large: precision(Large, every),
            ar1: recall(All, 1),
            ar10: recall(All, 10),
            ar100: recall(All, MOST_DETECTIONS),
            ar_small: recall(Small, MOST_DETECTIONS),
            ar_medium: recall(Medium, MOST_DETECTIONS),
            ar_large: recall(Large, MOST_DETECTIONS),
        }
    }

    /// AP and AP50 of one category.
    pub fn category(&self, category: usize) -> (Option<f64>, Option<f64>) {
        let matches = &self.matches[category][Area::All as usize];
        let ap = |threshold| curve(matches, threshold, MOST_DETECTIONS, None).map(|c| mean(&c.precision));
        let every: Option<Vec<f64>> = (0..THRESHOLDS).map(ap).collect();
        (every.as_deref().map(mean), ap(0))
    }

    /// AP and AP50 when each picture counts as often as `weights` says.
    pub fn weighted(&self, weights: &[u32]) -> (f64, f64) {
        let (mut all, mut at50) = (Vec::new(), Vec::new());
        for matches in &self.matches {
            for threshold in 0..THRESHOLDS {
                if let Some(curve) = curve(&matches[Area::All as usize], threshold, MOST_DETECTIONS, Some(weights)) {
                    let precision = mean(&curve.precision);
                    all.push(precision);
                    if threshold == 0 {
                        at50.push(precision);
                    }
                }
            }
        }
        (mean(&all), mean(&at50))
    }

    /// Precision at each recall level, averaged over the classes that have true boxes.
    pub fn mean_curve(&self, threshold: usize) -> Option<[f64; LEVELS]> {
        let curves: Vec<Curve> = self.matches.iter().filter_map(|m| curve(&m[Area::All as usize], threshold, MOST_DETECTIONS, None)).collect();
        (!curves.is_empty()).then(|| std::array::from_fn(|level| mean(&curves.iter().map(|c| c.precision[level]).collect::<Vec<_>>())))
    }

    fn mean(&self, area: Area, thresholds: std::ops::Range<usize>, most: usize, read: impl Fn(&Curve) -> f64) -> Option<f64> {
        let mut values = Vec::new();
        for matches in &self.matches {
            values.extend(thresholds.clone().filter_map(|t| curve(&matches[area as usize], t, most, None)).map(|c| read(&c)));
        }
        (!values.is_empty()).then(|| mean(&values))
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The precision-recall curve of one class at one threshold; `None` without a true box.
fn curve(matches: &Matches, threshold: usize, most: usize, weights: Option<&[u32]>) -> Option<Curve> {
    let weight = |image: usize| weights.map_or(1, |w| w[image]);
    let positives: u64 = matches.positives.iter().enumerate().map(|(image, &n)| u64::from(n) * u64::from(weight(image))).sum();
    if positives == 0 {
        return None;
    }
    let bit = 1 << threshold;
    let (mut right, mut wrong) = (0u64, 0u64);
    let (mut recalls, mut precisions) = (Vec::new(), Vec::new());
    for judged in matches.judged.iter().filter(|j| j.rank < most) {
        if judged.ignored & bit == 0 {
            let weight = u64::from(weight(judged.image));
            if judged.matched & bit != 0 { right += weight } else { wrong += weight }
        }
        recalls.push(right as f64 / positives as f64);
        precisions.push(right as f64 / ((right + wrong) as f64 + f64::EPSILON));
    }
    for i in (1..precisions.len()).rev() {
        precisions[i - 1] = precisions[i - 1].max(precisions[i]);
    }
    let mut precision = [0.0; LEVELS];
    let mut place = 0;
    for (level, precision) in precision.iter_mut().enumerate() {
        let recall = if level == LEVELS - 1 { 1.0 } else { level as f64 * 0.01 };
        place += recalls[place..].partition_point(|&r| r < recall);
        match precisions.get(place) {
            Some(&p) => *precision = p,
            None => break,
        }
    }
    Some(Curve { precision, recall: recalls.last().copied().unwrap_or(0.0) })
}
