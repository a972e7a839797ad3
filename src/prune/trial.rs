//! Plans that keep to a budget, carried out on some of the pictures to see which serves best.
//!
//! A search adds up what each removal does alone, before the repair in the network's order. What that repair mends of a part, and how layers
//! go together, shows only in a network that was trimmed so. So, where that is quick, each part's cuts are carried out alone, and what is
//! predicted of that part from then on is what came of it; then plans with a layer more or fewer than the best yet are, until none shows less.

use super::difference::{Answer, difference, look};
use super::inputs::Inputs;
use super::plan::{Keep, Plan};
use super::repair::Side;
use super::search::{Found, Search};
use super::survey::{Surveyor, affordable};
use super::trim::carry_out;
use crate::error::Result;
use crate::progress::Silent;

/// A plan, and what it was chosen among.
pub struct Tried {
    pub found: Found,
    /// In the order in which they were made; none where none was quick enough.
    pub trials: Vec<Trial>,
}

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Encoder and decoder layers that stayed.
    pub layers: [usize; 2],
    /// Of the outputs on pictures that took no part in it.
    pub difference: f64,
}

/// Pictures to repair by, and as many others to look at.
const PICTURES: usize = 48;
/// The most plans.
const MOST: usize = 12;

/// The plan that shows least, of the search's best and those that lead from it to ever better ones.
pub fn try_plans(surveyor: &Surveyor, mut search: Search) -> Result<Tried> {
    let first = search.best()?;
    let parent = surveyor.parent;
    let most = quick(parent)?;
    if most < 2 || parent.inputs.len() < 2 {
        return Ok(Tried { found: first, trials: vec![] });
    }
    surveyor.progress.begin("trying plans", PARTS.len() + most);
    let mut bench = Bench::new(surveyor, most)?;
    for part in PARTS {
        let alone = first.plan.only(part);
        let predicted = search.survey.predicted_of_cuts(&alone);
        if predicted > 0.0 {
            search.survey.scale(part, bench.difference(&alone)? / predicted);
        }
        surveyor.progress.step();
    }
    let mut found = search.best()?;
    let mut best = bench.measure(&found)?;
    // Each kind's layers in turn, upwards first: what the absence of several layers does together is more than the search can know.
    let mut turns = [(0, true), (0, false), (1, true), (1, false)].into_iter().cycle();
    let mut idle = 0;
    while let Some((kind, more)) = turns.next().filter(|_| idle < 4) {
        idle += 1;
        while let Some(layers) = step(best.layers, kind, more).filter(|layers| bench.is_open(*layers)) {
            let Some(next) = search.with(layers)? else { break };
            let trial = bench.measure(&next)?;
            if trial.difference >= best.difference {
                break;
            }
            (best, found, idle) = (trial, next, 0);
        }
    }
    Ok(Tried { found, trials: bench.trials })
}

/// A layer more or fewer in the encoder (kind 0) or the decoder.
fn step(mut layers: [usize; 2], kind: usize, more: bool) -> Option<[usize; 2]> {
    layers[kind] = if more { layers[kind] + 1 } else { layers[kind].checked_sub(1)? };
    Some(layers)
}

/// Structures whose errors the repair in order mends alike, by their names.
const PARTS: [fn(&str) -> bool; 4] =
    [|name| name.starts_with("backbone."), |name| name.starts_with("neck."), |name| name.ends_with("attention"), |name| name.ends_with(".ffn")];

/// How many plans can be carried out in some minutes on a laptop: fewer of a large network, none of a DETR with a ResNet.
fn quick(parent: &Side) -> Result<usize> {
    const WORK: u64 = 24_000_000_000;
    Ok(affordable(parent.config, WORK, |_| true)?.min(MOST))
}

/// Where plans are tried.
struct Bench<'a> {
    surveyor: &'a Surveyor<'a>,
    inputs: Inputs,
    others: Inputs,
    seen: Vec<Answer>,
    trials: Vec<Trial>,
    most: usize,
}

impl<'a> Bench<'a> {
    fn new(surveyor: &'a Surveyor<'a>, most: usize) -> Result<Self> {
        let parent = surveyor.parent;
        let all = parent.inputs.first(2 * PICTURES);
        let half = all.len() / 2;
        let (inputs, others) = all.split(half);
        let seen = look(parent.config, parent.weights, &others)?;
        Ok(Self { surveyor, inputs, others, seen, trials: vec![], most })
    }

    /// Whether there is room for another trial, and none with so many layers was made.
    fn is_open(&self, layers: [usize; 2]) -> bool {
        self.trials.len() < self.most && self.trials.iter().all(|trial| trial.layers != layers)
    }

    fn measure(&mut self, Found { plan, .. }: &Found) -> Result<Trial> {
        let parent = self.surveyor.parent.config;
        let [encoder, decoder] = parent.layers();
        let layers = [encoder - plan.drop_encoder.len(), decoder - plan.drop_decoder.len()];
        let trial = Trial { layers, difference: self.difference(plan)? };
        self.trials.push(trial);
        self.surveyor.progress.step();
        Ok(trial)
    }

    /// What comes of a plan.
    fn difference(&self, plan: &Plan) -> Result<f64> {
        let Surveyor { parent, method, .. } = self.surveyor;
        let done = carry_out(&Side { inputs: &self.inputs, ..**parent }, plan, *method, &Silent)?;
        let mut answers = look(&done.config, &done.weights, &self.others)?;
        if let Some(Keep::Units(kept)) = done.plan.keep.get("queries").filter(|_| parent.config.as_detr().is_some()) {
            answers = answers.iter().map(|answer| answer.among(kept, parent.config.queries())).collect();
        }
        Ok(difference(&self.seen, &answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Card, Storage};
    use crate::prune::budget::{Budget, Limit, Meter};
    use crate::prune::calibrate::Relevance;
    use crate::prune::importance::Importance;
    use crate::prune::tiny;
    use crate::prune::trim::Method;

    #[test]
    fn the_plan_that_shows_least_is_taken_and_keeps_to_the_budget() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 6);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let surveyor = Surveyor::new(&parent, Method { importance: Importance::Obs, repair: true, seed: 0, fold: true }, &Silent);
        let survey = surveyor.survey(false, |name| name != "queries").unwrap();
        let meter = Meter::new(&config, &Card::default(), Storage::F16, None).unwrap();
        let limit: Limit = "-20%".parse().unwrap();
        let search = || Search::new(&config, survey.clone(), &Budget { params: Some(limit), ..Budget::default() }, &meter, 1).unwrap();

        let Tried { found, trials } = try_plans(&surveyor, search()).unwrap();
        let layers = |plan: &Plan| [2 - plan.drop_encoder.len(), 2 - plan.drop_decoder.len()];
        let mut tried: Vec<[usize; 2]> = trials.iter().map(|trial| trial.layers).collect();
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), trials.len());
        assert!(trials.len() > 1);
        let best = trials.iter().min_by(|a, b| a.difference.total_cmp(&b.difference)).unwrap();
        assert_eq!(layers(&found.plan), best.layers);
        let again = Bench::new(&surveyor, 1).unwrap().measure(&found).unwrap();
        assert_eq!(again, *best);
        let costs = |config| meter.costs(config).unwrap().params;
        assert!(costs(&found.plan.config(&config)) <= 0.8 * costs(&config));

        // A part's cuts alone, and what is predicted of them alone.
        let mut scaled = search();
        let plan = scaled.best().unwrap().plan;
        let predicted = |search: &Search| PARTS.map(|part| search.survey.predicted_of_cuts(&plan.only(part)));
        let before = predicted(&scaled);
        assert!(before.iter().any(|predicted| *predicted > 0.0));
        scaled.survey.scale(PARTS[0], 2.0);
        let after = predicted(&scaled);
        assert!((after[0] - 2.0 * before[0]).abs() < 1e-9 && after[1..] == before[1..]);

        // As many layers as are asked for, or nothing.
        for kept in [[2, 1], [1, 2], [1, 1]] {
            let found = search().with(kept).unwrap().unwrap();
            assert_eq!(layers(&found.plan), kept);
        }
        assert!(search().with([0, 1]).unwrap().is_none() && search().with([3, 1]).unwrap().is_none());
    }
}
