//! How decidedly attention heads attend: the largest weight of each query, on average ("Analyzing Multi-Head Self-Attention", Voita et
//! al., 2019, arXiv:1905.09418, call it confidence).

use super::inputs::{Inputs, lanes};
use super::keep::{numbers, show, watched};
use super::scores::Scores;
use super::structure::{Structure, structures};
use crate::config::Architecture;
use crate::error::Result;
use crate::matrix::{Matrix, product};
use crate::weights::Weights;
use std::collections::BTreeSet;

/// Each head's confidence in 0..1, by the names of structures. `done` is called after each picture.
pub fn confidence(config: &Architecture, weights: &Weights, inputs: &Inputs, done: &(dyn Fn() + Sync)) -> Result<Scores> {
    let all: Vec<Structure> = structures(config).into_iter().filter(has_queries).collect();
    let maps: BTreeSet<String> = all.iter().flat_map(|heads| ["query", "key"].map(|part| format!("{}.{part}", heads.name))).collect();
    let empty = || all.iter().map(|heads| vec![0.0; heads.units]).collect::<Vec<_>>();
    let detr = watched(config, weights)?;
    let found = lanes(
        inputs.len(),
        || Ok(empty()),
        |sums, index| {
            let given = show(&maps, &detr, inputs, index)?;
            let output = |heads: &Structure, part: &str| numbers(&given[&format!("{}.{part}", heads.name)][0].output);
            for (heads, sums) in all.iter().zip(sums) {
                let found = largest(&output(heads, "query")?, &output(heads, "key")?, heads.units, heads.width);
                sums.iter_mut().zip(found).for_each(|(sum, confidence)| *sum += confidence);
            }
            done();
            Ok(())
        },
    )?;
    let mut sums = empty();
    for part in found {
        sums.iter_mut().flatten().zip(part.iter().flatten()).for_each(|(sum, part)| *sum += part);
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= inputs.len().max(1) as f64);
    Ok(all.into_iter().map(|heads| heads.name).zip(sums).collect())
}

/// Whether its units are heads that compare queries with keys. (Those of deformable attention don't.)
fn has_queries(structure: &Structure) -> bool {
    structure.is_heads() && structure.made_by.iter().any(|made| made.tensor.ends_with(".query.weight"))
}

/// Each head's mean over queries of the largest weight; `queries` `[queries, heads * width]`, `keys` `[keys, heads * width]`.
fn largest(queries: &[f32], keys: &[f32], heads: usize, width: usize) -> Vec<f64> {
    let row = heads * width;
    let (count, places) = (queries.len() / row, keys.len() / row);
    let scale = 1.0 / (width as f32).sqrt();
    let mut scores = vec![0.0; count * places];
    let mut head = |head: usize| {
        let (queries, keys) = (&queries[head * width..], &keys[head * width..]);
        let (queries, keys) = (Matrix::new(queries, count, width, row), Matrix::new(keys, places, width, row));
        product(&mut scores, places, queries, keys.transposed(), scale, false);
        // The largest of a softmax: e⁰ over the sum.
        let largest = |scores: &[f32]| {
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            1.0 / scores.iter().map(|x| f64::from(x - most).exp()).sum::<f64>()
        };
        scores.chunks_exact(places).map(largest).sum::<f64>() / count as f64
    };
    (0..heads).map(&mut head).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_attends_everywhere_is_least_confident() {
        // Two heads of width 2; the first asks for nothing, the second for the last of four keys.
        let queries = [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0, 0.0];
        let keys = [1.0, 2.0, 0.0, 1.0, 3.0, 4.0, 0.0, 2.0, 5.0, 6.0, 0.0, 3.0, 7.0, 8.0, 1.0, 4.0];
        let found = largest(&queries, &keys, 2, 2);
        let expected = 1.0 / (1.0 + 3.0 * (-3.0 / 2f64.sqrt()).exp());
        assert!((found[0] - 0.25).abs() < 1e-9 && (found[1] - expected).abs() < 1e-6, "{found:?}");
    }
}
