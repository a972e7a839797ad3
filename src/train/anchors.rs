//! A trimmed detector gets back what its parent had while it was trained: positions that are made of the queries' boxes, denoising, and
//! heads on the encoder's tokens (`network.rs`). None of it is a part of the detector that was trimmed, and all of it still fits what is left,
//! but for what makes the positions, where these have been fine-tuned since.

use super::network::{extras, finished, is_anchored};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::prune::obs::{damp, factor};
use crate::weights::{HostTensor, Weights};
use faer::Mat;
use faer::linalg::solvers::Solve;

/// How far, in parts of their root mean square, positions may be from those that the boxes make: what f16 and int8 files lose.
const ROUNDING: f64 = 0.02;
/// Up to here they are of this run, and have been fine-tuned since, each on its own.
const RELATED: f64 = 0.7;
/// Of fitting them, in parts of the mean square: the largest that fits is taken.
const DAMPINGS: [f64; 6] = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8];

/// A detector's weights with training's own from the state of the run that it, or what it was trimmed from, came of.
pub fn anchored(config: &Config, weights: &Weights, state: &Weights) -> Result<Weights> {
    if !is_anchored(state) {
        return Err(Error::Config("the run has no anchored queries, which there would be something to take over of".into()));
    }
    if !config.query_content || !config.box_reference {
        return Err(Error::Config("anchored queries need query contents and box references, which the model lacks".into()));
    }
    let mut all = weights.clone();
    for entry in extras(config) {
        all.insert(&entry.name, state.get(&entry.name, &entry.shape)?.clone());
    }
    let wanted = matrix(config, weights)?;
    let off = |all: &Weights| Ok::<_, Error>((matrix(config, &finished(config, all)?)? - &wanted).norm_l2() / wanted.norm_l2());
    let before = off(&all)?;
    // What is no number is refused, too.
    if before.is_nan() || before > RELATED {
        let off = 100.0 * before;
        let problem = format!(
            "the run makes positions of the queries' boxes that are {off:.0}% off the model's: the model isn't of this run, nor is what it was trimmed from"
        );
        return Err(Error::Config(problem));
    }
    let fitted = |damping: &f64| {
        let fitted = fitted(config, &all, &wanted, *damping).ok()?;
        off(&fitted).is_ok_and(|off| off <= ROUNDING).then_some(fitted)
    };
    match before <= ROUNDING {
        true => Ok(all),
        false => DAMPINGS.iter().find_map(fitted).ok_or_else(|| Error::Config("the model's positions can't be made of its queries' boxes".into())),
    }
}

/// With that change of the last map from boxes to positions which is smallest of those that give the queries the positions that are wanted.
fn fitted(config: &Config, all: &Weights, wanted: &Mat<f64>, damping: f64) -> Result<Weights> {
    let (weight, bias) = ("training.position.1.weight", "training.position.1.bias");
    let width = config.d_model;
    let mut through = all.clone();
    through.insert(weight, HostTensor::f32(&[width, width], (0..width * width).map(|i| f32::from(u8::from(i % (width + 1) == 0))).collect()));
    through.insert(bias, HostTensor::f32(&[width], vec![0.0; width]));
    // What the last map is given for each query.
    let given = matrix(config, &finished(config, &through)?)?;
    let missing = wanted - matrix(config, &finished(config, all)?)?;
    let mut products = &given * given.transpose();
    damp(&mut products, damping);
    let change = given.transpose() * factor(&products)?.solve(&missing);
    let old = all.get(weight, &[width, width])?.to_f32().into_owned();
    let mut fitted = all.clone();
    let numbers = old.iter().enumerate().map(|(i, old)| old + change[(i % width, i / width)] as f32);
    fitted.insert(weight, HostTensor::f32(&[width, width], numbers.collect()));
    Ok(fitted)
}

/// The queries' positions `[queries, d_model]`.
fn matrix(config: &Config, weights: &Weights) -> Result<Mat<f64>> {
    let numbers = weights.get("query_position", &[config.queries, config.d_model])?.to_f32();
    Ok(Mat::from_fn(config.queries, config.d_model, |i, j| f64::from(numbers[i * config.d_model + j])))
}
