//! One pass over the pictures that sums up what the maps of a network are given.

use super::difference::Answer;
use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, Runner, each_lane};
use super::keep::numbers;
use crate::config::Architecture;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::watch::{Observe, Seen};
use crate::weights::Weights;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Rows of one picture that are summed for a map: more say little that is new, for neighbours are alike.
pub const MOST_ROWS: usize = 512;

/// A number in 0..1 for each picture, so that not all are looked at in the same places.
pub fn offset(picture: usize) -> f64 {
    // The plastic number's inverse: another irrational than the one that places are spread by.
    (picture as f64 * 0.754_877_666_246_692_8).fract()
}

/// Sums by the names of maps.
pub type Grams = BTreeMap<String, Gram>;

/// How much each query of each picture counts: what detects nothing needn't be preserved as well as what does.
pub struct Relevance(Vec<Vec<f32>>);

impl Relevance {
    /// What a query that sees nothing counts, in scores.
    const LEAST: f32 = 0.02;

    /// By the parent's scores.
    pub fn of(seen: &[Answer]) -> Self {
        Self(seen.iter().map(|seen| (0..seen.queries()).map(|query| Self::LEAST + seen.best(query)).collect()).collect())
    }

    /// How much each query is used: the squares of what it counts, over all pictures.
    pub fn queries(&self) -> Vec<f64> {
        let count = self.0.first().map_or(0, Vec::len);
        (0..count).map(|query| self.0.iter().map(|seen| f64::from(seen[query]).powi(2)).sum()).collect()
    }

    /// That of the first queries alone.
    pub fn first(&self, count: usize) -> Self {
        Self(self.0.iter().map(|weights| weights.iter().take(count).copied().collect()).collect())
    }

    /// Queries that have detected something on any picture, with at least this score.
    pub fn used(&self, score: f32) -> Vec<usize> {
        let count = self.0.first().map_or(0, Vec::len);
        (0..count).filter(|&query| self.0.iter().any(|seen| seen[query] >= Self::LEAST + score)).collect()
    }

    /// The weights of those of a map's `total` rows for a picture that are sampled, all without a sampling; none where they aren't queries.
    pub fn rows(&self, map: &str, picture: usize, total: usize, sampling: Option<Sampling>) -> Option<Vec<f32>> {
        let of_memory = map.ends_with("cross_attention.key") || map.ends_with("cross_attention.value");
        let on_boxes = ["initial_box.", "query_position.", "selection.box."].iter().any(|part| map.starts_with(part));
        let of_queries = (map.starts_with("decoder.") && !of_memory) || map.contains("_head") || on_boxes;
        let weights = self.0.get(picture).filter(|weights| of_queries && weights.len() == total)?;
        Some(match sampling {
            Some(sampling) => sampling.rows(total).into_iter().map(|row| weights[row]).collect(),
            None => weights.clone(),
        })
    }
}

struct Gather<'a> {
    grams: Grams,
    relevance: &'a Relevance,
    picture: usize,
}

impl Observe<Tensor> for Gather<'_> {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        if let Some(gram) = self.grams.get_mut(seen.layer) {
            let sampling = Sampling { most: MOST_ROWS, offset: offset(self.picture) };
            let rows = rows(&numbers(seen.input)?, seen.input.dims(), seen.window, |total| sampling.rows(total))?;
            let total = seen.input.elem_count() / seen.input.dims().last().copied().unwrap_or(1).max(1);
            gram.add(&rows, self.relevance.rows(seen.layer, self.picture, total, Some(sampling)).as_deref());
        }
        Ok(())
    }
}

/// Sums over the inputs of these maps. `done` is called after each picture.
pub fn calibrate(
    config: &Architecture,
    weights: &Weights,
    inputs: &Inputs,
    maps: &[String],
    relevance: &Relevance,
    done: &(dyn Fn() + Sync),
) -> Result<Grams> {
    let empty = || -> Result<Grams> {
        let gram = |map: &String| {
            let tensor = weights.named(&format!("{map}.weight"))?;
            Ok((map.clone(), Gram::new(tensor.len() / tensor.shape.first().copied().unwrap_or(1).max(1))))
        };
        maps.iter().map(gram).collect()
    };
    let start = || Ok(Gather { grams: empty()?, relevance, picture: 0 });
    let mut sums: Option<Grams> = None;
    let take = |Gather { grams, .. }: Gather| match &mut sums {
        None => sums = Some(grams),
        Some(sums) => sums.values_mut().zip(grams.values()).for_each(|(sum, gram)| sum.merge(gram)),
    };
    observed(config, weights, inputs, start, |gather, picture| gather.picture = picture, take, done)?;
    sums.map_or_else(empty, Ok)
}

/// One pass over the pictures with observers, which `start` makes and which are told before each picture which one it is. `take` is given
/// each in the end, always in the same order. `done` is called after each picture.
pub fn observed<O: Observe<Tensor> + Send>(
    config: &Architecture,
    weights: &Weights,
    inputs: &Inputs,
    start: impl Fn() -> Result<O> + Sync,
    tell: impl Fn(&mut O, usize) + Sync,
    take: impl FnMut(O) + Send,
    done: &(dyn Fn() + Sync),
) -> Result<()> {
    let runner = Runner::watched(&Cpu, config, weights)?;
    let work = |observer: &mut O, index| {
        tell(observer, index);
        inputs.run(&Cpu, &runner, index, observer)?;
        done();
        Ok(())
    };
    each_lane(inputs.len(), start, work, take)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::difference::look;
    use crate::prune::tiny;

    /// However many queries there are, those that detect nothing count little.
    #[test]
    fn queries_count_by_what_they_detect_however_many_there_are() {
        for queries in [4, MOST_ROWS, MOST_ROWS + 1, 700] {
            let (mut config, _) = tiny::network();
            config.set_queries(queries);
            let weights = crate::checkpoint::random(config.clone(), "many", 3).weights;
            let inputs = tiny::inputs(&config, 2);
            let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
            let maps = ["decoder.1.ffn1", "class_head", "decoder.1.cross_attention.key"].map(String::from);
            let grams = calibrate(&config, &weights, &inputs, &maps, &relevance, &|| {}).unwrap();
            for map in &maps[..2] {
                let counted = |picture: usize| {
                    let sampling = Sampling { most: MOST_ROWS, offset: offset(picture) };
                    sampling.rows(queries).into_iter().map(|row| f64::from(relevance.0[picture][row])).sum::<f64>()
                };
                let expected = counted(0) + counted(1);
                assert!((grams[map].count - expected).abs() < 1e-3 * expected, "{map}, {queries} queries: {} {expected}", grams[map].count);
                // All alike, they would count one each.
                assert!(expected < 0.99 * 2.0 * queries.min(MOST_ROWS) as f64, "{expected}");
            }
            // What the pictures say counts by itself.
            let memory = grams[&maps[2]].count;
            assert!(memory.fract() == 0.0 && memory > 0.0, "{memory}");
        }
    }
}
