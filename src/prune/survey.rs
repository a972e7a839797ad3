//! What taking each thing out of a network costs it: every structure's error at every width, layers, and smaller inputs.
//!
//! Errors of different structures are made comparable by measuring what one level of each does to the detector's outputs.

use super::cut::kept;
use super::difference::{Answer, difference, look};
use super::importance::Knowledge;
use super::inputs::{Inputs, Point, in_order};
use super::layers::{Dropped, StandIns, order};
use super::obs::{self, Removal};
use super::plan::Plan;
use super::repair::{Side, solve};
use super::size::{self, Smaller, smaller};
use super::structure::{Layer, Place, Structure, structures};
use super::trim::Method;
use super::trimmed::Trimmed;
use crate::config::Architecture;
use crate::error::Result;
use crate::eval::cost::cost;
use crate::graph::Op;
use crate::image::typical_size;
use crate::progress::Progress;
use crate::trace::trace;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a network: what taking each thing out costs it.
#[derive(Clone)]
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

impl Survey {
    /// What could be taken out at all, as if nothing were missed: for what it may come to.
    pub fn unmeasured(config: &Architecture, sizes: bool, fold: bool) -> Self {
        let structures = structures(config).into_iter().filter(|structure| structure.stays(&[], fold));
        // (Which ones doesn't matter, but where only the last ones can go.)
        let layers = |kind: Layer| kind.all(config).into_iter().skip(1).rev().map(|layer| Dropped { layer, difference: 0.0 }).collect();
        let smaller = |resize| Smaller { resize, difference: 0.0 };
        Self {
            structures: structures.map(|structure| Surveyed { structure, order: vec![], slope: 0.0 }).collect(),
            encoder: layers(Layer::Encoder(0)),
            decoder: layers(Layer::Decoder(0)),
            sizes: if sizes { size::sizes(config.pixels().resize).into_iter().map(smaller).collect() } else { vec![] },
            fold,
        }
    }

    /// The sum of what a plan's cuts are predicted to do; layers and the input's size are not among them.
    pub fn predicted_of_cuts(&self, plan: &Plan) -> f64 {
        let cuts = self.structures.iter().filter_map(|surveyed| Some(surveyed.difference(plan.keep.get(&surveyed.structure.name)?.count())));
        cuts.sum()
    }

    /// Multiplies what is predicted of some structures, by their names.
    pub fn scale(&mut self, which: impl Fn(&str) -> bool, factor: f64) {
        self.structures.iter_mut().filter(|surveyed| which(&surveyed.structure.name)).for_each(|surveyed| surveyed.slope *= factor);
    }
}

/// A structure, its units in the order of removal, and what their removal does to the outputs.
#[derive(Clone)]
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

/// Pictures on which one level of each structure is measured: fewer where a network has many more of them.
fn probed(config: &Architecture) -> usize {
    if config.as_detr().is_some() { 48 } else { 24 }
}

/// Looks at a parent by one method and remembers what it has seen: recipes ask for much that is the same.
pub struct Surveyor<'a> {
    pub parent: &'a Side<'a>,
    pub method: Method,
    pub progress: &'a dyn Progress,
    layers: OnceCell<[Vec<Dropped>; 2]>,
    sizes: OnceCell<Vec<Smaller>>,
    structures: RefCell<BTreeMap<String, Surveyed>>,
}

impl<'a> Surveyor<'a> {
    /// Measures nothing yet: each thing is measured when it is asked for first.
    pub fn new(parent: &'a Side<'a>, method: Method, progress: &'a dyn Progress) -> Self {
        Self { parent, method, progress, layers: OnceCell::new(), sizes: OnceCell::new(), structures: RefCell::default() }
    }

    /// Everything that could be taken out: layers, smaller inputs if they are asked for, and the structures that are.
    pub fn survey(&self, sizes: bool, wanted: impl Fn(&str) -> bool) -> Result<Survey> {
        let sizes = if sizes { self.sizes()?.to_vec() } else { vec![] };
        let structures = self.structures(wanted)?;
        let [encoder, decoder] = self.layers()?.clone();
        Ok(Survey { structures, encoder, decoder, sizes, fold: self.method.fold })
    }

    /// The structures that are asked for.
    pub fn structures(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Surveyed>> {
        let Self { parent, method, .. } = self;
        let matters = |structure: &Structure| structure.stays(&[], method.fold) && wanted(&structure.name);
        let all: Vec<Structure> = structures(parent.config).into_iter().filter(matters).collect();
        let unknown: Vec<Structure> = all.iter().filter(|structure| !self.structures.borrow().contains_key(&structure.name)).cloned().collect();
        if !unknown.is_empty() {
            let found = structures_of(parent, *method, unknown, self.progress)?;
            self.structures.borrow_mut().extend(found.into_iter().map(|found| (found.structure.name.clone(), found)));
        }
        let known = self.structures.borrow();
        Ok(all.iter().filter_map(|structure| known.get(&structure.name)).cloned().collect())
    }

    /// The orders in which the encoder's and the decoder's layers are best left out.
    pub fn layers(&self) -> Result<&[Vec<Dropped>; 2]> {
        if let Some(known) = self.layers.get() {
            return Ok(known);
        }
        let found = layer_orders(self.parent, self.method, self.progress)?;
        Ok(self.layers.get_or_init(|| found))
    }

    fn sizes(&self) -> Result<&[Smaller]> {
        if let Some(known) = self.sizes.get() {
            return Ok(known);
        }
        let pictures = self.parent.inputs.first(measured_on(self.parent, 4 * probed(self.parent.config), |_| true)?);
        let found = smaller(self.parent, &look(self.parent.config, self.parent.weights, &pictures)?, self.progress)?;
        Ok(self.sizes.get_or_init(|| found))
    }
}

/// Pictures to measure changes on: so many, but fewer where the parts of the network that count have much to do for each.
fn measured_on(parent: &Side, most: usize, counts: impl Fn(&str) -> bool) -> Result<usize> {
    /// Multiply-accumulates of a measurement: seconds on a laptop, and there is one for each thing that could go.
    const WORK: u64 = 200_000_000_000;
    /// So few see hardly any object of some kinds.
    const LEAST: usize = 8;
    Ok(affordable(parent.config, WORK, counts)?.clamp(LEAST, most))
}

/// How often a picture of typical size can go through the parts of a network that count, for so many multiply-accumulates.
pub fn affordable(config: &Architecture, work: u64, counts: impl Fn(&str) -> bool) -> Result<usize> {
    let parts = cost(config, typical_size(config.pixels().resize)?);
    let macs: u64 = parts.iter().filter(|part| counts(&part.name)).map(|part| part.macs).sum();
    Ok((work / macs.max(1)) as usize)
}

fn structures_of(parent: &Side, method: Method, all: Vec<Structure>, progress: &dyn Progress) -> Result<Vec<Surveyed>> {
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

fn layer_orders(parent: &Side, method: Method, progress: &dyn Progress) -> Result<[Vec<Dropped>; 2]> {
    let (config, weights) = (parent.config, parent.weights);
    let pictures = parent.inputs.first(measured_on(parent, 4 * probed(parent.config), |part| !part.starts_with("backbone."))?);
    // Each begins where the network's parts first differ.
    let features = pictures.at(config, weights, Point::features(config))?;
    let tokens = features.at(config, weights, Point::Decoder(0))?;
    let given = |kind: Layer| match config {
        Architecture::Detr(_) => method.importance.layers(kind.all(config), method.seed),
        // Each layer refines what the one before has found: only the last ones can go.
        Architecture::RtDetr(_) => Some(kind.all(config).into_iter().rev().collect()),
    };
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
    Ok([order(Layer::Encoder(0), &features)?, order(Layer::Decoder(0), &tokens)?])
}

/// A few pictures at several points of their way: what comes before a structure needn't be computed again and again.
struct Points {
    before: Vec<Inputs>,
    last: Inputs,
}

impl Points {
    fn new(parent: &Side) -> Result<Self> {
        let pictures = parent.inputs.first(measured_on(parent, probed(parent.config), |_| true)?).without_tokens();
        let mut points = Self { last: pictures, before: Vec::new() };
        for point in Self::all(parent.config)? {
            let next = points.last.at(parent.config, parent.weights, point)?;
            points.before.push(std::mem::replace(&mut points.last, next));
        }
        Ok(points)
    }

    /// Of a DETR its blocks and layers; of RT-DETR's family where a part of the network begins.
    fn all(config: &Architecture) -> Result<Vec<Point>> {
        Ok(match config {
            Architecture::Detr(detr) => {
                let backbone = (0..=detr.backbone.blocks()).map(Point::Block);
                backbone.chain((0..detr.encoder.len()).map(Point::Encoder)).chain((0..detr.decoder.len()).map(Point::Decoder)).collect()
            }
            Architecture::RtDetr(_) => {
                let [height, width] = typical_size(config.pixels().resize)?;
                let graph = trace(config, [1, height, width], None)?;
                let part = |layer: &str| layer.split('.').take(2).collect::<Vec<_>>().join(".");
                let mut seen = BTreeSet::new();
                // What comes after the selection is judged with it: two networks may select otherwise.
                let select = graph.nodes.iter().position(|node| node.op == Op::TopTokens).unwrap_or(graph.nodes.len());
                let nodes = graph.nodes.iter().take(select).filter(|node| node.layer.as_deref().is_some_and(|layer| seen.insert(part(layer))));
                nodes.map(|node| Point::Node(node.output.id)).collect()
            }
        })
    }

    /// The last point before a structure.
    fn before(&self, config: &Architecture, structure: &Structure) -> Result<&Inputs> {
        let detr = match config {
            Architecture::Detr(config) => config,
            Architecture::RtDetr(_) => {
                let [height, width] = typical_size(config.pixels().resize)?;
                let graph = trace(config, [1, height, width], None)?;
                let makes = |layer: &str| structure.made_by.iter().any(|made| made.tensor.strip_prefix(layer).is_some_and(|rest| rest == ".weight"));
                let node = graph.first_of(makes).map_or(Point::Pixels, Point::Node);
                return Ok(self.before.iter().chain([&self.last]).rev().find(|inputs| inputs.point <= node).unwrap_or(&self.before[0]));
            }
        };
        let blocks = detr.backbone.blocks();
        let point = match structure.layer() {
            Some(layer) => layer.into(),
            None => match structure.name.strip_prefix("backbone.") {
                // A stream begins with a stage; what is within a block has its name.
                Some(name) => {
                    let name = format!("{name}.");
                    let within = |block: &usize| {
                        let block = format!("{}.", detr.backbone.block_name(*block));
                        name.starts_with(&block) || block.starts_with(&name)
                    };
                    (0..blocks).find(within).map_or(Point::Pixels, Point::Block)
                }
                None => Point::Block(blocks),
            },
        };
        Ok(self.before.iter().chain([&self.last]).rev().find(|inputs| inputs.point <= point).unwrap_or(&self.last))
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
    // The smaller networks are, the less of them can go before nothing is left to compare.
    let gone = (structure.units / if parent.config.as_detr().is_some() { 2 } else { 4 }).max(1);
    let units = obs::kept(&order, structure.units, gone);
    let mut trimmed = Trimmed::new(parent, &[], false, &mut StandIns::default())?;
    if method.repair {
        let kept = kept(&trimmed.weights, &[(&structure, &units)])?;
        for (used, problem) in structure.used_by.iter().zip(&knowledge.problems(&structure)?) {
            let axis = trimmed.weights.named(&format!("{}.weight", used.layer))?.shape.len() - 1;
            let Some(channels) = kept.get(&(format!("{}.weight", used.layer), axis)) else { continue };
            for (name, tensor) in solve(&trimmed.weights, &used.layer, problem, channels)? {
                trimmed.weights.insert(name, tensor);
            }
        }
    }
    trimmed.cut(&[(&structure, &units)])?;
    let inputs = points.before(parent.config, &structure)?;
    let found = difference(seen, &look(&trimmed.config, &trimmed.weights, inputs)?);
    let error = order.get(gone.max(1) - 1).map_or(0.0, |removal| removal.error);
    Ok(Surveyed { structure, order, slope: found / error.max(1e-12) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::Counted;
    use crate::prune::calibrate::Relevance;
    use crate::prune::importance::Importance;
    use crate::prune::tiny;

    #[test]
    fn nothing_is_looked_at_twice_and_what_is_known_does_not_depend_on_when_it_was_asked() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 3);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: true };
        let (begun, other) = (Counted::default(), Counted::default());
        let (surveyor, fresh) = (Surveyor::new(&parent, method, &begun), Surveyor::new(&parent, method, &other));
        let work = |ask: &dyn Fn()| {
            let before = begun.begun();
            ask();
            begun.begun() - before
        };
        assert!(work(&|| drop(surveyor.structures(|name| name == "encoder.1.ffn").unwrap())) > 0);
        assert_eq!(work(&|| drop(surveyor.structures(|name| name == "encoder.1.ffn").unwrap())), 0);
        assert!(work(&|| drop(surveyor.survey(true, |_| true).unwrap())) > 0);
        assert_eq!(work(&|| drop(surveyor.survey(true, |_| true).unwrap())), 0);

        let (piecewise, whole) = (surveyor.survey(true, |_| true).unwrap(), fresh.survey(true, |_| true).unwrap());
        assert_eq!((&piecewise.encoder, &piecewise.decoder, &piecewise.sizes), (&whole.encoder, &whole.decoder, &whole.sizes));
        assert_eq!(piecewise.structures.len(), whole.structures.len());
        for (a, b) in piecewise.structures.iter().zip(&whole.structures) {
            assert_eq!((&a.structure, &a.order, a.slope), (&b.structure, &b.order, b.slope));
        }
    }
}
