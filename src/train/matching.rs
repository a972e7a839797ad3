//! Which query answers for which target.
//!
//! Each target gets the query that costs least, all targets taken together: bipartite matching as in DETR (Carion et al. 2020,
//! arXiv:2005.12872, section 3.1).

use super::loss::{Criterion, Predicted};
use super::{Target, loss::Weights};
use crate::boxes::giou;
use crate::config::ClassActivation;
use pathfinding::kuhn_munkres::kuhn_munkres_min;
use pathfinding::matrix::Matrix;

/// What stands for a cost that is not a number: dearer than any other.
const DEAREST: f64 = 1e6;

/// Costs are compared as whole numbers of this size: the search for the least sum then always ends, and its sums are exact.
/// (`DEAREST` of a thousand pairs still fits an i64.)
const GRAIN: f64 = 1.0 / (1u64 << 32) as f64;

/// The focal loss's exponent and its share for positives, as in Deformable DETR's cost.
const FOCUS: f32 = 2.0;
const POSITIVE: f32 = 0.25;

impl Criterion {
    /// Whether a target is sure enough to be answered for by a query.
    pub fn is_certain(&self, target: &Target) -> bool {
        target.weight >= self.least && target.weight > 0.0
    }

    /// The cheapest pairs (query, index into `targets`), each query at most once. A certain target gets `repeat` queries
    /// (one for DETR's set prediction, several for one-to-many supervision) if there are enough; a doubtful one gets none.
    /// Numbers that aren't finite match last, so the result is always a matching.
    pub fn assign(&self, predicted: &Predicted, targets: &[Target], repeat: usize) -> Vec<(usize, usize)> {
        let objects = self.objects(predicted.classes);
        let certain: Vec<usize> = (0..targets.len()).filter(|&t| self.is_certain(&targets[t]) && targets[t].class < objects).collect();
        if certain.is_empty() {
            return Vec::new();
        }
        let wanted: Vec<_> = certain.iter().map(|&t| (targets[t].class, targets[t].bounds)).collect();
        let costs = pair_costs(self.activation, self.costs, predicted, &wanted);
        let columns = certain.len() * repeat;
        let pairs = cheapest(predicted.queries(), columns, |query, column| costs[query * certain.len() + column % certain.len()]);
        pairs.into_iter().map(|(query, column)| (query, certain[column % certain.len()])).collect()
    }
}

/// What it costs that a query answers for an object of a class with a box: `[queries, wanted]`.
pub(super) fn pair_costs(activation: ClassActivation, weights: Weights, predicted: &Predicted, wanted: &[(usize, [f32; 4])]) -> Vec<f64> {
    let mut costs = Vec::with_capacity(predicted.queries() * wanted.len());
    for query in 0..predicted.queries() {
        let (logits, bounds) = (predicted.logits_of(query), predicted.bounds_of(query));
        let scale = match activation {
            ClassActivation::Softmax => log_sum_exp(logits.iter().copied()),
            ClassActivation::Sigmoid => 0.0,
        };
        for &(class, aim) in wanted {
            let class = match activation {
                ClassActivation::Softmax => -(logits[class] - scale).exp(),
                ClassActivation::Sigmoid => focal_cost(logits[class]),
            };
            let l1: f32 = bounds.iter().zip(aim).map(|(b, aim)| (b - aim).abs()).sum();
            costs.push(f64::from(weights.class * class + weights.l1 * l1 - weights.giou * giou(bounds, aim)));
        }
    }
    costs
}

/// How much the focal loss (Lin et al. 2017) of one logit would fall if the class were there, as in Deformable DETR.
fn focal_cost(logit: f32) -> f32 {
    let p = 1.0 / (1.0 + (-logit).exp());
    let positive = POSITIVE * (1.0 - p).powf(FOCUS) * -(p + 1e-8).ln();
    let negative = (1.0 - POSITIVE) * p.powf(FOCUS) * -(1.0 - p + 1e-8).ln();
    positive - negative
}

/// `ln Σ exp(x)`, without overflow.
pub(super) fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f32 {
    let most = values.clone().fold(f32::NEG_INFINITY, f32::max);
    if most.is_finite() { most + values.map(|x| (x - most).exp()).sum::<f32>().ln() } else { most }
}

/// The cheapest matching of rows and columns in which the fewer of them all take part: pairs (row, column), by row.
pub(super) fn cheapest(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<(usize, usize)> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    let whole = |row, column| {
        let cost = cost(row, column);
        let cost = if cost.is_finite() { cost.clamp(-DEAREST, DEAREST) } else { DEAREST };
        (cost / GRAIN).round() as i64
    };
    // The library's matrix can't have more rows than columns.
    if rows <= columns {
        let (_, column_of) = kuhn_munkres_min(&Matrix::from_fn(rows, columns, |(row, column)| whole(row, column)));
        column_of.into_iter().enumerate().collect()
    } else {
        let (_, row_of) = kuhn_munkres_min(&Matrix::from_fn(columns, rows, |(column, row)| whole(row, column)));
        let mut pairs: Vec<_> = row_of.into_iter().enumerate().map(|(column, row)| (row, column)).collect();
        pairs.sort_unstable();
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheapest_in_sum_not_one_by_one() {
        // Row 0 would take column 0 for itself, at the price of row 1.
        let costs = [[1.0, 2.0, 9.0], [1.0, 9.0, 9.0]];
        assert_eq!(cheapest(2, 3, |r, c| costs[r][c]), [(0, 1), (1, 0)]);
        assert_eq!(cheapest(3, 2, |r, c| costs[c][r]), [(0, 1), (1, 0)]);
    }

    #[test]
    fn numbers_that_are_none_match_last() {
        let costs = [[f64::NAN, 2.0], [f64::INFINITY, f64::NEG_INFINITY], [3.0, f64::NAN]];
        assert_eq!(cheapest(3, 2, |r, c| costs[r][c]), [(0, 1), (2, 0)]);
        assert_eq!(cheapest(2, 2, |_, _| f64::NAN).len(), 2);
        assert_eq!(cheapest(0, 2, |_, _| 0.0), []);
    }

    #[test]
    fn targets_get_as_many_queries_as_asked_for_and_doubtful_ones_none() {
        let criterion = Criterion::new(ClassActivation::Sigmoid);
        let at = |x: f32, weight: f32| Target { class: 0, bounds: [x, 0.5, 0.2, 0.2], weight };
        let targets = [at(0.2, 1.0), at(0.5, 0.1), at(0.8, 0.5)];
        let boxes: Vec<f32> = [0.78, 0.22, 0.5, 0.2, 0.8].into_iter().flat_map(|x| [x, 0.5, 0.2, 0.2]).collect();
        let predicted = Predicted { logits: &[0.0; 5], boxes: &boxes, classes: 1 };
        assert_eq!(criterion.assign(&predicted, &targets, 1), [(3, 0), (4, 2)]);
        assert_eq!(criterion.assign(&predicted, &targets, 2), [(0, 2), (1, 0), (3, 0), (4, 2)]);
        assert_eq!(criterion.assign(&predicted, &targets, 9).len(), 5);
        assert_eq!(criterion.assign(&predicted, &[], 1), []);
    }

    #[test]
    fn a_diverged_network_still_gets_a_matching() {
        let targets = [Target { class: 1, bounds: [0.5; 4], weight: 1.0 }; 3];
        for activation in [ClassActivation::Softmax, ClassActivation::Sigmoid] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let predicted = Predicted { logits: &[bad; 12], boxes: &[bad; 16], classes: 3 };
                assert_eq!(Criterion::new(activation).assign(&predicted, &targets, 1).len(), 3);
            }
        }
    }
}
