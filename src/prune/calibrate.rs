//! One pass over the pictures that sums up what the maps of a network are given.

use super::difference::Answer;
use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, each_lane};
use super::keep::numbers;
use crate::config::Config;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::model::Detr;
use crate::watch::{Observe, Seen, Watch};
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

    /// Queries that have detected something on any picture, with at least this score.
    pub fn used(&self, score: f32) -> Vec<usize> {
        let count = self.0.first().map_or(0, Vec::len);
        (0..count).filter(|&query| self.0.iter().any(|seen| seen[query] >= Self::LEAST + score)).collect()
    }

    /// The weights of a map's rows for a picture; none where they aren't queries.
    pub fn rows(&self, map: &str, picture: usize, count: usize) -> Option<&[f32]> {
        let of_memory = map.ends_with("cross_attention.key") || map.ends_with("cross_attention.value");
        let weights = self.0.get(picture).filter(|weights| weights.len() == count)?;
        ((map.starts_with("decoder.") && !of_memory) || map.contains("_head")).then_some(weights)
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
            gram.add(&rows, self.relevance.rows(seen.layer, self.picture, rows.len() / gram.width));
        }
        Ok(())
    }
}

/// Sums over the inputs of these maps. `done` is called after each picture.
pub fn calibrate(
    config: &Config,
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
    config: &Config,
    weights: &Weights,
    inputs: &Inputs,
    start: impl Fn() -> Result<O> + Sync,
    tell: impl Fn(&mut O, usize) + Sync,
    mut take: impl FnMut(O) + Send,
    done: &(dyn Fn() + Sync),
) -> Result<()> {
    // One network for all lanes: what the observer would gather isn't touched by loading.
    let detr = Detr::load(&Watch::new(Cpu, start()?), config, weights)?;
    let work = |watch: &mut Watch<Cpu, O>, index| {
        watch.with_observer(|observer| tell(observer, index));
        inputs.run(watch, &detr, index)?;
        done();
        Ok(())
    };
    each_lane(inputs.len(), || Ok(Watch::new(Cpu, start()?)), work, |watch| take(watch.into_observer()))
}
