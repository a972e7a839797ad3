//! Leaving layers out: which, and how the layer before makes up for it.
//!
//! A layer that stands for those left out after it gets the norm of the last of them, and its feed-forward network's second map is
//! re-solved to give what that one's gave (`graft.rs` gives it better neurons, too). Before the first layer there is the input projection, or what the queries hold.

use super::cut::drop_layers;
use super::difference::{Answer, difference, look};
use super::fit::fit;
use super::gram::{Gram, beside};
use super::inputs::lanes;
use super::keep::{Shown, numbers, show, watched};
use super::repair::Side;
use super::structure::Layer;
use crate::config::Architecture;
use crate::error::Result;
use crate::weights::{HostTensor, Weights};
use std::collections::{BTreeMap, BTreeSet};

/// What stands for some layers of the parent: the layer before them, if there is one, and the last of them.
type Run = (Option<Layer>, Layer);

/// Tensors that let a network do without layers, by what stands for which.
#[derive(Default)]
pub struct StandIns(BTreeMap<Run, Vec<(String, HostTensor)>>);

/// A layer in the order in which they are left out, and how differently the network sees after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropped {
    pub layer: Layer,
    pub difference: f64,
}

/// The layers that are kept, each with the last that it stands for; and the last of those before the first kept.
pub fn runs(config: &Architecture, dropped: &[Layer]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for kind in [Layer::Encoder(0), Layer::Decoder(0)] {
        let begun = runs.len();
        for layer in kind.all(config) {
            if !dropped.contains(&layer) {
                runs.push((Some(layer), layer));
            } else if let Some(run) = runs[begun..].last_mut() {
                run.1 = layer;
            } else {
                runs.push((None, layer));
            }
        }
    }
    runs
}

impl StandIns {
    /// The parent without some layers. With `repair`, what stands for them is solved for on `parent`'s pictures, unless it is known.
    pub fn without(&mut self, parent: &Side, dropped: &[Layer], repair: bool) -> Result<(Architecture, Weights)> {
        let (mut config, mut weights) = (parent.config.clone(), parent.weights.clone());
        if repair {
            let runs: Vec<Run> = runs(&config, dropped).into_iter().filter(|(own, last)| *own != Some(*last)).collect();
            let unknown: Vec<Run> = runs.iter().filter(|run| !self.0.contains_key(run)).copied().collect();
            self.solve(parent, &unknown)?;
            for (name, tensor) in runs.iter().filter_map(|run| self.0.get(run)).flatten() {
                if let Architecture::Detr(config) = &mut config {
                    config.query_content |= name == "query_content";
                }
                weights.insert(name, tensor.clone());
            }
        }
        drop_layers(&mut config, &mut weights, dropped);
        Ok((config, weights))
    }

    fn solve(&mut self, parent: &Side, runs: &[Run]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let fits: Vec<Fit> = runs.iter().map(|run| Fit::new(parent, *run)).collect::<Result<_>>()?;
        let wanted: BTreeSet<String> = fits.iter().flat_map(|fit| [fit.map.clone(), Some(fit.target.clone())]).flatten().collect();
        let detr = watched(parent.config, parent.weights)?;
        let start = || Ok(fits.iter().map(Fit::empty).collect::<Vec<_>>());
        let found = lanes(parent.inputs.len(), start, |grams, index| {
            let given = show(&wanted, &detr, parent.inputs, index)?;
            fits.iter().zip(grams).try_for_each(|(fit, gram)| fit.add(&given, gram, |map, count| parent.relevance.rows(map, index, count, None)))
        })?;
        for (i, fit) in fits.iter().enumerate() {
            let parts: Vec<Gram> = found.iter().map(|grams| grams[i].clone()).collect();
            self.0.insert(fit.run, fit.tensors(parent, &parts)?);
        }
        Ok(())
    }
}

/// One least-squares problem.
struct Fit {
    run: Run,
    /// What is re-solved; the queries' contents have no map: their mean is a number for each query.
    map: Option<String>,
    inputs: usize,
    /// The layer whose output is to be met (without the residual of `map`), or whose input.
    target: String,
    is_input: bool,
    outputs: usize,
    queries: usize,
}

impl Fit {
    fn new(parent: &Side, run: Run) -> Result<Self> {
        let (own, last) = run;
        let (map, target, is_input) = match (own, last) {
            (Some(own), _) => (Some(format!("{}.ffn2", own.prefix())), format!("{}.ffn2", last.prefix()), false),
            (None, Layer::Encoder(_)) => (Some("input_projection".into()), last.next(parent.config), true),
            (None, Layer::Decoder(_)) => (None, last.next(parent.config), true),
        };
        let outputs = parent.config.d_model();
        let inputs = match &map {
            Some(map) => parent.weights.named(&format!("{map}.weight"))?.len() / outputs.max(1),
            None => 0,
        };
        Ok(Self { run, map, inputs, target, is_input, outputs, queries: parent.config.queries() })
    }

    fn empty(&self) -> Gram {
        match self.map {
            Some(_) => Gram::of_map(self.inputs, self.outputs),
            None => Gram::of_mean(self.queries * self.outputs),
        }
    }

    fn add(&self, given: &Shown, gram: &mut Gram, relevance: impl Fn(&str, usize) -> Option<Vec<f32>>) -> Result<()> {
        let target = &given[&self.target][0];
        let mut y = numbers(if self.is_input { &target.input } else { &target.output })?;
        let Some(name) = &self.map else {
            gram.add(&y, None);
            return Ok(());
        };
        let map = &given[name][0];
        if let Some(residual) = &map.residual {
            y.iter_mut().zip(numbers(residual)?).for_each(|(y, r)| *y -= r);
        }
        let x = numbers(&map.input)?;
        let weights = relevance(name, y.len() / self.outputs);
        gram.add(&beside(&[(x, self.inputs), (y, self.outputs)]), weights.as_deref());
        Ok(())
    }

    fn tensors(&self, parent: &Side, parts: &[Gram]) -> Result<Vec<(String, HostTensor)>> {
        let (own, last) = self.run;
        let Some(map) = &self.map else {
            let mean = Gram::sum(parts).mean.iter().map(|&x| x as f32).collect();
            return Ok(vec![("query_content".into(), HostTensor::f32(&[self.queries, self.outputs], mean))]);
        };
        let prior = parent.weights.get(&format!("{map}.weight"), &[self.outputs, self.inputs])?;
        let (weight, bias) = fit(parts, self.inputs, prior)?;
        let mut tensors = vec![(format!("{map}.weight"), weight), (format!("{map}.bias"), bias)];
        if let Some(own) = own {
            for part in ["weight", "bias"] {
                // An RMS norm has no bias.
                let name = format!("{}.{part}", last.norm());
                if part == "bias" && !parent.weights.tensors.contains_key(&name) {
                    continue;
                }
                let norm = parent.weights.get(&name, &[self.outputs])?;
                tensors.push((format!("{}.{part}", own.norm()), norm.clone()));
            }
        }
        Ok(tensors)
    }
}

/// All layers of a kind but one, each time the one whose absence shows least, or those that `given` names first to last.
pub fn order(
    parent: &Side,
    seen: &[Answer],
    kind: Layer,
    given: Option<&[Layer]>,
    repair: bool,
    stand_ins: &mut StandIns,
    done: &dyn Fn(),
) -> Result<Vec<Dropped>> {
    let all = kind.all(parent.config);
    let mut order: Vec<Dropped> = Vec::new();
    while all.len() - order.len() > 1 {
        let gone: Vec<Layer> = order.iter().map(|dropped| dropped.layer).collect();
        let left: Vec<Layer> = match given {
            Some(given) => vec![given[order.len()]],
            None => all.iter().filter(|layer| !gone.contains(layer)).copied().collect(),
        };
        let found = each(parent, seen, &left, &gone, repair, stand_ins, done)?;
        // `min_by` gives the first of equals, and numbers that aren't finite come last.
        match found.into_iter().min_by(|a, b| a.difference.total_cmp(&b.difference)) {
            Some(best) => order.push(best),
            None => break,
        }
    }
    Ok(order)
}

/// What leaving out each of some layers does, after those that are `gone`.
pub fn each(
    parent: &Side,
    seen: &[Answer],
    layers: &[Layer],
    gone: &[Layer],
    repair: bool,
    stand_ins: &mut StandIns,
    done: &dyn Fn(),
) -> Result<Vec<Dropped>> {
    let mut found = Vec::new();
    for &layer in layers {
        let mut all = gone.to_vec();
        all.push(layer);
        all.sort_by_key(|layer| layer.number());
        let (config, weights) = stand_ins.without(parent, &all, repair)?;
        found.push(Dropped { layer, difference: difference(seen, &look(&config, &weights, parent.inputs)?) });
        done();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Config, EfficientNetLite};
    use crate::prune::calibrate::Relevance;
    use crate::prune::inputs::{Inputs, Point};
    use crate::prune::tiny;

    /// Pictures that stand before the decoder already see what the queries hold in place of a first layer that is gone.
    #[test]
    fn a_layer_is_missed_as_much_wherever_the_pictures_stand() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 6);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let differences = |inputs: &Inputs, repair: bool| {
            let parent = Side { config: &config, weights: &weights, inputs, relevance: &relevance };
            let seen = look(&config, &weights, inputs).unwrap();
            let found = each(&parent, &seen, &Layer::Decoder(0).all(&config), &[], repair, &mut StandIns::default(), &|| ()).unwrap();
            found.into_iter().map(|dropped| dropped.difference).collect::<Vec<_>>()
        };
        let features = inputs.at(&config, &weights, Point::features(&config)).unwrap();
        let tokens = features.at(&config, &weights, Point::Decoder(0)).unwrap();
        let (from_features, from_tokens, unrepaired) = (differences(&features, true), differences(&tokens, true), differences(&tokens, false));
        for (a, b) in from_features.iter().zip(&from_tokens) {
            assert!((a - b).abs() < 0.02 * a, "{from_features:?} {from_tokens:?}");
        }
        assert!((from_tokens[0] - unrepaired[0]).abs() > 0.1 * unrepaired[0], "{from_tokens:?} {unrepaired:?}");
    }

    #[test]
    fn layers_stand_for_those_after_them() {
        let config = Config::detr(Backbone::EfficientNetLite(EfficientNetLite::lite0())).into();
        let (e, d) = (Layer::Encoder, Layer::Decoder);
        let found = runs(&config, &[e(0), e(1), e(4), d(5)]);
        let expected = [
            (None, e(1)),
            (Some(e(2)), e(2)),
            (Some(e(3)), e(4)),
            (Some(e(5)), e(5)),
            (Some(d(0)), d(0)),
            (Some(d(1)), d(1)),
            (Some(d(2)), d(2)),
            (Some(d(3)), d(3)),
            (Some(d(4)), d(5)),
        ];
        assert_eq!(found, expected);
    }
}
