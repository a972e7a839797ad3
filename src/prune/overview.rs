//! What each part of a network is good for, to be looked at before anything is taken out.

use super::difference::look;
use super::importance::Knowledge;
use super::inputs::Point;
use super::layers::{StandIns, each};
use super::repair::Side;
use super::structure::{Layer, Structure, structures};
use super::trim::Method;
use crate::error::Result;
use crate::progress::Progress;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Overview {
    pub heads: Vec<Heads>,
    pub widths: Vec<Width>,
    pub layers: Vec<Absent>,
}

/// An attention's heads.
#[derive(Debug, Serialize)]
pub struct Heads {
    pub name: String,
    /// Of each head on its own, in the units of [`Knowledge::alone`].
    pub importance: Vec<f64>,
}

/// Neurons or channels.
#[derive(Debug, Serialize)]
pub struct Width {
    pub name: String,
    pub units: usize,
    /// The error with 1, 2, … units gone, the least missed first. By obs it is summed over the maps that use them, and may exceed 1.
    pub errors: Vec<f64>,
}

impl Width {
    /// How many units can go within an error.
    pub fn removable(&self, most: f64) -> usize {
        self.errors.iter().take_while(|error| **error <= most).count()
    }
}

/// A layer that is left out, those before and after it re-solved.
#[derive(Debug, Serialize)]
pub struct Absent {
    pub name: String,
    /// Of the outputs: 0 is none, 1 as if nothing were found.
    pub difference: f64,
}

/// Pictures on which layers are left out.
const LOOKED_AT: usize = 96;

/// Looks at heads, widths and layers.
pub fn overview(parent: &Side, method: Method, progress: &dyn Progress) -> Result<Overview> {
    let (config, weights) = (parent.config, parent.weights);
    let all: Vec<Structure> = structures(config).into_iter().filter(|structure| !structure.used_by.is_empty()).collect();
    let knowledge = Knowledge::gather(config, weights, parent.inputs, parent.relevance, &all, method, progress)?;
    progress.begin("scoring units", all.len());
    let (mut heads, mut widths) = (Vec::new(), Vec::new());
    for structure in &all {
        let problems = knowledge.problems(structure)?;
        let name = structure.name.clone();
        if structure.is_heads() {
            heads.push(Heads { name, importance: knowledge.alone(method.importance, structure, &problems)? });
        } else {
            let order = knowledge.order(method.importance, structure, &problems)?;
            widths.push(Width { name, units: structure.units, errors: order.iter().map(|removal| removal.error).collect() });
        }
        progress.step();
    }
    Ok(Overview { heads, widths, layers: layers(parent, method.repair, progress)? })
}

fn layers(parent: &Side, repair: bool, progress: &dyn Progress) -> Result<Vec<Absent>> {
    let features = parent.inputs.first(LOOKED_AT).at(parent.config, parent.weights, Point::features(parent.config))?;
    let parent = &Side { inputs: &features, ..*parent };
    let kinds = [Layer::Encoder(0), Layer::Decoder(0)];
    progress.begin("leaving layers out", kinds.iter().map(|kind| kind.count(parent.config)).sum());
    let seen = look(parent.config, parent.weights, parent.inputs)?;
    let mut stand_ins = StandIns::default();
    let mut all = Vec::new();
    // The last layer of a kind can't be left out; of RT-DETR's family no other can.
    for kind in kinds.into_iter().filter(|kind| kind.count(parent.config) > 1) {
        let mut layers = kind.all(parent.config);
        if parent.config.as_detr().is_none() {
            layers.drain(..layers.len() - 1);
        }
        let found = each(parent, &seen, &layers, &[], repair, &mut stand_ins, &|| progress.step())?;
        all.extend(found.iter().map(|dropped| Absent { name: dropped.layer.prefix(), difference: dropped.difference }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prune::calibrate::Relevance;
    use crate::prune::importance::Importance;
    use crate::prune::tiny;

    #[test]
    fn a_head_that_nothing_listens_to_is_missed_least() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 6);
        let dead = structures(&config).into_iter().find(|structure| structure.name == "decoder.1.cross_attention").unwrap();
        let mut weights = tiny::scaled(&weights, &dead, 1, 0.0);
        // To its size it adds nothing either, as a magnitude is of what makes a unit too.
        for made in &dead.made_by {
            let tensor = weights.tensors.get_mut(&made.tensor).unwrap();
            let inner = tensor.len() / (dead.units * dead.width);
            let half = |(i, x): (usize, &f32)| if i / inner < dead.width { *x } else { 0.5 * x };
            *tensor = crate::weights::HostTensor::f32(&tensor.shape, tensor.to_f32().iter().enumerate().map(half).collect());
        }
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        for importance in [Importance::Obs, Importance::Taylor, Importance::Magnitude] {
            let found = overview(&parent, Method { importance, repair: true, seed: 0, fold: false }, &Silent).unwrap();
            let heads = &found.heads.iter().find(|heads| heads.name == dead.name).unwrap().importance;
            assert!(heads[1] < heads[0], "{importance:?}: {heads:?}");
            assert!(importance == Importance::Magnitude || heads[1] < 1e-12 && heads[0] > 0.0, "{importance:?}: {heads:?}");
            assert_eq!((found.heads.len(), found.layers.len()), (6, 4));
            let rising = |width: &Width| width.errors.len() == width.units - 1 && width.errors.is_sorted();
            assert!(found.widths.iter().all(rising), "{:?}", found.widths);
            assert!(found.layers.iter().all(|absent| absent.difference > 0.0), "{:?}", found.layers);
        }
    }
}
