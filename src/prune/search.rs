//! The best predicted network within a budget: every structure's error at every width, and greedy steps with look-ahead
//! ("ZipLM", Kurtić et al., 2023, arXiv:2302.04089, searches over the same levels).
//!
//! Errors of different structures are made comparable by measuring what one level of each does to the detector's outputs.

use super::budget::{Budget, Costs, Limits, Meter};
use super::difference::{Answer, difference, look};
use super::importance::Knowledge;
use super::inputs::{Inputs, Point, in_order};
use super::layers::{Dropped, StandIns, order};
use super::obs::{self, Removal};
use super::plan::{Keep, Plan};
use super::repair::{Side, solve};
use super::size::{self, Smaller, smaller};
use super::structure::{Layer, Place, Structure, structures};
use super::trim::{Method, Progress};
use super::trimmed::Trimmed;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::eval::cost::cost;
use crate::image::typical_size;

/// What is known of a network: what taking each thing out costs it.
pub struct Survey {
    pub structures: Vec<Surveyed>,
    /// Layers in the order in which they would be left out.
    pub encoder: Vec<Dropped>,
    pub decoder: Vec<Dropped>,
    /// Smaller inputs, the largest first.
    pub sizes: Vec<Smaller>,
    /// Whether the first decoder layer is folded in the end: whichever that is, its self-attention then costs nothing from the outset.
    pub fold: bool,
}

/// A structure, its units in the order of removal, and what their removal does to the outputs.
pub struct Surveyed {
    pub structure: Structure,
    pub order: Vec<Removal>,
    /// From a removal's error to the difference that it makes.
    pub slope: f64,
}

impl Surveyed {
    /// The predicted difference with so many units kept.
    pub fn difference(&self, kept: usize) -> f64 {
        match self.structure.units - kept {
            0 => 0.0,
            gone => self.slope * self.order.get(gone - 1).map_or(f64::INFINITY, |removal| removal.error),
        }
    }
}

/// Pictures on which one level of each structure is measured.
const PROBED: usize = 48;

impl Survey {
    /// Looks at everything that could be taken out of the parent: layers, and the structures that are asked for.
    pub fn of(parent: &Side, method: Method, wanted: impl Fn(&str) -> bool, progress: &dyn Progress) -> Result<Self> {
        let sizes = if wanted(size::NAME) { sizes(parent, progress)? } else { vec![] };
        let structures = survey(parent, method, wanted, progress)?;
        let (encoder, decoder) = layer_orders(parent, method, progress)?;
        Ok(Self { structures, encoder, decoder, sizes, fold: method.fold })
    }
}

/// Pictures to measure changes on: so many, but fewer where the parts of the network that count have much to do for each.
fn affordable(parent: &Side, most: usize, counts: impl Fn(&str) -> bool) -> Result<usize> {
    /// Multiply-accumulates of a measurement: seconds on a laptop, and there is one for each thing that could go.
    const WORK: usize = 200_000_000_000;
    /// So few see hardly any object of some kinds.
    const LEAST: usize = 8;
    let size = typical_size(parent.config.pixels.resize)?;
    let macs: u64 = cost(parent.config, size).iter().filter(|part| counts(&part.name)).map(|part| part.macs).sum();
    Ok((WORK / (macs as usize).max(1)).clamp(LEAST, most))
}

/// Looks at the structures of the parent that are asked for.
pub fn survey(parent: &Side, method: Method, wanted: impl Fn(&str) -> bool, progress: &dyn Progress) -> Result<Vec<Surveyed>> {
    let matters = |structure: &Structure| structure.stays(&[], method.fold) && wanted(&structure.name);
    let all: Vec<Structure> = structures(parent.config).into_iter().filter(matters).collect();
    let knowledge = Knowledge::gather(parent.config, parent.weights, parent.inputs, parent.relevance, &all, method, progress)?;
    let points = Points::new(parent)?;
    let seen = look(parent.config, parent.weights, &points.last)?;

    progress.begin("ordering units", all.len());
    let orders = in_order(all.len(), |i| {
        let order = knowledge.order(method.importance, &all[i], &knowledge.problems(&all[i])?)?;
        progress.step();
        Ok(order)
    })?;
    progress.begin("measuring what each part is good for", all.len());
    let mut surveyed = Vec::new();
    for (structure, order) in all.into_iter().zip(orders) {
        surveyed.push(probe(parent, structure, order, &knowledge, method, &points, &seen)?);
        progress.step();
    }
    Ok(surveyed)
}

/// What smaller inputs do.
fn sizes(parent: &Side, progress: &dyn Progress) -> Result<Vec<Smaller>> {
    let pictures = parent.inputs.first(affordable(parent, 4 * PROBED, |_| true)?);
    smaller(parent, &look(parent.config, parent.weights, &pictures)?, progress)
}

/// The orders in which layers are best left out.
pub fn layer_orders(parent: &Side, method: Method, progress: &dyn Progress) -> Result<(Vec<Dropped>, Vec<Dropped>)> {
    let (config, weights) = (parent.config, parent.weights);
    let pictures = parent.inputs.first(affordable(parent, 4 * PROBED, |part| !part.starts_with("backbone."))?);
    // Each begins where the network's parts first differ.
    let features = pictures.at(config, weights, Point::features(config))?;
    let tokens = features.at(config, weights, Point::Decoder(0))?;
    let given = |kind: Layer| method.importance.layers(kind.all(config), method.seed);
    let rounds = |kind: Layer| {
        let count = kind.count(config);
        if given(kind).is_some() { count.saturating_sub(1) } else { count * (count + 1) / 2 - usize::from(count > 0) }
    };
    progress.begin("leaving layers out", rounds(Layer::Encoder(0)) + rounds(Layer::Decoder(0)));
    let seen = look(config, weights, &tokens)?;
    let order = |kind: Layer, inputs: &Inputs| {
        let parent = Side { inputs, ..*parent };
        order(&parent, &seen, kind, given(kind).as_deref(), method.repair, &mut StandIns::default(), &|| progress.step())
    };
    Ok((order(Layer::Encoder(0), &features)?, order(Layer::Decoder(0), &tokens)?))
}

/// A few pictures at several points of their way: what comes before a structure needn't be computed again and again.
struct Points {
    before: Vec<Inputs>,
    last: Inputs,
}

impl Points {
    fn new(parent: &Side) -> Result<Self> {
        let pictures = parent.inputs.first(affordable(parent, PROBED, |_| true)?);
        let (blocks, encoder, decoder) = (parent.config.backbone.blocks(), parent.config.encoder.len(), parent.config.decoder.len());
        let mut points = Self { last: pictures, before: Vec::new() };
        let backbone = (0..=blocks).map(Point::Block);
        for point in backbone.chain((0..encoder).map(Point::Encoder)).chain((0..decoder).map(Point::Decoder)) {
            let next = points.last.at(parent.config, parent.weights, point)?;
            points.before.push(std::mem::replace(&mut points.last, next));
        }
        Ok(points)
    }

    /// The last point before a structure.
    fn before(&self, config: &Config, structure: &Structure) -> &Inputs {
        let blocks = config.backbone.blocks();
        let point = match structure.layer() {
            Some(layer) => layer.into(),
            None => match structure.name.strip_prefix("backbone.") {
                // A stream begins with a stage; what is within a block has its name.
                Some(name) => {
                    let name = format!("{name}.");
                    let within = |block: &usize| {
                        let block = format!("{}.", config.backbone.block_name(*block));
                        name.starts_with(&block) || block.starts_with(&name)
                    };
                    (0..blocks).find(within).map_or(Point::Pixels, Point::Block)
                }
                None => Point::Block(blocks),
            },
        };
        self.before.iter().chain([&self.last]).rev().find(|inputs| inputs.point <= point).unwrap_or(&self.last)
    }
}

/// How much the errors of a structure's order show in the outputs.
fn probe(
    parent: &Side,
    structure: Structure,
    order: Vec<Removal>,
    knowledge: &Knowledge,
    method: Method,
    points: &Points,
    seen: &[Answer],
) -> Result<Surveyed> {
    if structure.place == Place::Queries {
        // Their error is a share of what is detected already.
        return Ok(Surveyed { structure, order, slope: 1.0 });
    }
    if order.is_empty() {
        return Ok(Surveyed { structure, order, slope: 0.0 });
    }
    let gone = structure.units / 2;
    let units = obs::kept(&order, structure.units, gone);
    let mut trimmed = Trimmed::new(parent, &[], false, &mut StandIns::default())?;
    if method.repair {
        for (map, problem) in structure.used_by.iter().zip(&knowledge.problems(&structure)?) {
            for (name, tensor) in solve(&trimmed.weights, map, problem, &structure, &units)? {
                trimmed.weights.insert(name, tensor);
            }
        }
    }
    trimmed.cut(&structure, &units)?;
    let inputs = points.before(parent.config, &structure);
    let found = difference(seen, &look(&trimmed.config, &trimmed.weights, inputs)?);
    let error = order.get(gone.max(1) - 1).map_or(0.0, |removal| removal.error);
    Ok(Surveyed { structure, order, slope: found / error.max(1e-12) })
}

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
