//! The best predicted network within a budget: greedy steps with look-ahead over what a survey knows ("ZipLM", Kurtić et al., 2023,
//! arXiv:2302.04089, searches over the same levels).

use super::budget::{Budget, Costs, Limits, Meter};
use super::inputs::in_order;
use super::layers::Dropped;
use super::obs;
use super::plan::{Keep, Plan};
use super::size::Smaller;
use super::structure::{Layer, Place, Structure};
use super::survey::{Survey, Surveyed};
use crate::config::Architecture;
use crate::error::{Error, Result};

/// What a search found.
pub struct Found {
    pub plan: Plan,
    /// The sum of what each removal is predicted to do; not a number where nothing was predicted.
    pub predicted: f64,
}

/// Where a search stands.
#[derive(Clone)]
struct State {
    kept: Vec<usize>,
    encoder: usize,
    decoder: usize,
    /// How many sizes smaller.
    size: usize,
}

/// A search for the least predicted difference that keeps to a budget.
pub struct Search<'a> {
    parent: &'a Architecture,
    /// What it predicts by.
    pub survey: Survey,
    meter: &'a Meter<'a>,
    limits: Limits,
    /// Of each structure.
    levels: Vec<Vec<usize>>,
}

impl<'a> Search<'a> {
    /// Kept neurons and channels are multiples of `multiple`. Fails if nothing keeps to the budget.
    pub fn new(parent: &'a Architecture, survey: Survey, budget: &Budget, meter: &'a Meter, multiple: usize) -> Result<Self> {
        let limits = budget.limits(&meter.whole(parent)?)?;
        let levels = survey.structures.iter().map(|surveyed| levels(&surveyed.structure, multiple)).collect();
        let search = Self { parent, survey, meter, limits, levels };
        search.refuse_impossible()?;
        Ok(search)
    }

    /// The best, as far as greedy steps with look-ahead find it at each size of the input.
    pub fn best(&self) -> Result<Found> {
        self.found(None)?.ok_or_else(|| Error::Config("no trimmed network that keeps to the budget was found".into()))
    }

    /// The best with so many encoder and decoder layers; none if there isn't one.
    pub fn with(&self, layers: [usize; 2]) -> Result<Option<Found>> {
        let gone = |count: usize, layers: usize, order: &[Dropped]| count.checked_sub(layers).filter(|gone| *gone <= order.len());
        let [encoder, decoder] = self.parent.layers();
        let encoder = gone(encoder, layers[0], &self.survey.encoder);
        let decoder = gone(decoder, layers[1], &self.survey.decoder);
        encoder.zip(decoder).map_or(Ok(None), |(encoder, decoder)| self.found(Some([encoder, decoder])))
    }

    fn found(&self, gone: Option<[usize; 2]>) -> Result<Option<Found>> {
        let survey = &self.survey;
        // A size goes with other cuts than the next one: a search for each.
        let states = in_order(survey.sizes.len() + 1, |size| self.descend(size, gone))?;
        let best = states.into_iter().flatten().min_by(|a, b| survey.predicted(a).total_cmp(&survey.predicted(b)));
        Ok(best.map(|state| Found { plan: survey.exact(&state), predicted: survey.predicted(&state) }))
    }

    /// From the whole network at one size to one within the limits, if there is any. Where the numbers of layers that go are given, they stay.
    fn descend(&self, size: usize, gone: Option<[usize; 2]>) -> Result<Option<State>> {
        let Self { survey, limits, levels, .. } = self;
        let [encoder, decoder] = gone.unwrap_or_default();
        let whole = survey.structures.iter().map(|surveyed| surveyed.structure.units).collect();
        let mut state = State { kept: whole, encoder, decoder, size };
        let allowed = |next: &State| gone.is_none_or(|gone| gone == [next.encoder, next.decoder]);
        let mut costs = self.costs(&state)?;
        while limits.excess(&costs) > 0.0 {
            let from = survey.predicted(&state);
            let mut best: Option<(f64, State, Costs)> = None;
            let moves: Vec<State> = survey.moves(&state, levels).into_iter().filter(allowed).collect();
            let costs_of_moves = in_order(moves.len(), |i| self.costs(&moves[i]))?;
            for (next, to) in moves.into_iter().zip(costs_of_moves) {
                let gain = limits.gain(&costs, &to);
                if gain <= 0.0 {
                    continue;
                }
                // What is ruined can't be ruined more, which doesn't make it cheap.
                let rise = survey.predicted(&next) - from;
                let price = if rise.is_nan() { f64::INFINITY } else { rise.max(0.0) / gain };
                if best.as_ref().is_none_or(|(least, ..)| price < *least) {
                    best = Some((price, next, to));
                }
            }
            let Some((_, next, to)) = best else { return Ok(None) };
            (state, costs) = (next, to);
        }
        // What the last steps went too far is given back, the dearest first.
        loop {
            let from = survey.predicted(&state);
            let mut back = Vec::new();
            for next in survey.returns(&state, levels).into_iter().filter(allowed) {
                if limits.excess(&self.costs(&next)?) <= 0.0 {
                    back.push((from - survey.predicted(&next), next));
                }
            }
            match back.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(gained, _)| *gained > 0.0) {
                Some((_, next)) => state = next,
                None => break,
            }
        }
        Ok(Some(state))
    }

    fn costs(&self, state: &State) -> Result<Costs> {
        let structures = self.survey.structures.iter().map(|surveyed| &surveyed.structure);
        self.meter.costs(&self.survey.plan(state).config_by(self.parent, structures))
    }

    fn refuse_impossible(&self) -> Result<()> {
        let survey = &self.survey;
        let least = State {
            kept: self.levels.iter().zip(&survey.structures).map(|(levels, s)| levels.last().copied().unwrap_or(s.structure.units)).collect(),
            encoder: survey.encoder.len(),
            decoder: survey.decoder.len(),
            size: survey.sizes.len(),
        };
        match self.limits.exceeded(&self.costs(&least)?) {
            Some((what, most, least)) => {
                let whole = |x: f64| if x >= 1000.0 { format!("{x:.0}") } else { format!("{x:.3}") };
                Err(Error::Config(format!(
                    "no trimmed network has so few {what}: {} are asked for, and {} are the fewest",
                    whole(most),
                    whole(least)
                )))
            }
            None => Ok(()),
        }
    }
}

/// Smaller numbers of units that a structure may keep, in descending order.
fn levels(structure: &Structure, multiple: usize) -> Vec<usize> {
    /// Finer steps make the search slower, not better.
    const MOST: usize = 24;
    let step = match structure.place {
        _ if structure.is_few() => 1,
        Place::Queries => (structure.units / 20).max(1),
        _ => structure.units.div_ceil(MOST).next_multiple_of(multiple.max(1)),
    };
    let highest = (structure.units - 1) / step * step;
    (1..=highest / step).rev().map(|i| i * step).collect()
}

impl Survey {
    fn gone(&self, state: &State) -> Vec<Layer> {
        self.encoder.iter().take(state.encoder).chain(self.decoder.iter().take(state.decoder)).map(|dropped| dropped.layer).collect()
    }

    fn size(&self, state: &State) -> Option<&Smaller> {
        state.size.checked_sub(1).and_then(|i| self.sizes.get(i))
    }

    fn predicted(&self, state: &State) -> f64 {
        let gone = self.gone(state);
        let last = |order: &[Dropped], count: usize| count.checked_sub(1).and_then(|i| order.get(i)).map_or(0.0, |dropped| dropped.difference);
        let units = self.structures.iter().zip(&state.kept);
        let units = units.filter(|(s, _)| s.structure.stays(&gone, self.fold)).map(|(s, &kept)| s.difference(kept));
        let size = self.size(state).map_or(0.0, |smaller| smaller.difference);
        units.sum::<f64>() + last(&self.encoder, state.encoder) + last(&self.decoder, state.decoder) + size
    }

    fn plan(&self, state: &State) -> Plan {
        let resize = self.size(state).map(|smaller| smaller.resize);
        let mut plan = Plan { fold: self.fold, resize, ..Plan::default() };
        let gone = self.gone(state);
        gone.iter().for_each(|&layer| plan.drop(layer));
        for (surveyed, &kept) in self.structures.iter().zip(&state.kept) {
            let structure = &surveyed.structure;
            if kept < structure.units && structure.stays(&gone, self.fold) {
                plan.keep.insert(structure.name.clone(), Keep::Count(kept));
            }
        }
        plan
    }

    /// The plan, with the units of all that lies in no layer named: which of them stay doesn't depend on the layers that go.
    fn exact(&self, state: &State) -> Plan {
        let mut plan = self.plan(state);
        for Surveyed { structure, order, .. } in self.structures.iter().filter(|surveyed| surveyed.structure.layer().is_none()) {
            if let Some(keep) = plan.keep.get_mut(&structure.name) {
                *keep = Keep::Units(obs::kept(order, structure.units, structure.units - keep.count()));
            }
        }
        plan
    }

    /// States that cost less.
    fn moves(&self, state: &State, levels: &[Vec<usize>]) -> Vec<State> {
        let gone = self.gone(state);
        let mut moves = Vec::new();
        for (i, surveyed) in self.structures.iter().enumerate() {
            if !surveyed.structure.stays(&gone, self.fold) {
                continue;
            }
            // Near levels one by one, far ones ever wider apart: steps that go too far are given back.
            let fewer: Vec<usize> = levels[i].iter().copied().filter(|&level| level < state.kept[i]).collect();
            for level in (0..).map(|doubled| (1 << doubled) - 1).map_while(|ahead: usize| fewer.get(ahead).copied()) {
                let mut next = state.clone();
                next.kept[i] = level;
                moves.push(next);
            }
        }
        moves.extend((state.encoder + 1..=self.encoder.len()).map(|encoder| State { encoder, ..state.clone() }));
        moves.extend((state.decoder + 1..=self.decoder.len()).map(|decoder| State { decoder, ..state.clone() }));
        moves
    }

    /// States that cost a step more.
    fn returns(&self, state: &State, levels: &[Vec<usize>]) -> Vec<State> {
        let mut moves = Vec::new();
        for (i, surveyed) in self.structures.iter().enumerate() {
            let above = levels[i].iter().rev().copied().find(|&level| level > state.kept[i]).unwrap_or(surveyed.structure.units);
            if above > state.kept[i] {
                let mut next = state.clone();
                next.kept[i] = above;
                moves.push(next);
            }
        }
        moves.extend(state.encoder.checked_sub(1).map(|encoder| State { encoder, ..state.clone() }));
        moves.extend(state.decoder.checked_sub(1).map(|decoder| State { decoder, ..state.clone() }));
        moves
    }
}
