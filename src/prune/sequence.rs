//! The second repair of a network whose graph is all that is known of it: every convolution and linear layer from the first that is changed
//! on, in the graph's order. Both networks are taken from cut to cut, so that what comes before a layer is computed once.

use super::inputs::{Point, Runner};
use super::keep::watched;
use super::repair::{Side, Task, again};
use super::structure::Structure;
use super::trimmed::Trimmed;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::graph::{Graph, Op};
use crate::image::typical_size;
use crate::model::FIXED;
use crate::progress::Progress;
use crate::trace::trace;
use std::collections::BTreeSet;

/// Fewer pictures than that say too little of a map, whatever they take.
const FEWEST: usize = 32;

/// Re-solves what is left of a network so that each layer gives what it gave in the parent. `cuts` are the units that stay; of so many bytes of
/// values between layers are kept of each network.
pub fn repair_by_graph(parent: &Side, trimmed: &mut Trimmed, cuts: &[(&Structure, &[usize])], most: usize, progress: &dyn Progress) -> Result<()> {
    let [height, width] = typical_size(parent.config.pixels().resize)?;
    let shape = [1, height, width];
    let (theirs_graph, graph) = (trace(parent.config, shape, None)?, trace(&trimmed.config, shape, None)?);
    let steps = steps(&graph, |layer| is_changed(trimmed, cuts, layer));
    progress.begin("repairing map by map", steps.iter().map(|step| step.layers.len()).sum());
    let (whole, plain) = (watched(parent.config, parent.weights)?, Runner::load(&Cpu, parent.config, parent.weights)?);
    let most_live = steps.iter().map(|step| bytes(&graph, step.node)).max().unwrap_or(0);
    let count = parent.inputs.len().min((most / most_live.max(1)).max(FEWEST));
    let (mut theirs, mut ours) = (parent.inputs.first(count), parent.inputs.first(count));
    for Step { node, layers } in steps {
        let targets: BTreeSet<String> = layers.iter().map(|layer| trimmed.target(layer)).collect();
        let from = theirs_graph.first_of(|layer| targets.contains(layer)).unwrap_or(node);
        // A layer that stands for later ones has taken the parent to their end, and heads that all layers share come before it.
        if theirs.point > Point::Node(from) {
            theirs = parent.inputs.first(count);
        }
        theirs = theirs.moved_by(&plain, Point::Node(from))?;
        ours = ours.moved(&trimmed.config, &trimmed.weights, Point::Node(node))?;
        let mut tasks = Vec::new();
        for layer in &layers {
            let outputs = parent.weights.named(&format!("{}.bias", trimmed.target(layer)))?.len();
            tasks.push(Task { map: layer.clone(), outputs: trimmed.outputs(layer, outputs) });
        }
        again(&Side { inputs: &theirs, ..*parent }, &whole, trimmed, &ours, &tasks)?;
        layers.iter().for_each(|_| progress.step());
    }
    Ok(())
}

/// Whether a layer's weights are no longer the parent's.
fn is_changed(trimmed: &Trimmed, cuts: &[(&Structure, &[usize])], layer: &str) -> bool {
    let is = |tensor: &str| tensor.strip_prefix(layer).is_some_and(|rest| rest == ".weight");
    let cut =
        |structure: &Structure| structure.used_by.iter().any(|used| used.layer == layer) || structure.made_by.iter().any(|made| is(&made.tensor));
    trimmed.target(layer) != layer || cuts.iter().any(|(structure, _)| cut(structure))
}

/// Layers none of which is given what another gives, and the node of the first.
struct Step {
    node: usize,
    layers: Vec<String>,
}

fn steps(graph: &Graph, is_changed: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    // For each node, the last step from whose layers its value comes.
    let mut from = vec![0; graph.nodes.len()];
    for node in &graph.nodes {
        let id = node.output.id;
        from[id] = node.inputs.iter().map(|input| from[input.id]).max().unwrap_or(0);
        let Some(layer) = node.layer.as_deref().filter(|layer| matches!(node.op, Op::Conv(..) | Op::Linear(_)) && !layer.starts_with(FIXED)) else {
            continue;
        };
        if steps.is_empty() && !is_changed(layer) {
            continue;
        }
        if known.insert(layer) {
            if steps.is_empty() || from[id] == steps.len() {
                steps.push(Step { node: id, layers: vec![] });
            }
            let count = steps.len();
            steps[count - 1].layers.push(layer.into());
            from[id] = count;
        }
    }
    steps
}

/// What the values that are live before a node take in half precision.
fn bytes(graph: &Graph, node: usize) -> usize {
    graph.live(node).into_iter().map(|id| 2 * graph.nodes[id].output.shape.iter().product::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::progress::Silent;
    use crate::prune::calibrate::Relevance;
    use crate::prune::difference::{difference, look};
    use crate::prune::family;
    use crate::prune::importance::Importance;
    use crate::prune::plan::{Keep, Plan};
    use crate::prune::structure::structures;
    use crate::prune::trim::{Method, carry_out};
    use std::collections::BTreeMap;

    #[test]
    fn a_step_has_layers_that_are_not_given_what_others_of_it_give() {
        let (config, _) = family::network("d_fine");
        let Architecture::RtDetr(_) = &config else { panic!() };
        let graph = trace(&config, [1, 64, 96], None).unwrap();
        let steps = steps(&graph, |layer| layer == "neck.projection0");
        let of = |layer: &str| steps.iter().position(|step| step.layers.iter().any(|other| other == layer));
        assert_eq!(of("neck.projection0"), Some(0));
        assert!(of("backbone.stem.1").is_none());
        let [query, key, value] = ["query", "key", "value"].map(|part| of(&format!("decoder.0.self_attention.{part}")).unwrap());
        assert!(query == key && key == value);
        assert!(of("decoder.0.self_attention.output").unwrap() > query);
        assert!(of("decoder.0.ffn2").unwrap() > of("decoder.0.ffn1").unwrap());
        let all: usize = steps.iter().map(|step| step.layers.len()).sum();
        let distinct: BTreeSet<&String> = steps.iter().flat_map(|step| &step.layers).collect();
        assert_eq!(distinct.len(), all);
    }

    /// Cut widths, a head, a sampling point, queries and a decoder layer, with all that was left of each layer's outputs re-solved.
    #[test]
    fn a_plan_is_carried_out_on_every_architecture_and_repair_brings_it_nearer() {
        for name in family::ALL {
            let (config, weights) = family::network(name);
            let inputs = family::inputs(&config, 24);
            let seen = look(&config, &weights, &inputs).unwrap();
            let (relevance, inputs) = (Relevance::of(&seen), inputs.selected_by(&seen));
            let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
            let all = structures(&config);
            let narrow = |structure: &&Structure| structure.units > 3 && structure.name.starts_with("neck") || structure.name.contains(".squeeze");
            let mut keep: BTreeMap<String, Keep> =
                all.iter().filter(narrow).map(|structure| (structure.name.clone(), Keep::Count(structure.units * 3 / 4))).collect();
            keep.insert("decoder.0.self_attention".into(), Keep::Count(3));
            keep.insert("decoder.1.cross_attention.points.0".into(), Keep::Count(2));
            let plan = Plan { keep, drop_decoder: vec![2], ..Plan::default() };
            plan.check(&config).unwrap();
            let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: false };
            let far = |method: Method| {
                let done = carry_out(&parent, &plan, method, &Silent).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(done.config, plan.config(&config), "{name}");
                assert!(done.plan.is_carried_out(&plan), "{name}: {:?}", done.plan);
                difference(&seen, &look(&done.config, &done.weights, &inputs).unwrap())
            };
            let (repaired, bare) = (far(method), far(Method { repair: false, ..method }));
            assert!(repaired < 0.9 * bare, "{name}: {repaired} {bare}");

            // The first queries of those that are selected.
            let plan = Plan { keep: BTreeMap::from([("queries".into(), Keep::Count(6))]), ..Plan::default() };
            let done = carry_out(&parent, &plan, method, &Silent).unwrap();
            assert_eq!((done.config.queries(), &done.plan.keep["queries"]), (6, &Keep::Units((0..6).collect())), "{name}");
            look(&done.config, &done.weights, &inputs).unwrap();
        }
    }
}
