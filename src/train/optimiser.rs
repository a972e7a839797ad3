//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019), on named slices.
//!
//! The same arithmetic as `torch.optim.AdamW`. It is bound by memory, so everything happens in one pass over it: the clipping of
//! the gradient is a factor here, and parameters are shared among rayon's threads in blocks.

use crate::cpu::lanes::dispatch;
use crate::error::{Error, Result};
use crate::weights::{Data, Weights};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many numbers of a parameter a thread takes at once.
const BLOCK: usize = 1 << 15;

/// What an AdamW optimiser is set to. What it remembers is in [`Moments`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamW {
    /// How much of the first moment (the mean gradient) a step keeps.
    pub beta1: f64,
    /// How much of the second moment (the mean squared gradient) a step keeps.
    pub beta2: f64,
    /// Keeps the division by the root of the second moment finite.
    pub epsilon: f64,
    /// The share of a weight that a step at learning rate 1 would take away, beside what the gradient does.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's defaults, but for the weight decay, which is DETR's.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-4 }
    }
}

/// What AdamW remembers of each parameter, by its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments(pub BTreeMap<String, Moment>);

/// What AdamW remembers of one parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// The steps that it is the memory of. Each parameter counts for itself: some may join later.
    pub steps: u32,
    /// Running mean of the gradient, as long as the parameter.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient, as long as the parameter.
    pub second: Vec<f32>,
}

/// How the optimiser treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Factor on the learning rate.
    pub rate: f64,
    /// Whether it decays: matrices do; norms, biases and box references don't.
    pub decay: bool,
}

/// A parameter in a step.
#[derive(Debug)]
pub struct Parameter<'a> {
    pub name: &'a str,
    /// Changed by the step.
    pub values: &'a mut [f32],
    /// As long as the values.
    pub gradient: &'a [f32],
    pub group: Group,
}

/// Pairs weights (f32) with their gradients by name. Weights without a gradient are left out: they stay as they are.
pub fn parameters<'a>(
    weights: &'a mut Weights,
    gradients: &'a BTreeMap<String, Vec<f32>>,
    group: impl Fn(&str) -> Group,
) -> Result<Vec<Parameter<'a>>> {
    if let Some(stray) = gradients.keys().find(|name| !weights.tensors.contains_key(*name)) {
        return Err(Error::Config(format!("there is a gradient of {stray}, which is none of the weights")));
    }
    let mut out = Vec::with_capacity(gradients.len());
    for (name, tensor) in &mut weights.tensors {
        let Some(gradient) = gradients.get(name) else { continue };
        let Data::F32(values) = &mut tensor.data else {
            return Err(Error::Config(format!("tensor {name} is stored as f16; only f32 can be trained")));
        };
        out.push(Parameter { name, values, gradient, group: group(name) });
    }
    Ok(out)
}

impl AdamW {
    /// Changes the parameters by one step at a learning rate; `clip` is a factor on all gradients (see [`super::clip`]).
    /// A parameter that `moments` doesn't know yet starts with none.
    pub fn step(&self, moments: &mut Moments, parameters: Vec<Parameter>, rate: f64, clip: f32) -> Result<()> {
        let mut given = BTreeMap::new();
        for parameter in parameters {
            let length = parameter.values.len();
            let fits = |found: usize| match found == length {
                true => Ok(()),
                false => Err(Error::Shape { name: parameter.name.into(), expected: vec![length], found: vec![found] }),
            };
            fits(parameter.gradient.len())?;
            match moments.0.get(parameter.name) {
                Some(moment) => fits(moment.first.len()).and(fits(moment.second.len()))?,
                None => {
                    let moment = Moment { steps: 0, first: vec![0.0; length], second: vec![0.0; length] };
                    moments.0.insert(parameter.name.into(), moment);
                }
            }
            if let Some(twice) = given.insert(parameter.name, parameter) {
                return Err(Error::Config(format!("parameter {} is given twice in one step", twice.name)));
            }
        }
        let mut blocks = Vec::new();
        for (name, moment) in &mut moments.0 {
            let Some(parameter) = given.remove(name.as_str()) else { continue };
            moment.steps = moment.steps.saturating_add(1);
            let factors = self.factors(moment.steps, rate, parameter.group, clip);
            let values = parameter.values.chunks_mut(BLOCK).zip(parameter.gradient.chunks(BLOCK));
            let memory = moment.first.chunks_mut(BLOCK).zip(moment.second.chunks_mut(BLOCK));
            blocks.extend(values.zip(memory).map(|((values, gradient), (first, second))| Block { values, gradient, first, second, factors }));
        }
        blocks.into_par_iter().for_each(dispatch);
        Ok(())
    }

    /// In f64 until the end, as PyTorch: 1 - 0.999 isn't much in f32.
    fn factors(&self, steps: u32, rate: f64, group: Group, clip: f32) -> Factors {
        let rate = rate * group.rate;
        let bias = |beta: f64| 1.0 - beta.powf(f64::from(steps));
        Factors {
            clip,
            first: (1.0 - self.beta1) as f32,
            second: self.beta2 as f32,
            square: (1.0 - self.beta2) as f32,
            root: bias(self.beta2).sqrt() as f32,
            epsilon: self.epsilon as f32,
            size: (rate / bias(self.beta1)) as f32,
            keep: if group.decay { (1.0 - rate * self.weight_decay) as f32 } else { 1.0 },
        }
    }
}

#[derive(Clone, Copy)]
struct Factors {
    clip: f32,
    first: f32,
    second: f32,
    square: f32,
    root: f32,
    epsilon: f32,
    size: f32,
    keep: f32,
}

struct Block<'a> {
    values: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    factors: Factors,
}

impl WithSimd for Block<'_> {
    type Output = ();

    /// A plain loop, which the compiler turns into the vectors that `dispatch` has found.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let f = self.factors;
        let memory = self.first.iter_mut().zip(self.second);
        for ((x, &gradient), (first, second)) in self.values.iter_mut().zip(self.gradient).zip(memory) {
            let gradient = gradient * f.clip;
            *first += f.first * (gradient - *first);
            *second = f.second * *second + f.square * gradient * gradient;
            *x = *x * f.keep - f.size * (*first / (second.sqrt() / f.root + f.epsilon));
        }
    }
}

#[cfg(test)]
// Numbers as torch prints them.
#[allow(clippy::excessive_precision)]
mod tests {
    use super::*;
    use crate::weights::HostTensor;

    const PLAIN: Group = Group { rate: 1.0, decay: true };

    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(0.1)), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn five_steps_are_pytorchs() {
        /* a = torch.nn.Parameter(tensor([0.5, -1.0, 2.0])); b = torch.nn.Parameter(tensor([0.1, -0.2]))
        groups = [{"params": [a], "lr": 1e-2, "weight_decay": 0.1}, {"params": [b], "lr": 1e-3, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8)
        for step in range(5):
            a.grad = tensor([0.3, -0.7, 1e-4]) * (step - 1.5)
            b.grad = tensor([20.0, 1e-9]) * (1 + step)
            optimiser.step()
        print(a, b, optimiser.state[a]) */
        let settings = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut moments = Moments::default();
        let (mut a, mut b) = ([0.5f32, -1.0, 2.0], [0.1f32, -0.2]);
        for step in 0..5 {
            // Half of the gradients come in through `clip`.
            let da = [0.3f32, -0.7, 1e-4].map(|x| 2.0 * x * (step as f32 - 1.5));
            let db = [20.0f32, 1e-9].map(|x| 2.0 * x * (1 + step) as f32);
            let parameters = vec![
                Parameter { name: "b", values: &mut b, gradient: &db, group: Group { rate: 0.1, decay: false } },
                Parameter { name: "a", values: &mut a, gradient: &da, group: PLAIN },
            ];
            settings.step(&mut moments, parameters, 1e-2, 0.5).unwrap();
        }
        near(&a, &[0.514779508, -1.01228452, 2.00729322]);
        near(&b, &[0.0951612815, -0.200839922]);
        near(&moments.0["a"].first, &[0.0871905088, -0.203444496, 2.90634998e-05]);
        near(&moments.0["a"].second, &[0.0100137973, 0.0545195565, 1.11264398e-09]);
        assert_eq!(moments.0["a"].steps, 5);
    }

    #[test]
    fn every_number_of_a_long_parameter_moves() {
        let length = 2 * BLOCK + 13;
        let (mut values, gradient) = (vec![0.0; length], vec![1.0; length]);
        let group = Group { rate: 1.0, decay: false };
        let parameter = Parameter { name: "x", values: &mut values, gradient: &gradient, group };
        AdamW::default().step(&mut Moments::default(), vec![parameter], 0.5, 1.0).unwrap();
        near(&values, &vec![-0.5; length]);
    }

    #[test]
    fn a_parameter_that_joins_later_has_its_own_bias_correction() {
        let (mut early, mut late) = ([0.0f32], [0.0f32]);
        let mut moments = Moments::default();
        let group = Group { rate: 1.0, decay: false };
        for step in 0..20 {
            let mut parameters = vec![Parameter { name: "early", values: &mut early, gradient: &[1.0], group }];
            if step == 19 {
                parameters.push(Parameter { name: "late", values: &mut late, gradient: &[1.0], group });
            }
            AdamW::default().step(&mut moments, parameters, 0.1, 1.0).unwrap();
        }
        near(&late, &[-0.1]);
        near(&early, &[-2.0]);
    }

    #[test]
    fn lengths_that_differ_are_refused_by_name() {
        let mut values = [0.0f32; 2];
        let mut moments = Moments::default();
        let mut step = |gradient: &[f32]| {
            let parameter = Parameter { name: "box_head.0.bias", values: &mut values, gradient, group: PLAIN };
            AdamW::default().step(&mut moments, vec![parameter], 0.1, 1.0).map_err(|error| error.to_string())
        };
        assert!(step(&[1.0; 3]).unwrap_err().contains("box_head.0.bias"));
        step(&[1.0; 2]).unwrap();
        let mut values = [0.0f32; 3];
        let parameter = Parameter { name: "box_head.0.bias", values: &mut values, gradient: &[1.0; 3], group: PLAIN };
        let error = AdamW::default().step(&mut moments, vec![parameter], 0.1, 1.0).unwrap_err().to_string();
        assert!(error.contains("box_head.0.bias") && error.contains("[2]"), "{error}");
    }

    #[test]
    fn weights_without_a_gradient_are_left_out() {
        let mut weights = Weights::default();
        weights.insert("a", HostTensor::f32(&[1], vec![1.0]));
        weights.insert("b", HostTensor::f32(&[1], vec![2.0]));
        let mut gradients = BTreeMap::from([("b".to_string(), vec![0.5f32])]);
        let found = parameters(&mut weights, &gradients, |_| PLAIN).unwrap();
        assert_eq!(found.iter().map(|p| (p.name, p.values[0], p.gradient[0])).collect::<Vec<_>>(), [("b", 2.0, 0.5)]);
        gradients.insert("c".into(), vec![]);
        assert!(parameters(&mut weights, &gradients, |_| PLAIN).unwrap_err().to_string().contains("gradient of c"));
    }
}
