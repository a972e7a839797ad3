//! From a plan to a trimmed network: layers out, units out, repair, and the first decoder layer folded.

use super::calibrate::Relevance;
use super::cut::kept;
use super::difference::look_on;
use super::graft::{graft, is_choice, neurons};
use super::importance::{Importance, Knowledge};
use super::inputs::{Inputs, Point, in_order};
use super::keep::{Watched, watched};
use super::layers::StandIns;
use super::obs;
use super::plan::{Keep, Plan};
use super::repair::{Side, Task, again, solve};
use super::sequence::repair_by_graph;
use super::size;
use super::structure::{Layer, Place, Span, Structure, structures};
use super::survey::affordable;
use super::trimmed::{Output, Trimmed};
use crate::config::{Architecture, Config};
use crate::error::Result;
use crate::fold::fold;
use crate::layout::layout;
use crate::progress::Progress;
use crate::weights::Weights;
use std::collections::BTreeMap;

/// How a plan is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub importance: Importance,
    pub repair: bool,
    pub seed: u64,
    /// Whether plans are to fold the first decoder layer in the end; one that is carried out says so itself.
    pub fold: bool,
}

/// A trimmed network, and the plan with every unit in it named.
pub struct Done {
    pub config: Architecture,
    pub weights: Weights,
    pub plan: Plan,
}

/// Carries a plan out on the parent. Its pictures decide which units go, where the plan only says how many, and how maps are repaired.
/// With a smaller input all that happens at its size: the parent at that size is what the repair aims at; and so with fewer queries where the
/// network selects them.
pub fn carry_out(parent: &Side, plan: &Plan, method: Method, progress: &dyn Progress) -> Result<Done> {
    let plan = &if method.repair { plan.clone() } else { plan.unrepaired(parent.config) };
    let queries = plan.keep.get("queries").filter(|_| parent.config.as_detr().is_none()).map(Keep::count);
    if plan.resize.is_none() && queries.is_none() {
        return take_out(parent, plan, method, progress);
    }
    let mut config = plan.resize.map_or_else(|| parent.config.clone(), |resize| size::with(parent.config, resize));
    let mut weights = parent.weights.clone();
    if let Some(structure) = structures(&config).iter().find(|structure| structure.place == Place::Queries && queries.is_some()) {
        let units: Vec<usize> = (0..queries.unwrap_or(structure.units)).collect();
        super::cut::cut(&mut config, &mut weights, &[(structure, &units)])?;
    }
    let inputs = parent.inputs.sized(config.pixels())?;
    let seen = look_on(&config, &weights, &inputs, progress)?;
    let (relevance, inputs) = (Relevance::of(&seen), inputs.selected_by(&seen));
    let mut done = take_out(&Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance }, plan, method, progress)?;
    if let Some(queries) = queries {
        done.plan.keep.insert("queries".into(), Keep::Units((0..queries).collect()));
    }
    Ok(done)
}

fn take_out(parent: &Side, plan: &Plan, method: Method, progress: &dyn Progress) -> Result<Done> {
    let dropped = plan.dropped();
    let mut trimmed = Trimmed::new(parent, &dropped, method.repair, &mut StandIns::default())?;
    if method.repair && parent.config.as_detr().is_some() {
        graft_neurons(parent, plan, &mut trimmed, progress)?;
    }
    let all = structures(&trimmed.config);
    let mut exact = plan.clone();
    let mut cuts: Vec<(Structure, Keep)> = Vec::new();
    for structure in all {
        let name = trimmed.parent_name(&structure.name);
        if let Some(keep) = plan.keep.get(&name).filter(|keep| keep.count() < structure.units) {
            cuts.push((structure, keep.clone()));
        } else {
            exact.keep.remove(&name);
        }
    }

    let cut: Vec<Structure> = cuts.iter().map(|(structure, _)| structure.clone()).collect();
    let knowledge = Knowledge::gather(&trimmed.config, &trimmed.weights, parent.inputs, parent.relevance, &cut, method, progress)?;
    progress.begin("choosing and re-solving", cuts.len());
    let units = in_order(cuts.len(), |i| {
        let (structure, keep) = &cuts[i];
        let units = match keep {
            Keep::Units(units) => units.clone(),
            Keep::Count(count) => {
                let order = knowledge.order(method.importance, structure, &knowledge.problems(structure)?)?;
                obs::kept(&order, structure.units, structure.units - count)
            }
        };
        progress.step();
        Ok(units)
    })?;
    let together: Vec<(&Structure, &[usize])> = cuts.iter().zip(&units).map(|((structure, _), units)| (structure, &units[..])).collect();
    if method.repair {
        // A map may be given the channels of several structures: it is solved once, for all that stay.
        let mut maps: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for ((tensor, axis), channels) in kept(&trimmed.weights, &together)? {
            let last = trimmed.weights.named(&tensor)?.shape.len() - 1;
            let used = |map: &str| cuts.iter().any(|(structure, _)| structure.used_by.iter().any(|used| used.layer == map));
            if let Some(map) = tensor.strip_suffix(".weight").filter(|map| axis == last && used(map)) {
                maps.insert(map.into(), channels);
            }
        }
        let maps: Vec<(String, Vec<usize>)> = maps.into_iter().collect();
        let solved = in_order(maps.len(), |i| {
            let (map, channels) = &maps[i];
            solve(&trimmed.weights, map, &knowledge.problem(map, &Span::all())?, channels)
        })?;
        solved.into_iter().flatten().for_each(|(name, tensor)| trimmed.weights.insert(name, tensor));
    }
    let names: Vec<String> = cuts.iter().map(|(structure, _)| trimmed.parent_name(&structure.name)).collect();
    trimmed.cut(&together)?;
    for (name, units) in names.into_iter().zip(&units) {
        exact.keep.insert(name, Keep::Units(units.clone()));
    }
    // (Layers of RT-DETR's family keep their own neurons.)
    for (layer, own, last) in trimmed.standing().into_iter().filter(|_| parent.config.as_detr().is_some()) {
        let neurons = neurons(parent.config, own, last);
        let number = |output: &Output| neurons.iter().position(|neuron| neuron == output);
        if let Some(outputs) = trimmed.known_outputs(&format!("{}.ffn1", layer.prefix())) {
            exact.keep.insert(format!("{}.ffn", own.prefix()), Keep::Units(outputs.iter().filter_map(number).collect()));
        }
    }
    if method.repair && !(cuts.is_empty() && dropped.is_empty()) {
        match parent.config {
            Architecture::Detr(detr) => repair_in_order(parent, detr, &mut trimmed, &dropped, &cuts, MOST_BYTES, progress)?,
            Architecture::RtDetr(_) => repair_by_graph(parent, &mut trimmed, &together, MOST_BYTES, progress)?,
        }
    }
    let Trimmed { mut config, mut weights, .. } = trimmed;
    if let (Architecture::Detr(config), true) = (&mut config, plan.fold) {
        fold(config, &mut weights)?;
    }
    crate::layout::check(&config, &weights)?;
    Ok(Done { config, weights, plan: exact })
}

/// Layers that stand for others get the neurons that the plan names, or the best of all that those had.
fn graft_neurons(parent: &Side, plan: &Plan, trimmed: &mut Trimmed, progress: &dyn Progress) -> Result<()> {
    let standing = trimmed.standing();
    if standing.is_empty() {
        return Ok(());
    }
    progress.begin("choosing among the neurons of layers that go", standing.len());
    let whole = watched(parent.config, parent.weights)?;
    let mut inputs = parent.inputs.first(parent.inputs.len());
    for (layer, own, last) in standing {
        let neurons = neurons(parent.config, own, last);
        let given: Option<Vec<Output>> = match plan.keep.get(&format!("{}.ffn", own.prefix())) {
            Some(Keep::Units(units)) => Some(units.iter().filter_map(|&unit| neurons.get(unit).cloned()).collect()),
            _ => None,
        };
        if given.is_some() || is_choice(&neurons) {
            inputs = inputs.moved(parent.config, parent.weights, own.into())?;
            if let Some(graft) = graft(&Side { inputs: &inputs, ..*parent }, &whole, own, last, given.as_deref())? {
                trimmed.graft(layer, graft);
            }
        }
        progress.step();
    }
    Ok(())
}

/// Bytes of feature maps that a repair keeps of each network.
const MOST_BYTES: usize = 1 << 30;
/// Multiply-accumulates of all pictures' ways through the backbone: a repair goes that way about five times, with both networks.
const MOST_WORK: u64 = 1_000_000_000_000;
/// Fewer pictures than that say too little of a map, whatever they take.
const FEWEST: usize = 32;

/// The second repair: every map from the first cut on, in the order of the network. Both networks are taken from point to point; within the backbone
/// with as many pictures as `most` bytes hold and as there is time for: its maps are large, and each has thousands of places to learn from.
fn repair_in_order(
    parent: &Side,
    detr: &Config,
    trimmed: &mut Trimmed,
    dropped: &[Layer],
    cuts: &[(Structure, Keep)],
    most: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let steps = steps(detr, trimmed, dropped, cuts);
    progress.begin("repairing map by map", steps.iter().map(|step| step.maps.len()).sum());
    let whole = watched(parent.config, parent.weights)?;
    let in_time = affordable(parent.config, MOST_WORK, |part| part.starts_with("backbone."))?;
    let all = || parent.inputs.first(parent.inputs.len());
    let (mut theirs, mut ours) = (all(), all());
    for (i, Step { parent: from, trimmed: to, maps }) in steps.iter().enumerate() {
        if *from < Point::features(parent.config) {
            let bytes = theirs.first(1).at(parent.config, parent.weights, *from)?.bytes();
            let fit = (most / bytes.max(1)).min(in_time).max(FEWEST);
            (theirs, ours) = (theirs.first(fit), ours.first(fit));
        } else if theirs.len() < parent.inputs.len() {
            (theirs, ours) = (all(), all());
        }
        theirs = theirs.moved(parent.config, parent.weights, *from)?;
        // As far as the first cut the two are one network; where that is in the backbone, its stem may be cut, too.
        let same = i == 0 && from == to && *from >= Point::features(parent.config);
        ours = if same { theirs.first(theirs.len()) } else { ours.moved(&trimmed.config, &trimmed.weights, *to)? };
        resolve(&Side { inputs: &theirs, ..*parent }, &whole, trimmed, &ours, maps, progress)?;
    }
    Ok(())
}

/// Maps that are repaired from one point on.
struct Step {
    /// The point in the parent.
    parent: Point,
    /// The same in the trimmed network.
    trimmed: Point,
    maps: Vec<String>,
}

/// From the first one that something is taken out of, or that stands for a layer that is gone.
fn steps(parent: &Config, trimmed: &Trimmed, dropped: &[Layer], cuts: &[(Structure, Keep)]) -> Vec<Step> {
    // Where queries are gone, outputs can't be compared one by one.
    let queries = cuts.iter().any(|(structure, _)| structure.place == Place::Queries);
    let Architecture::Detr(config) = &trimmed.config else { return vec![] };
    let maps: Vec<String> = layout(config).into_iter().filter_map(|entry| Some(entry.name.strip_suffix(".weight")?.to_string())).collect();
    let of = |prefix: &str| -> Vec<String> {
        let solved = |map: &&String| map.starts_with(prefix) && !map.contains("norm") && !map.ends_with(".depthwise");
        maps.iter().filter(solved).cloned().collect()
    };
    let mut steps = Vec::new();
    let mut step = |parent: Point, trimmed: Point, maps: Vec<String>| steps.push(Step { parent, trimmed, maps });
    let blocks = config.backbone.blocks();
    for block in 0..blocks {
        step(Point::Block(block), Point::Block(block), of(&format!("backbone.{}.", config.backbone.block_name(block))));
    }
    // What stands for the first layers has been fitted to their output.
    if !dropped.contains(&Layer::Encoder(0)) {
        step(Point::Block(blocks), Point::Block(blocks), of("input_projection"));
    }
    for layer in (0..config.encoder.len()).map(Layer::Encoder) {
        step(trimmed.own(layer).into(), layer.into(), of(&format!("{}.", layer.prefix())));
    }
    if !queries {
        for layer in (0..config.decoder.len()).map(Layer::Decoder) {
            step(trimmed.own(layer).into(), layer.into(), of(&format!("{}.", layer.prefix())));
        }
        let heads = ["class_head", "box_head"].into_iter().flat_map(of).collect();
        step(Point::Decoder(parent.decoder.len()), Point::Decoder(config.decoder.len()), heads);
    }
    let changed = |cut: &Structure| -> Vec<String> {
        cut.used_by.iter().map(|used| used.layer.clone()).chain(cut.made_by.iter().map(|made| made.tensor.clone())).collect()
    };
    let cut: Vec<String> = cuts.iter().flat_map(|(cut, _)| changed(cut)).collect();
    let is_changed = |map: &String| {
        trimmed.target(map) != *map || cut.iter().any(|name| name.strip_prefix(&**map).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let first = steps.iter().position(|step| step.maps.iter().any(is_changed)).unwrap_or(steps.len());
    steps.split_off(first)
}

/// Re-solves maps one after another; an attention's queries, keys and values at once, for none of them is given what another gives.
fn resolve(parent: &Side, whole: &Watched, trimmed: &mut Trimmed, inputs: &Inputs, maps: &[String], progress: &dyn Progress) -> Result<()> {
    let attention = |map: &str| ["query", "key", "value"].iter().find_map(|part| map.strip_suffix(part)).map(str::to_string);
    for group in maps.chunk_by(|a, b| attention(a).is_some() && attention(a) == attention(b)) {
        let mut tasks = Vec::new();
        for map in group {
            let count = parent.weights.named(&format!("{}.bias", trimmed.target(map)))?.len();
            tasks.push(Task { map: map.clone(), outputs: trimmed.outputs(map, count) });
        }
        again(parent, whole, trimmed, inputs, &tasks)?;
        group.iter().for_each(|_| progress.step());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prune::difference::{Answer, difference, look};
    use crate::prune::tiny;

    #[test]
    fn the_queries_that_detect_least_go() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 3);
        let answer = || Answer { scores: vec![0.9, 0.0, 0.1, 0.0, 0.0, 0.8, 0.3, 0.2], boxes: vec![0.5; 16], classes: 2, tokens: None };
        let relevance = Relevance::of(&[answer(), answer(), answer()]);
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let plan = Plan { keep: BTreeMap::from([("queries".into(), Keep::Count(2))]), ..Plan::default() };
        for importance in [Importance::Obs, Importance::Taylor, Importance::Magnitude, Importance::Attention] {
            let done = carry_out(&parent, &plan, Method { importance, repair: false, seed: 0, fold: false }, &Silent).unwrap();
            assert_eq!(done.plan.keep["queries"], Keep::Units(vec![0, 2]), "{importance:?}");
            assert_eq!(done.config.queries(), 2);
        }
    }

    /// Where nothing is changed yet, there is nothing to repair, and nothing is touched.
    #[test]
    fn what_comes_before_the_first_cut_stays_as_it_is() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 4);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: false };
        let order = ["backbone.stage1", "backbone.stage2", "encoder.0", "encoder.1", "decoder"];
        let place = |name: &str| order.iter().position(|part| name.starts_with(part));
        let cut = |name: &str| Plan { keep: BTreeMap::from([(name.to_string(), Keep::Count(3))]), ..Plan::default() };
        let plans = [
            (cut("backbone.stage2.block0.inner1"), "backbone.stage2"),
            (cut("encoder.1.ffn"), "encoder.1"),
            (cut("decoder.0.ffn"), "decoder"),
            // The layer before stands for it.
            (Plan { drop_encoder: vec![1], ..Plan::default() }, "encoder.0"),
            (Plan { drop_decoder: vec![1], ..Plan::default() }, "decoder"),
        ];
        for (plan, first) in plans {
            let done = carry_out(&parent, &plan, method, &Silent).unwrap();
            let (before, after): (Vec<_>, Vec<_>) =
                done.weights.tensors.iter().partition(|(name, _)| place(name).is_some_and(|i| Some(i) < place(first)));
            assert!(before.len() > 4 && before.iter().all(|(name, tensor)| weights.tensors[*name] == **tensor), "{plan:?}");
            let changed = after.iter().filter(|(name, tensor)| weights.tensors.get(*name) != Some(tensor));
            assert!(changed.count() > 2, "{plan:?}");
        }
    }

    /// What doesn't fit into memory is repaired with fewer pictures; what is small, with all of them.
    #[test]
    fn a_repair_keeps_to_its_memory() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, FEWEST + 8);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let structure = structures(&config).into_iter().find(|structure| structure.name.starts_with("backbone.")).unwrap();
        let units: Vec<usize> = (0..structure.units / 2).collect();
        let cuts = [(structure.clone(), Keep::Units(units.clone()))];
        let repaired = |most: usize| {
            let mut trimmed = Trimmed::new(&parent, &[], true, &mut StandIns::default()).unwrap();
            trimmed.cut(&[(&structure, &units)]).unwrap();
            repair_in_order(&parent, config.as_detr().unwrap(), &mut trimmed, &[], &cuts, most, &Silent).unwrap();
            trimmed.weights
        };
        let (whole, few) = (repaired(usize::MAX), repaired(1));
        assert!(whole.tensors.iter().any(|(name, tensor)| name.starts_with("backbone.") && few.tensors[name] != *tensor));
        let seen = look(&config, &weights, &inputs).unwrap();
        let far = |weights: &Weights| {
            let mut trimmed = Trimmed::new(&parent, &[], true, &mut StandIns::default()).unwrap();
            trimmed.cut(&[(&structure, &units)]).unwrap();
            difference(&seen, &look(&trimmed.config, weights, &inputs).unwrap())
        };
        assert!(far(&few) < 1.5 * far(&whole), "{} {}", far(&few), far(&whole));
    }
}
