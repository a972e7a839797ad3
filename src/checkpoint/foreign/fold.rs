//! Makes our network's weights of a foreign file's: batch norm folded into the convolution before it, convolutions channels-last.

use super::rename::Renamed;
use super::root::Named;
use crate::config::{Backbone, Config};
use crate::layout::{Entry, Role};
use crate::weights::{HostTensor, Weights};

/// torch's default, which the ResNets use.
const RESNET_EPSILON: f64 = 1e-5;
/// TensorFlow's, which timm's `tf_efficientnet_lite0` uses.
const EFFICIENTNET_EPSILON: f64 = 1e-3;

/// These weights of a network.
pub fn convert(renamed: &Renamed, config: &Config, entries: Vec<Entry>) -> Result<Weights, String> {
    let epsilon = match config.backbone {
        Backbone::Resnet(_) => RESNET_EPSILON,
        Backbone::EfficientNetLite(_) => EFFICIENTNET_EPSILON,
    };
    let file = Source { renamed };
    let mut weights = Weights::default();
    for entry in entries {
        let data = match entry.name.strip_prefix("backbone.").and_then(|name| name.rsplit_once('.')) {
            Some((_, "weight")) => file.convolution(&entry, epsilon)?,
            Some(_) => file.convolution_bias(&entry, epsilon)?,
            // The projection is a 1×1 convolution in all foreign files.
            None if entry.name == "input_projection.weight" && file.renamed.shape(&entry.name).is_some_and(|shape| shape.len() == 4) => {
                file.numbers(&entry.name, &[&entry.shape[..], &[1, 1]].concat())?
            }
            None => file.numbers(&entry.name, &entry.shape)?,
        };
        weights.insert(entry.name, HostTensor::f32(&entry.shape, data));
    }
    Ok(weights)
}

/// The affine map of a frozen batch norm: `scale * x + shift`, per channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

struct Source<'a, 'b> {
    renamed: &'a Renamed<'b>,
}

impl Source<'_, '_> {
    /// A tensor's numbers; `shape` is the foreign one.
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let Some(Named { foreign, tensor }) = self.renamed.tensors.get(name) else {
            return Err(format!("tensor {} is missing (expected shape {shape:?})", self.renamed.foreign_name(name)));
        };
        if tensor.shape != shape {
            return Err(format!("tensor {foreign} has shape {:?}, expected {shape:?}", tensor.shape));
        }
        tensor.to_f32().ok_or_else(|| format!("tensor {foreign} is not of a floating-point type"))
    }

    /// `[out, height, width, in]` (depthwise: `[height, width, channels]`) of torch's `[out, in, height, width]`.
    fn convolution(&self, entry: &Entry, epsilon: f64) -> Result<Vec<f32>, String> {
        let module = entry.name.trim_end_matches(".weight");
        let (out, height, width, input) = match (&entry.shape[..], entry.role) {
            (&[height, width, channels], Role::Depthwise) => (channels, height, width, 1),
            (&[out, height, width, input], _) => (out, height, width, input),
            (shape, _) => return Err(format!("{} can't be a convolution of shape {shape:?}", entry.name)),
        };
        let weight = self.numbers(&entry.name, &[out, input, height, width])?;
        let scale = self.norm(module, out, epsilon)?.map(|norm| norm.scale);
        let places = height * width;
        let mut folded = vec![0.0; weight.len()];
        for o in 0..out {
            let scale = scale.as_ref().map_or(1.0, |scale| scale[o]);
            for i in 0..input {
                for place in 0..places {
                    let to = if entry.role == Role::Depthwise { place * out + o } else { (o * places + place) * input + i };
                    folded[to] = (f64::from(weight[(o * input + i) * places + place]) * scale) as f32;
                }
            }
        }
        Ok(folded)
    }

    fn convolution_bias(&self, entry: &Entry, epsilon: f64) -> Result<Vec<f32>, String> {
        let module = entry.name.trim_end_matches(".bias");
        let out = entry.shape[0];
        let own = self.renamed.tensors.contains_key(&entry.name).then(|| self.numbers(&entry.name, &[out])).transpose()?;
        match (self.norm(module, out, epsilon)?, own) {
            (None, Some(bias)) => Ok(bias),
            (Some(norm), bias) => {
                let bias = |o: usize| bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                Ok((0..out).map(|o| (norm.scale[o] * bias(o) + norm.shift[o]) as f32).collect())
            }
            // Neither batch norm nor bias: it is the norm that all files have.
            (None, None) => self.numbers(&format!("{module}.norm.weight"), &[out]),
        }
    }

    /// The batch norm after a convolution, if the file has one.
    fn norm(&self, module: &str, width: usize, epsilon: f64) -> Result<Option<Affine>, String> {
        let parts = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{module}.norm.{part}"));
        if !parts.iter().any(|part| self.renamed.tensors.contains_key(part)) {
            return Ok(None);
        }
        let [weight, bias, mean, variance] = &parts;
        let numbers = |name: &str| self.numbers(name, &[width]);
        let (weight, bias, mean, variance) = (numbers(weight)?, numbers(bias)?, numbers(mean)?, numbers(variance)?);
        let scale: Vec<f64> = weight.iter().zip(&variance).map(|(&w, &v)| f64::from(w) / (f64::from(v) + epsilon).sqrt()).collect();
        if !scale.iter().all(|s| s.is_finite()) {
            return Err(format!("tensor {} holds a variance that can't be one", self.renamed.tensors[&parts[3]].foreign));
        }
        let shift = (0..width).map(|o| f64::from(bias[o]) - f64::from(mean[o]) * scale[o]).collect();
        Ok(Some(Affine { scale, shift }))
    }
}
