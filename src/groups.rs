//! Pruning groups derived from a network's graph: which channels must be cut together, which tensors make them and which layers read them. As
//! Torch-Pruning's DepGraph (Fang et al., 2023, arXiv:2301.12900), but exact: every channel of every value is followed by itself, so that
//! concatenations, divisions and channels that are read twice come out right.
//!
//! A convolution or a linear layer makes channels; sums and products tie theirs, one by one; a concatenation puts them side by side, and a part
//! of a tensor has some of them; depthwise convolutions, pools and activations hand them on; attention ties all channels of a head. Norms and
//! softmax go over all of them, and so none can go; nor can any whose number the network doesn't ask for
//! ([`Source::sized`](crate::model::Source::sized)). Channels that are made and read alike are the units of one group.

use crate::config::{Architecture, RtDetr};
use crate::error::Result;
use crate::graph::{Graph, Node, Op, Value};
use crate::image::typical_size;
use crate::layout::sized;
use crate::model::FIXED;
use crate::structure::{Made, Place, Size, Span, Structure, Used};
use crate::trace::trace;
use std::collections::{BTreeMap, BTreeSet};

/// All groups of a network of RT-DETR's family, in the order in which it makes them, and its queries.
pub fn groups(config: &RtDetr) -> Result<Vec<Structure>> {
    let architecture = Architecture::RtDetr(Box::new(config.clone()));
    let [height, width] = typical_size(config.pixels.resize)?;
    let graph = trace(&architecture, [1, height, width], None)?;
    let sized = sized(&architecture);
    let mut all = channels(&graph, &sized);
    all.extend(points(&graph, &sized));
    let learnt = graph.nodes.iter().any(|node| node.op == Op::Parameter("selection.content".into()));
    let made_by = learnt.then(|| Made { tensor: "selection.content".into(), axis: 0, span: Span::all() }).into_iter().collect();
    all.push(Structure { name: "queries".into(), place: Place::Queries, units: config.queries, width: 1, made_by, used_by: vec![] });
    Ok(all)
}

/// How a layer has to do with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Makes,
    /// A depthwise convolution.
    HandsOn,
    Reads,
}

/// Channels of all values, of which those that must be cut together are joined (union-find).
#[derive(Default)]
struct Channels {
    parent: Vec<usize>,
    fixed: Vec<bool>,
    heads: Vec<bool>,
    /// By role and layer: what each of its outputs or inputs is.
    layers: BTreeMap<(Role, String), Vec<usize>>,
    /// In the order in which the network uses them.
    order: Vec<(Role, String)>,
}

impl Channels {
    fn add(&mut self, count: usize, fixed: bool) -> Vec<usize> {
        let first = self.parent.len();
        self.parent.extend(first..first + count);
        self.fixed.resize(first + count, fixed);
        self.heads.resize(first + count, false);
        (first..first + count).collect()
    }

    fn root(&mut self, mut channel: usize) -> usize {
        while self.parent[channel] != channel {
            self.parent[channel] = self.parent[self.parent[channel]];
            channel = self.parent[channel];
        }
        channel
    }

    fn tie(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[b] = a;
        self.fixed[a] |= self.fixed[b];
        self.heads[a] |= self.heads[b];
    }

    fn tie_all(&mut self, a: &[usize], b: &[usize]) {
        a.iter().zip(b).for_each(|(&a, &b)| self.tie(a, b));
    }

    fn fix(&mut self, all: &[usize]) {
        for &channel in all {
            let root = self.root(channel);
            self.fixed[root] = true;
        }
    }

    /// A layer's channels; a layer that is used again has the same ones again.
    fn of_layer(&mut self, role: Role, layer: &str, channels: &[usize]) {
        let key = (role, layer.to_string());
        match self.layers.get(&key).cloned() {
            Some(known) => self.tie_all(&known, channels),
            None => {
                self.layers.insert(key.clone(), channels.to_vec());
                self.order.push(key);
            }
        }
    }

    /// Ties the channels of each of `heads` heads, whatever their number in each of the tensors.
    fn tie_heads(&mut self, heads: usize, tensors: &[&[usize]]) {
        for head in 0..heads {
            let parts = tensors.iter().flat_map(|tensor| &tensor[tensor.len() / heads * head..][..tensor.len() / heads]);
            let all: Vec<usize> = parts.copied().collect();
            all.iter().skip(1).for_each(|&channel| self.tie(all[0], channel));
            let root = self.root(all[0]);
            self.heads[root] = true;
        }
    }

    /// The channels of what a node gives, from those of what it is given.
    fn of_node(&mut self, node: &Node, inputs: &[&[usize]]) -> Vec<usize> {
        let width = node.output.shape.last().copied().unwrap_or(0);
        let layer = node.layer.as_deref().unwrap_or_default();
        match &node.op {
            Op::Conv(..) | Op::Linear(_) => {
                if layer.starts_with(FIXED) {
                    self.fix(inputs[0]);
                }
                self.of_layer(Role::Reads, layer, inputs[0]);
                let made = self.add(width, false);
                self.of_layer(Role::Makes, layer, &made);
                if node.residual {
                    self.tie_all(&made, inputs[inputs.len() - 1]);
                }
                made
            }
            Op::Depthwise(..) => {
                self.of_layer(Role::HandsOn, layer, inputs[0]);
                inputs[0].to_vec()
            }
            Op::Pool(..) | Op::Upsample | Op::Activate(_) | Op::Clamp { .. } | Op::Gather => inputs[0].to_vec(),
            Op::Add(_) | Op::Multiply => {
                if inputs[1].len() == inputs[0].len() {
                    self.tie_all(inputs[0], inputs[1]);
                }
                inputs[0].to_vec()
            }
            Op::Concat { axis } if axis + 1 == node.output.shape.len() => inputs.concat(),
            Op::Concat { .. } => {
                inputs[1..].iter().for_each(|part| self.tie_all(inputs[0], part));
                inputs[0].to_vec()
            }
            Op::Narrow { start } => inputs[0][*start..start + width].to_vec(),
            Op::Reshape if width == inputs[0].len() => inputs[0].to_vec(),
            Op::Attention { heads } => {
                self.tie_heads(*heads, &inputs[..3]);
                // What comes out of a head has its values' width.
                inputs[2].to_vec()
            }
            Op::Deformable(deformable) => {
                self.tie_heads(deformable.heads, &inputs[..3]);
                self.fix(inputs[3]);
                inputs[0].to_vec()
            }
            Op::Norm => {
                self.fix(inputs[0]);
                inputs[0].to_vec()
            }
            Op::Input | Op::Constant(_) | Op::Parameter(_) | Op::Reshape | Op::Softmax | Op::TopValues | Op::TopTokens | Op::IndexValues => {
                inputs.iter().for_each(|input| self.fix(input));
                self.add(width, true)
            }
        }
    }
}

/// All groups of channels and heads.
fn channels(graph: &Graph, sized: &BTreeSet<String>) -> Vec<Structure> {
    let mut all = Channels::default();
    let mut values: Vec<Vec<usize>> = Vec::new();
    for node in &graph.nodes {
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|input: &Value| &values[input.id][..]).collect();
        let value = all.of_node(node, &inputs);
        values.push(value);
    }
    graph.outputs.iter().flatten().for_each(|output| all.fix(&values[output.id]));
    // A width that isn't asked for stays.
    for (role, layer) in all.order.clone() {
        if role == Role::Makes && !(sized.contains(&layer) || sized.contains(&format!("{layer}.0"))) {
            for channel in all.layers[&(role, layer.clone())].clone() {
                let root = all.root(channel);
                if !(all.heads[root] && sized.contains(&heads_of(&layer))) {
                    all.fixed[root] = true;
                }
            }
        }
    }

    // Where each channel that may go is made and read, in the network's order.
    let mut places: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (at, key) in all.order.clone().iter().enumerate() {
        for (index, channel) in all.layers[key].clone().into_iter().enumerate() {
            let root = all.root(channel);
            if !all.fixed[root] {
                places.entry(root).or_default().entry(at).or_default().push(index);
            }
        }
    }
    // Those in the same places but for their number, one after another.
    let mut units: Vec<(usize, Places)> = places.into_iter().collect();
    units.sort_by(|(_, a), (_, b)| a.cmp(b));
    let mut runs: Vec<Vec<(usize, Places)>> = Vec::new();
    for unit in units {
        match runs.iter_mut().find(|run| follows(&run[run.len() - 1].1, &unit.1, run.len().checked_sub(2).map(|i| &run[i].1))) {
            Some(run) => run.push(unit),
            None => runs.push(vec![unit]),
        }
    }
    let mut groups: Vec<Structure> = Vec::new();
    for run in runs.into_iter().filter(|run| run.len() > 1) {
        let is_heads = all.heads[run[0].0];
        let units: Vec<Places> = run.into_iter().map(|(_, unit)| unit).collect();
        groups.extend(group(&units, &all, is_heads, sized));
    }
    groups
}

/// The name of the number of an attention's heads, by one of its layers.
fn heads_of(layer: &str) -> String {
    format!("{}.heads", layer.rsplit_once('.').map_or(layer, |(attention, _)| attention))
}

type Places = BTreeMap<usize, Vec<usize>>;

/// Whether a unit comes right after another in every layer that has to do with them, as that one after the one before it.
fn follows(last: &Places, next: &Places, before: Option<&Places>) -> bool {
    let step = |a: &Places, b: &Places, at: &usize| b[at][0] as isize - a[at][0] as isize;
    last.len() == next.len()
        && last.iter().all(|(at, a)| {
            next.get(at).is_some_and(|b| {
                let by = step(last, next, at);
                a.len() == b.len() && by > 0 && a.iter().zip(b).all(|(a, b)| *b as isize - *a as isize == by) && runs_of(a, by as usize).is_some()
            }) && before.is_none_or(|before| step(before, last, at) == step(last, next, at))
        })
}

/// Where runs of this width begin, if the indices are nothing else.
fn runs_of(indices: &[usize], width: usize) -> Option<Vec<usize>> {
    let runs = indices.chunks_exact(width);
    let fits = runs.remainder().is_empty() && runs.clone().all(|run| run.windows(2).all(|pair| pair[1] == pair[0] + 1));
    fits.then(|| runs.map(|run| run[0]).collect())
}

fn group(units: &[Places], all: &Channels, is_heads: bool, sized: &BTreeSet<String>) -> Option<Structure> {
    let (mut made_by, mut used_by, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    let mut name = String::new();
    for (at, first) in &units[0] {
        let (role, layer) = &all.order[*at];
        let width = units[1][at][0] - first[0];
        let span = Span { offsets: runs_of(first, width)?, width };
        let made = |axis| [("weight", axis), ("bias", 0)].map(|(part, axis)| Made { tensor: format!("{layer}.{part}"), axis, span: span.clone() });
        match role {
            Role::Reads => used_by.push(Used { layer: layer.clone(), span }),
            Role::HandsOn => made_by.extend(made(2)),
            Role::Makes => {
                made_by.extend(made(0));
                let per_unit = width * span.offsets.len();
                let own = match is_heads {
                    true => vec![Size { name: heads_of(layer), rest: 0, per_unit: 1 }],
                    false if sized.contains(layer) => {
                        let rest = all.layers[&(*role, layer.clone())].len() - units.len() * per_unit;
                        vec![Size { name: layer.clone(), rest, per_unit }]
                    }
                    // One of the two parts of the output, or both.
                    false => {
                        let part = |offset: &usize| Size { name: format!("{layer}.{}", usize::from(*offset > 0)), rest: 0, per_unit: width };
                        span.offsets.iter().map(part).collect()
                    }
                };
                if name.is_empty() {
                    name = if is_heads { heads_of(layer).trim_end_matches(".heads").into() } else { title(&own[0].name) };
                }
                own.into_iter().for_each(|size| {
                    if !sizes.contains(&size) {
                        sizes.push(size)
                    }
                });
            }
        }
    }
    // A head's width: that of the values.
    let width = used_by.first().map_or(1, |used: &Used| used.span.width);
    Some(Structure { name, place: Place::Sizes { sizes, is_heads }, units: units.len(), width, made_by, used_by })
}

/// What a group is called by the layer that makes it first: a feed-forward network by its layer, the output of a stage's blocks by the stage.
fn title(layer: &str) -> String {
    let (module, last) = layer.rsplit_once('.').unwrap_or(("", layer));
    match (last, module.rsplit_once(".block")) {
        ("ffn1" | "ffn_gate" | "ffn_up", _) => format!("{module}.ffn"),
        ("excite" | "shortcut", Some((stage, _))) => stage.into(),
        _ => layer.into(),
    }
}

/// Sampling points: of each deformable attention and level, those of all heads together.
fn points(graph: &Graph, sized: &BTreeSet<String>) -> Vec<Structure> {
    let mut all = Vec::new();
    for node in &graph.nodes {
        let Op::Deformable(deformable) = &node.op else { continue };
        let [offsets, weights] = [1, 2].map(|i| graph.nodes[node.inputs[i].id].layer.clone().unwrap_or_default());
        let Some((attention, _)) = offsets.rsplit_once('.') else { continue };
        let mut before = 0;
        for (level, &count) in deformable.points.iter().enumerate() {
            let name = format!("{attention}.points.{level}");
            let (heads, per_head, first) = (0..deformable.heads, deformable.all_points(), before);
            let span = |width: usize| Span { offsets: heads.clone().map(|head| width * (head * per_head + first)).collect(), width };
            let rows =
                |layer: &str, width| [format!("{layer}.weight"), format!("{layer}.bias")].map(|tensor| Made { tensor, axis: 0, span: span(width) });
            before += count;
            if count > 1 && sized.contains(&name) {
                let made_by = rows(&offsets, 2).into_iter().chain(rows(&weights, 1)).collect();
                all.push(Structure { place: Place::Points(name.clone()), name, units: count, width: 1, made_by, used_by: vec![] });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, CpuSession};
    use crate::layout::layout_of;
    use crate::prune::cut::cut;
    use crate::prune::family;
    use crate::watch::Observe;
    use crate::weights::{HostTensor, Weights};

    struct Nothing;

    impl<T> Observe<T> for Nothing {}

    /// Logits and boxes on a picture of noise.
    fn answer(config: &Architecture, weights: &Weights) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(1);
        let pixels = HostTensor::f32(&[1, 64, 96, 3], (0..64 * 96 * 3).map(|_| random.f32()).collect());
        let output = CpuSession::load(config, weights).unwrap().run(&pixels, &mut Nothing).unwrap();
        let _ = Cpu;
        [output.logits.to_f32(), output.boxes.to_f32()].concat()
    }

    /// Weights in which a unit is of no use to anything: the columns that read it are zero; no head looks at a sampling point.
    fn without(weights: &Weights, group: &Structure, unit: usize) -> Weights {
        let mut weights = weights.clone();
        for used in &group.used_by {
            let name = format!("{}.weight", used.layer);
            let tensor = &weights.tensors[&name];
            let inputs = *tensor.shape.last().unwrap();
            let columns: Vec<usize> = used.span.of(unit).collect();
            let numbers = tensor.to_f32().iter().enumerate().map(|(i, x)| if columns.contains(&(i % inputs)) { 0.0 } else { *x }).collect();
            weights.insert(&name, HostTensor::f32(&tensor.shape.clone(), numbers));
        }
        if let Place::Points(_) = group.place {
            for made in group.made_by.iter().filter(|made| made.tensor.contains(".weights.")) {
                let tensor = &weights.tensors[&made.tensor];
                let (mut numbers, inner) = (tensor.to_f32().into_owned(), tensor.len() / tensor.shape[0]);
                let value = if made.tensor.ends_with("bias") { -1e4 } else { 0.0 };
                made.span.of(unit).for_each(|row| numbers[row * inner..][..inner].fill(value));
                weights.insert(&made.tensor, HostTensor::f32(&tensor.shape.clone(), numbers));
            }
        }
        weights
    }

    fn same(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{what}: {a} {b}");
        }
    }

    fn all_groups(config: &Architecture) -> Vec<Structure> {
        let Architecture::RtDetr(config) = config else { panic!() };
        groups(config).unwrap().into_iter().filter(|group| group.place != Place::Queries).collect()
    }

    #[test]
    fn to_cut_a_unit_is_to_zero_it() {
        let mut random = fastrand::Rng::with_seed(2);
        for name in family::ALL {
            let (config, weights) = family::network(name);
            let groups = all_groups(&config);
            let names: BTreeSet<&String> = groups.iter().map(|group| &group.name).collect();
            assert_eq!(names.len(), groups.len(), "{names:?}");
            let (mut zeroed, mut all) = (weights.clone(), Vec::new());
            for group in &groups {
                let unit = random.usize(..group.units);
                let kept: Vec<usize> = (0..group.units).filter(|&other| other != unit).collect();
                let (mut smaller, mut fewer) = (config.clone(), weights.clone());
                cut(&mut smaller, &mut fewer, &[(group, &kept)]).unwrap();
                crate::layout::check(&smaller, &fewer).unwrap_or_else(|error| panic!("{name}, {}: {error}", group.name));
                same(&answer(&smaller, &fewer), &answer(&config, &without(&weights, group, unit)), &format!("{name}, {}", group.name));
                zeroed = without(&zeroed, group, unit);
                all.push(kept);
            }
            // All at once, side by side in the same tensors.
            let cuts: Vec<(&Structure, &[usize])> = groups.iter().zip(&all).map(|(group, kept)| (group, &kept[..])).collect();
            let (mut smaller, mut fewer) = (config.clone(), weights.clone());
            cut(&mut smaller, &mut fewer, &cuts).unwrap();
            same(&answer(&smaller, &fewer), &answer(&config, &zeroed), name);
        }
    }

    /// Whatever the network asks the size of can be cut, unless a norm or a fixed width hangs on it.
    #[test]
    fn everything_that_can_go_is_in_a_group() {
        let expected = [
            "backbone.stem.1",
            "backbone.stage0",
            "backbone.stage1.block0.squeeze",
            "backbone.stage2.block0.layer1.pointwise",
            "neck.projection0",
            "neck.up0.conv1.0",
            "neck.up0.conv1.1",
            "neck.down0.csp1.conv1.0",
            "decoder.0.self_attention",
            "decoder.2.ffn",
            "decoder.1.cross_attention.points.0",
            "query_position.0",
            "box_head.1",
            // The others are only for training.
            "quality_head.2.0",
            "selection.box.0",
        ];
        let (config, _) = family::network("deimv2-lite-as-trained");
        let groups = all_groups(&config);
        for name in expected {
            assert!(groups.iter().any(|group| group.name == name), "{name}: {:?}", groups.iter().map(|group| &group.name).collect::<Vec<_>>());
        }
        // The neck's outputs are the decoder's tokens, and go through its norms.
        assert!(groups.iter().all(|group| group.name != "neck.up0.conv4"));
        // With a map for its values, deformable attention has heads of its own.
        let (config, _) = family::network("rt_detr");
        let groups = all_groups(&config);
        let heads = groups.iter().find(|group| group.name == "decoder.0.cross_attention").unwrap();
        assert!(heads.is_heads() && heads.units == 4 && heads.width == 8);
        let makes = |tensor: &str| heads.made_by.iter().any(|made| made.tensor == tensor);
        assert!(["value", "offsets", "weights"].iter().all(|part| makes(&format!("decoder.0.cross_attention.{part}.weight"))));
        assert!(groups.iter().any(|group| group.name == "projection0"));
        assert!(!layout_of(&config).is_empty());
    }
}
