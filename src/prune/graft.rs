//! Layers that go leave their best neurons to the layer that stands for them.
//!
//! What a feed-forward network further on is given is made, as well as a linear map can, of what the standing layer's is given; so its neurons
//! can be computed there. Of all these, the standing layer's own among them, those stay of which the last layer's output is made best.

use super::calibrate::{MOST_ROWS, offset};
use super::cut::some;
use super::fit::fit;
use super::gram::{Gram, Sampling, beside, rows};
use super::inputs::lanes;
use super::keep::{Given, Watched, numbers, show};
use super::obs::{Problem, kept, removals};
use super::repair::Side;
use super::structure::{Layer, Place, Span, Structure};
use super::trimmed::Output;
use crate::backend::Backend;
use crate::config::{Architecture, Config};
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, product};
use crate::weights::HostTensor;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// The most neurons to choose among: the time grows with their third power. Two layers of the official DETR's width, 2,048, are beyond that.
const MOST: usize = 3200;
/// Rows for each neuron to choose among; where there are fewer, what seems to be best is chance.
const LEAST_ROWS: usize = 4;

/// A feed-forward network that stands for those of several layers.
pub struct Graft {
    /// Its two maps: name, weight and bias.
    pub maps: [(&'static str, HostTensor, HostTensor); 2],
    /// Whose its neurons are.
    pub neurons: Vec<Output>,
}

/// All neurons of a layer and of those that it stands for: a plan counts them in this order. Layers of RT-DETR's family keep their own.
pub fn neurons(config: &Architecture, own: Layer, last: Layer) -> Vec<Output> {
    let Architecture::Detr(config) = config else { return vec![] };
    let of = |layer: Layer| {
        let map = named(layer, "ffn1");
        (0..layer.ffn(config)).map(move |index| Output { map: map.clone(), index })
    };
    (own.number()..=last.number()).flat_map(|number| of(own.with(number))).collect()
}

/// Whether there is more to choose from than the first layer's own.
pub fn is_choice(neurons: &[Output]) -> bool {
    candidates(neurons, MOST).iter().any(|neuron| neuron.map != neurons[0].map)
}

/// The feed-forward network of `own` that gives what that of `last` gave, the layers between them left out. It has the `given` neurons, or
/// chooses as many as it had; none where there are too few pictures to choose by. `parent`'s pictures haven't come further than to `own`.
pub fn graft(parent: &Side, whole: &Watched, own: Layer, last: Layer, given: Option<&[Output]>) -> Result<Option<Graft>> {
    let Architecture::Detr(config) = parent.config else { return Err(Error::Config("only a DETR's layers get neurons of others".into())) };
    let grafting = Grafting { parent, config, whole, own, last };
    let (through, rows) = grafting.through()?;
    let candidates = match given {
        Some(given) => given.to_vec(),
        None => candidates(&neurons(parent.config, own, last), MOST.min(rows / LEAST_ROWS)),
    };
    let units = given.map_or(own.ffn(config), <[Output]>::len);
    if given.is_none() && candidates.len() <= units {
        return Ok(None);
    }
    let (weight, bias) = grafting.made(&candidates, &through)?;
    let parts = grafting.of_the_last(&weight, &bias)?;
    let kept = match given {
        Some(_) => (0..units).collect(),
        None => best(&parts, &grafting.prior(&candidates)?, units)?,
    };
    let neurons: Vec<Output> = kept.iter().map(|&unit| candidates[unit].clone()).collect();
    let parts: Vec<Gram> = parts.iter().map(|part| part.with_inputs(&kept)).collect();
    let (weight2, bias2) = fit(&parts, units, &grafting.prior(&neurons)?)?;
    Ok(Some(Graft { maps: [("ffn1", some(&weight, 0, 1, &kept), some(&bias, 0, 1, &kept)), ("ffn2", weight2, bias2)], neurons }))
}

/// The first layer's neurons and those of as many others, the last first, as make no more than `most`.
fn candidates(all: &[Output], most: usize) -> Vec<Output> {
    let layers: Vec<&[Output]> = all.chunk_by(|a, b| a.map == b.map).collect();
    let [own, others @ ..] = &layers[..] else { return vec![] };
    let mut count = own.len();
    let fit = others.iter().rev().take_while(|layer| (count += layer.len(), count <= most).1).count();
    [&[*own], &others[others.len() - fit..]].concat().concat()
}

/// As many neurons as are asked for, the others left out one after another, each time the least missed.
fn best(parts: &[Gram], prior: &HostTensor, units: usize) -> Result<Vec<usize>> {
    let all = prior.shape[1];
    let (weight, _) = fit(parts, all, prior)?;
    let structure = Structure { name: String::new(), place: Place::Queries, units: all, width: 1, made_by: vec![], used_by: vec![] };
    Ok(kept(&removals(&[Problem::new(&Gram::sum(parts), &weight, &Span::all())?], &structure)?, all, all - units))
}

fn named(layer: Layer, map: &str) -> String {
    format!("{}.{map}", layer.prefix())
}

struct Grafting<'a> {
    parent: &'a Side<'a>,
    config: &'a Config,
    whole: &'a Watched,
    own: Layer,
    last: Layer,
}

/// By the names of first maps: what they are given, made of what the standing layer's is given. `[d_model, d_model]` and `[d_model]`.
type Through = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

impl Grafting<'_> {
    /// For all layers but the first; and the number of rows from which they are known.
    fn through(&self) -> Result<(Through, usize)> {
        let width = self.config.d_model;
        let inputs: Vec<String> = (self.own.number()..=self.last.number()).map(|number| named(self.own.with(number), "ffn1")).collect();
        let others = inputs.len() - 1;
        let (parts, rows) = self
            .gather(&inputs, [width, width * others], |seen, sampled| inputs.iter().map(|name| Ok((sampled(&seen[name].input)?, width))).collect())?;
        let same = (0..others * width * width).map(|i| f32::from(u8::from(i % width == i / width % width))).collect();
        let (weight, bias) = fit(&parts, width, &HostTensor::f32(&[others * width, width], same))?;
        let (weight, bias) = (weight.to_f32(), bias.to_f32());
        let each = weight.chunks_exact(width * width).zip(bias.chunks_exact(width)).map(|(weight, bias)| (weight.to_vec(), bias.to_vec()));
        Ok((inputs.into_iter().skip(1).zip(each).collect(), rows))
    }

    /// The first map of these neurons, in the standing layer's place: weight `[neurons, d_model]` and bias `[neurons]`.
    fn made(&self, neurons: &[Output], through: &Through) -> Result<(HostTensor, HostTensor)> {
        let width = self.config.d_model;
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for neurons in neurons.chunk_by(|a, b| a.map == b.map) {
            let (map, which) = (&neurons[0].map, neurons.iter().map(|neuron| neuron.index).collect::<Vec<_>>());
            let of = |part: &str| -> Result<Vec<f32>> {
                Ok(some(self.parent.weights.named(&format!("{map}.{part}"))?, 0, 1, &which).to_f32().into_owned())
            };
            let (weight, mut bias) = (of("weight")?, of("bias")?);
            let Some((linear, shift)) = through.get(map) else {
                weights.extend(weight);
                biases.extend(bias);
                continue;
            };
            let weight = Matrix::new(&weight, which.len(), width, width);
            let mut made = vec![0.0; which.len() * width];
            product(&mut made, width, weight, Matrix::new(linear, width, width, width), 1.0, false);
            product(&mut bias, 1, weight, Matrix::new(shift, width, 1, 1), 1.0, true);
            weights.extend(made);
            biases.extend(bias);
        }
        Ok((HostTensor::f32(&[biases.len(), width], weights), HostTensor::f32(&[biases.len()], biases)))
    }

    /// What neurons with this first map say, and what is to come out, without the residual.
    fn of_the_last(&self, weight: &HostTensor, bias: &HostTensor) -> Result<Vec<Gram>> {
        let [first, second, target] = [named(self.own, "ffn1"), named(self.own, "ffn2"), named(self.last, "ffn2")];
        let (neurons, width) = (bias.len(), self.config.d_model);
        let linear = Cpu.load_linear("", weight, bias)?;
        let (parts, _) = self.gather(&[first.clone(), second.clone(), target.clone()], [neurons, width], |seen, sampled| {
            let x = sampled(&Cpu.linear(&seen[&first].input, &linear, self.config.activation, None)?)?;
            let mut y = sampled(&seen[&target].output)?;
            if let Some(residual) = &seen[&second].residual {
                y.iter_mut().zip(sampled(residual)?).for_each(|(y, r)| *y -= r);
            }
            Ok(vec![(x, neurons), (y, width)])
        })?;
        Ok(parts)
    }

    /// The second map of these neurons as far as it is known: the standing layer's own.
    fn prior(&self, neurons: &[Output]) -> Result<HostTensor> {
        let (own, width) = (self.own.ffn(self.config), self.config.d_model);
        let (first, second) = (named(self.own, "ffn1"), named(self.own, "ffn2"));
        let weight = self.parent.weights.get(&format!("{second}.weight"), &[width, own])?.to_f32();
        let column = |row: usize, neuron: &Output| if neuron.map == first { weight[row * own + neuron.index] } else { 0.0 };
        let numbers = (0..width).flat_map(|row| neurons.iter().map(move |neuron| column(row, neuron))).collect();
        Ok(HostTensor::f32(&[width, neurons.len()], numbers))
    }

    /// Sums over rows that `join` makes of what it is shown of a picture: parts side by side, each with its width, of which it samples all in
    /// the same places. With the number of rows.
    fn gather(
        &self,
        wanted: &[String],
        [inputs, outputs]: [usize; 2],
        join: impl Fn(&BTreeMap<String, Given>, &dyn Fn(&Tensor) -> Result<Vec<f32>>) -> Result<Vec<(Vec<f32>, usize)>> + Sync,
    ) -> Result<(Vec<Gram>, usize)> {
        let Side { inputs: pictures, relevance, .. } = self.parent;
        let start = || Ok((Gram::of_map(inputs, outputs), 0));
        let layers = wanted.iter().cloned().collect();
        let found = lanes(pictures.len(), start, |(gram, total), index| {
            // Each is used once.
            let shown = show(&layers, self.whole, pictures, index)?.into_iter();
            let seen: BTreeMap<String, Given> = shown.filter_map(|(layer, given)| Some((layer, given.into_iter().next()?))).collect();
            let sampling = Sampling { most: MOST_ROWS, offset: offset(index) };
            let rows = beside(&join(&seen, &|x| rows(&numbers(x)?, x.dims(), None, |total| sampling.rows(total)))?);
            let count = rows.len() / (inputs + outputs);
            let first = &seen[&wanted[0]].input;
            let all = first.elem_count() / first.dims().last().copied().unwrap_or(1).max(1);
            gram.add(&rows, relevance.rows(&wanted[0], index, all, Some(sampling)).as_deref());
            *total += count;
            Ok(())
        })?;
        let total = found.iter().map(|(_, count)| count).sum();
        Ok((found.into_iter().map(|(gram, _)| gram).collect(), total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prune::calibrate::Relevance;
    use crate::prune::difference::{difference, look};
    use crate::prune::importance::Importance;
    use crate::prune::plan::{Keep, Plan};
    use crate::prune::tiny;
    use crate::prune::trim::{Method, carry_out};
    use crate::weights::Weights;

    /// A network whose first encoder and decoder layer give nothing but norms, and whose second ones have no attention to speak of: what those
    /// do can be done in their places.
    fn network() -> (Architecture, Weights) {
        let (config, mut weights) = tiny::network();
        let idle = [
            "encoder.0.ffn2.",
            "decoder.0.ffn2.",
            "encoder.1.self_attention.output.",
            "decoder.1.self_attention.output.",
            "decoder.1.cross_attention.output.",
        ];
        for (name, tensor) in &mut weights.tensors {
            let value = if idle.iter().any(|part| name.starts_with(part)) {
                0.0
            } else if name.contains(".norm") && name.ends_with("weight") {
                1.0
            } else {
                continue;
            };
            *tensor = HostTensor::f32(&tensor.shape, vec![value; tensor.len()]);
        }
        (config, weights)
    }

    #[test]
    fn neurons_of_layers_that_go_do_their_work_in_the_layer_before() {
        let (config, weights) = network();
        let inputs = tiny::inputs(&config, 24);
        let seen = look(&config, &weights, &inputs).unwrap();
        let relevance = Relevance::of(&seen);
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: false };
        let off = |plan: &Plan| {
            let done = carry_out(&parent, plan, method, &Silent).unwrap();
            (difference(&seen, &look(&done.config, &done.weights, &inputs).unwrap()), done)
        };
        let of_the_last = |plan: &Plan, name: &str| match &plan.keep[name] {
            Keep::Units(units) => units.iter().filter(|&&unit| unit >= 6).count(),
            Keep::Count(_) => 0,
        };
        for (plan, name) in [
            (Plan { drop_encoder: vec![1], ..Plan::default() }, "encoder.0.ffn"),
            (Plan { drop_decoder: vec![1], ..Plan::default() }, "decoder.0.ffn"),
        ] {
            let (with, done) = off(&plan);
            // Counted on from the layer's own six; one that never fires is as good as any other.
            assert!(of_the_last(&done.plan, name) >= 5, "{:?}", done.plan);
            let own = Plan { keep: BTreeMap::from([(name.into(), Keep::Units((0..6).collect()))]), ..plan.clone() };
            let (without, _) = off(&own);
            assert!(with < 0.3 * without && without > 0.01, "{name}: {with} {without}");

            // The plan says which they are: in another order of things, the same come out.
            let (again, replayed) = off(&done.plan);
            assert_eq!((again, &replayed.weights, &replayed.plan), (with, &done.weights, &done.plan));
            // Fewer of them, or more than the layer had.
            for units in [vec![1, 7, 8], (0..9).collect()] {
                let plan = Plan { keep: BTreeMap::from([(name.into(), Keep::Units(units.clone()))]), ..plan.clone() };
                plan.check(&config).unwrap();
                let (_, done) = off(&plan);
                assert_eq!(plan.config(&config), done.config);
                assert_eq!(done.plan.keep[name], Keep::Units(units));
            }
            let (_, fewer) = off(&Plan { keep: BTreeMap::from([(name.into(), Keep::Count(4))]), ..plan.clone() });
            assert_eq!((fewer.plan.keep[name].count(), of_the_last(&fewer.plan, name)), (4, 4));

            let beyond = Plan { keep: BTreeMap::from([(name.into(), Keep::Units(vec![0, 12]))]), ..plan };
            assert!(beyond.check(&config).unwrap_err().to_string().contains("has 12 units"));
            // Without repair, layers have their own.
            for (plan, kept) in [(&done.plan, None), (&fewer.plan, Some(4))] {
                let bare = carry_out(&parent, plan, Method { repair: false, ..method }, &Silent).unwrap();
                assert_eq!(bare.config, plan.config(&config));
                assert_eq!(bare.plan.keep.get(name).map(Keep::count), kept);
                assert!(bare.plan.is_carried_out(&plan.unrepaired(&config)) && !bare.plan.is_carried_out(plan));
            }
        }
    }

    #[test]
    fn where_pictures_say_too_little_layers_keep_their_own() {
        let (config, weights) = network();
        let inputs = tiny::inputs(&config, 2);
        let relevance = Relevance::of(&look(&config, &weights, &inputs).unwrap());
        let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
        let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: false };
        let done = carry_out(&parent, &Plan { drop_decoder: vec![1], ..Plan::default() }, method, &Silent).unwrap();
        assert!(!done.plan.keep.contains_key("decoder.0.ffn"));
    }

    #[test]
    fn the_last_layers_come_first_where_not_all_can() {
        let of = |layer: usize, count: usize| (0..count).map(move |index| Output { map: format!("encoder.{layer}.ffn1"), index });
        let all: Vec<Output> = of(0, 4).chain(of(1, 3)).chain(of(2, 5)).collect();
        let found = |most: usize| candidates(&all, most);
        assert_eq!(found(12), all);
        assert_eq!(found(11), [&all[..4], &all[7..]].concat());
        assert_eq!(found(8), &all[..4]);
        assert_eq!(found(0), &all[..4]);
    }
}
