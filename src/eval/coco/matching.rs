//! Which detections are right, by COCO's rules (`pycocotools/cocoeval.py`, `computeIoU` and `evaluateImg`).

use super::dataset::{Annotation, Dataset};
use super::detections::Scored;
use std::collections::HashMap;

/// COCO counts at ten thresholds of intersection over union: 0.50, 0.55 … 0.95.
pub const THRESHOLDS: usize = 10;
/// At most so many detections of a class count in one picture.
pub const MOST_DETECTIONS: usize = 100;

/// The size classes of COCO, in square pixels of the true box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    All,
    Small,
    Medium,
    Large,
}

impl Area {
    pub const EVERY: [Area; 4] = [Area::All, Area::Small, Area::Medium, Area::Large];

    fn holds(self, area: f64) -> bool {
        let (least, most) = match self {
            Area::All => (0.0, 1e10),
            Area::Small => (0.0, 1024.0),
            Area::Medium => (1024.0, 9216.0),
            Area::Large => (9216.0, 1e10),
        };
        (least..=most).contains(&area)
    }
}

/// The threshold of an index, as numpy's `linspace(.5, .95, 10)` gives it.
pub fn threshold(index: usize) -> f64 {
    if index == THRESHOLDS - 1 { 0.95 } else { 0.5 + index as f64 * ((0.95 - 0.5) / 9.0) }
}

/// A detection after matching; bit `t` of the masks is for threshold `t`.
#[derive(Clone, Debug)]
pub struct Judged {
    pub score: f64,
    /// Index of the picture.
    pub image: usize,
    /// Place among the picture's detections of the class, best first.
    pub rank: usize,
    pub matched: u16,
    pub ignored: u16,
}

/// All detections of one class in one size class.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Best first over all pictures.
    pub judged: Vec<Judged>,
    /// True boxes to be found, of each picture.
    pub positives: Vec<u32>,
}

/// The true boxes and the detections of one class in one picture.
#[derive(Clone, Default)]
struct Cell<'a> {
    truths: Vec<&'a Annotation>,
    found: Vec<&'a Scored>,
}

/// Matches of each category (in the dataset's order) in each size class (in the order of [`Area::EVERY`]).
pub fn match_all(dataset: &Dataset, detections: &[Scored]) -> Vec<[Matches; 4]> {
    use rayon::prelude::*;
    let mut cells: Vec<HashMap<usize, Cell>> = vec![HashMap::new(); dataset.categories.len()];
    // pycocotools looks annotations up by their ids: of those that share one it has the last, for each of them.
    let last: HashMap<u32, &Annotation> = dataset.annotations.iter().filter_map(|truth| Some((truth.id?, truth))).collect();
    for truth in &dataset.annotations {
        let truth = truth.id.and_then(|id| last.get(&id)).copied().unwrap_or(truth);
        cells[truth.category].entry(truth.image).or_default().truths.push(truth);
    }
    for found in detections {
        if let Ok((image, category)) = dataset.places(found) {
            cells[category].entry(image).or_default().found.push(found);
        }
    }
    cells.into_par_iter().map(|cell| match_category(cell, dataset.images.len())).collect()
}

fn match_category(cells: HashMap<usize, Cell>, images: usize) -> [Matches; 4] {
    let mut cells: Vec<_> = cells.into_iter().collect();
    cells.sort_by_key(|(image, _)| *image);
    let mut matches = Area::EVERY.map(|_| Matches { judged: Vec::new(), positives: vec![0; images] });
    for (image, Cell { truths, mut found }) in cells {
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(MOST_DETECTIONS);
        let overlaps: Vec<Vec<f64>> = found.iter().map(|f| truths.iter().map(|t| overlap(f, t)).collect()).collect();
        for (area, matches) in Area::EVERY.into_iter().zip(&mut matches) {
            match_picture(image, area, &truths, &found, &overlaps, matches);
        }
    }
    for matches in &mut matches {
        matches.judged.sort_by(|a, b| b.score.total_cmp(&a.score));
    }
    matches
}

/// Best detection first, each takes the true box that it overlaps most and that none has taken; boxes that don't count come last.
fn match_picture(image: usize, area: Area, truths: &[&Annotation], found: &[&Scored], overlaps: &[Vec<f64>], matches: &mut Matches) {
    let ignored: Vec<bool> = truths.iter().map(|t| t.crowd || !area.holds(t.area)).collect();
    let mut order: Vec<usize> = (0..truths.len()).collect();
    order.sort_by_key(|&t| ignored[t]);
    matches.positives[image] = ignored.iter().filter(|&&i| !i).count() as u32;

    let first = matches.judged.len();
    matches.judged.extend(found.iter().enumerate().map(|(rank, f)| Judged { score: f.score, image, rank, matched: 0, ignored: 0 }));
    for index in 0..THRESHOLDS {
        let mut taken = vec![false; truths.len()];
        for (d, judged) in matches.judged[first..].iter_mut().enumerate() {
            let mut best: Option<usize> = None;
            let mut least = threshold(index).min(1.0 - 1e-10);
            for &t in &order {
                if taken[t] && !truths[t].crowd {
                    continue;
                }
                if best.is_some_and(|b| !ignored[b]) && ignored[t] {
                    break;
                }
                if overlaps[d][t] >= least {
                    least = overlaps[d][t];
                    best = Some(t);
                }
            }
            let outside = !area.holds(found[d].bbox[2] * found[d].bbox[3]);
            let ignore = match best {
                Some(t) => {
                    taken[t] = true;
                    let zero = truths[t].is_zero();
                    judged.matched |= u16::from(!zero) << index;
                    ignored[t] || zero && outside
                }
                None => outside,
            };
            judged.ignored |= u16::from(ignore) << index;
        }
    }
}

/// Intersection over union; over the detection's own area where the true box is a crowd.
fn overlap(found: &Scored, truth: &Annotation) -> f64 {
    let ([x0, y0, w0, h0], [x1, y1, w1, h1]) = (found.bbox, truth.bbox);
    let width = (x0 + w0).min(x1 + w1) - x0.max(x1);
    let height = (y0 + h0).min(y1 + h1) - y0.max(y1);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let both = width * height;
    let either = if truth.crowd { w0 * h0 } else { w0 * h0 + w1 * h1 - both };
    both / either
}
