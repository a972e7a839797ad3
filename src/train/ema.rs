//! The running mean of the weights over the steps (Polyak and Juditsky, 1992), which detects better than the weights of any step.

use crate::cpu::lanes::dispatch;
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many numbers a thread takes at once.
const BLOCK: usize = 1 << 15;

/// How the mean is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ema {
    /// How much of the mean a step keeps, once there were enough steps: 1 / (1 - decay) of them.
    pub decay: f64,
}

/// The mean so far, by the parameters' names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Average {
    /// The steps that went into it.
    pub steps: u64,
    /// Each as long as its parameter.
    pub values: BTreeMap<String, Vec<f32>>,
}

impl Ema {
    /// What the step after `steps` others keeps of the mean: less in the beginning, as TensorFlow's
    /// `ExponentialMovingAverage` with its number of updates given.
    pub fn keeps(self, steps: u64) -> f64 {
        let steps = steps as f64;
        self.decay.min((1.0 + steps) / (10.0 + steps))
    }

    /// Takes the weights after a step into the mean. A parameter that it doesn't hold yet enters as it is.
    pub fn update<'a>(self, average: &mut Average, parameters: impl IntoIterator<Item = (&'a str, &'a [f32])>) -> Result<()> {
        let share = (1.0 - self.keeps(average.steps)) as f32;
        let mut given: BTreeMap<&str, &[f32]> = BTreeMap::new();
        for (name, values) in parameters {
            match average.values.get(name) {
                Some(mean) if mean.len() == values.len() => drop(given.insert(name, values)),
                Some(mean) => return Err(Error::Shape { name: name.into(), expected: vec![mean.len()], found: vec![values.len()] }),
                None => drop(average.values.insert(name.into(), values.to_vec())),
            }
        }
        let mut blocks = Vec::new();
        for (name, mean) in &mut average.values {
            let Some(values) = given.get(name.as_str()) else { continue };
            blocks.extend(mean.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).map(|(mean, values)| Block { mean, values, share }));
        }
        blocks.into_par_iter().for_each(dispatch);
        average.steps += 1;
        Ok(())
    }
}

impl Average {
    /// The weights, with the mean in place of those that it holds.
    pub fn over(&self, weights: &Weights) -> Weights {
        let mean = |(name, tensor): (&String, &HostTensor)| {
            let mean = self.values.get(name).filter(|mean| mean.len() == tensor.len());
            (name.clone(), mean.map_or_else(|| tensor.clone(), |mean| HostTensor::f32(&tensor.shape, mean.clone())))
        };
        Weights { tensors: weights.tensors.iter().map(mean).collect() }
    }
}

struct Block<'a> {
    mean: &'a mut [f32],
    values: &'a [f32],
    share: f32,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (mean, &x) in self.mean.iter_mut().zip(self.values) {
            *mean += self.share * (x - *mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_little_in_the_beginning() {
        let ema = Ema { decay: 0.99 };
        assert_eq!(ema.keeps(0), 0.1);
        assert_eq!(ema.keeps(90), 0.91);
        assert_eq!(ema.keeps(10_000), 0.99);
    }

    #[test]
    fn follows_the_weights() {
        let ema = Ema { decay: 0.5 };
        let mut average = Average::default();
        let long = vec![3.0; 2 * BLOCK + 1];
        ema.update(&mut average, [("x", &vec![1.0; long.len()][..])]).unwrap();
        // The second step keeps 2/11 of the mean.
        ema.update(&mut average, [("x", &long[..]), ("late", &[7.0])]).unwrap();
        let expected = (2.0 * 1.0 + 9.0 * 3.0) / 11.0;
        assert!(average.values["x"].iter().all(|x: &f32| (x - expected).abs() < 1e-6), "{:?}", average.values["x"][0]);
        assert_eq!((average.values["late"][0], average.steps), (7.0, 2));
        let error = ema.update(&mut average, [("late", &[0.0, 0.0][..])]).unwrap_err().to_string();
        assert!(error.contains("late"), "{error}");
    }

    #[test]
    fn weights_that_arent_averaged_stay() {
        let mut weights = Weights::default();
        weights.insert("trained", HostTensor::f32(&[1, 2], vec![1.0, 2.0]));
        weights.insert("frozen", HostTensor::f32(&[1], vec![5.0]));
        let average = Average { steps: 3, values: [("trained".to_string(), vec![8.0, 9.0])].into() };
        let found = average.over(&weights);
        assert_eq!(found.tensors["trained"], HostTensor::f32(&[1, 2], vec![8.0, 9.0]));
        assert_eq!(found.tensors["frozen"], weights.tensors["frozen"]);
    }
}
