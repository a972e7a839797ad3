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
use crate::config::Config;
use crate::error::{Error, Result};

/// What a search found.
pub struct Found {
    pub plan: Plan,
    /// The sum of what each removal is predicted to do.
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

/// The least predicted difference that keeps to the budget, as far as greedy steps with look-ahead find it at each size of the input. Kept
/// neurons and channels are multiples of `multiple`.
pub fn search(parent: &Config, survey: &Survey, budget: &Budget, meter: &Meter, multiple: usize) -> Result<Found> {
    let whole = meter.costs(parent)?;
    let limits = budget.limits(&whole)?;
    let levels: Vec<Vec<usize>> = survey.structures.iter().map(|surveyed| levels(&surveyed.structure, multiple)).collect();
    refuse_impossible(parent, survey, &levels, &limits, meter)?;
    // A size goes with other cuts than the next one: a search for each.
    let states = in_order(survey.sizes.len() + 1, |size| descend(parent, survey, &limits, meter, &levels, size))?;
    let best = states.into_iter().flatten().min_by(|a, b| survey.predicted(a).total_cmp(&survey.predicted(b)));
    let state = best.ok_or_else(|| Error::Config("no trimmed network that keeps to the budget was found".into()))?;
    Ok(Found { plan: survey.exact(&state), predicted: survey.predicted(&state) })
}

/// From the whole network at one size to one within the limits, if there is any.
fn descend(parent: &Config, survey: &Survey, limits: &Limits, meter: &Meter, levels: &[Vec<usize>], size: usize) -> Result<Option<State>> {
    let mut state = State { kept: survey.structures.iter().map(|surveyed| surveyed.structure.units).collect(), encoder: 0, decoder: 0, size };
    let mut costs = meter.costs(&survey.plan(&state).config(parent))?;
    while limits.excess(&costs) > 0.0 {
        let from = survey.predicted(&state);
        let mut best: Option<(f64, State, Costs)> = None;
        for next in survey.moves(&state, levels) {
            let to = meter.costs(&survey.plan(&next).config(parent))?;
            let gain = limits.gain(&costs, &to);
            if gain <= 0.0 {
                continue;
            }
            let price = (survey.predicted(&next) - from).max(0.0) / gain;
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
        for next in survey.returns(&state, levels) {
            if limits.excess(&meter.costs(&survey.plan(&next).config(parent))?) <= 0.0 {
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

fn refuse_impossible(parent: &Config, survey: &Survey, levels: &[Vec<usize>], limits: &Limits, meter: &Meter) -> Result<()> {
    let least = State {
        kept: levels.iter().zip(&survey.structures).map(|(levels, s)| levels.last().copied().unwrap_or(s.structure.units)).collect(),
        encoder: survey.encoder.len(),
        decoder: survey.decoder.len(),
        size: survey.sizes.len(),
    };
    let costs = meter.costs(&survey.plan(&least).config(parent))?;
    match limits.exceeded(&costs) {
        Some((what, most, least)) => {
            let whole = |x: f64| if x >= 1000.0 { format!("{x:.0}") } else { format!("{x:.3}") };
            Err(Error::Config(format!("no trimmed network has so few {what}: {} are asked for, and {} are the fewest", whole(most), whole(least))))
        }
        None => Ok(()),
    }
}

/// Smaller numbers of units that a structure may keep, in descending order.
fn levels(structure: &Structure, multiple: usize) -> Vec<usize> {
    /// Finer steps make the search slower, not better.
    const MOST: usize = 24;
    let step = match structure.place {
        _ if structure.is_heads() => 1,
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
