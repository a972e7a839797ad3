//! Checkpoints of RT-DETR, RT-DETRv2, D-FINE and DEIMv2: their config, as transformers states it (`stated`) or as the shapes of an original
//! repository's tensors tell it (`shapes`, `anchors`), their tensors' names (`names`, `original`), and what is folded here: batch norms into
//! convolutions, RepVGG's two branches into one convolution, the mean of the quality head's inputs into its first map.

mod anchors;
mod names;
pub mod original;
mod shapes;
mod stated;

use super::evidence::Evidence;
use super::origin;
use super::root::{Named, Rooted};
use crate::checkpoint::{Card, Checkpoint, Guess};
use crate::config::{Architecture, BoxHead, ModelType, RtDetr};
use crate::layout::{Entry, Role, layout_of};
use crate::weights::{HostTensor, Weights};
use names::{Foreign, canonical, foreign};
use std::collections::{BTreeMap, BTreeSet};

pub use names::known;

/// Makes a checkpoint of ours of tensors under transformers' names.
pub fn convert(model_type: ModelType, rooted: &Rooted, evidence: &Evidence, guess: &Guess) -> Result<Checkpoint<Architecture>, String> {
    let mut assumed = Vec::new();
    let config = stated::config(model_type, evidence, classes(rooted)?, guess, &mut assumed)?;
    let tensors = rooted.tensors.iter().map(|(name, named)| (canonical(name), named.clone())).collect();
    build(config, tensors, None, assumed)
}

/// The same of tensors under the names of the repository that trained them.
pub fn convert_original(rooted: &Rooted, evidence: &Evidence, guess: &Guess) -> Result<Checkpoint<Architecture>, String> {
    let mut assumed = Vec::new();
    let (model_type, tensors) = original::canonical(rooted)?;
    let config = shapes::config(model_type, &tensors, evidence, guess, &mut assumed)?;
    build(config, tensors, Some(&rooted.root), assumed)
}

/// `original` is what comes before the names of the repository that trained them, if they are its.
fn build(
    config: RtDetr,
    tensors: BTreeMap<String, Named>,
    original: Option<&str>,
    mut assumed: Vec<String>,
) -> Result<Checkpoint<Architecture>, String> {
    config.check().map_err(|error| error.to_string())?;
    let file = Source { tensors, original, config: &config, used: Default::default() };
    let architecture = Architecture::RtDetr(Box::new(config.clone()));
    let mut weights = Weights::default();
    for entry in layout_of(&architecture) {
        let numbers = file.numbers_of(&entry)?;
        weights.insert(entry.name, HostTensor::f32(&entry.shape, numbers));
    }
    assumed.extend(file.unexpected());
    Ok(Checkpoint { config: architecture, weights, card: Card::default(), guesses: assumed })
}

/// How many class logits the heads have.
fn classes(rooted: &Rooted) -> Result<usize, String> {
    let head = |name: &str| ["decoder.class_embed.0.bias", "class_embed.0.bias"].contains(&&*canonical(name));
    let found = rooted.tensors.iter().find(|(name, _)| head(name)).map(|(_, named)| &named.tensor.shape[..]);
    match found {
        Some(&[classes]) => Ok(classes),
        Some(shape) => Err(format!("the class head's bias has shape {shape:?}, expected one side")),
        None => {
            let names = rooted.tensors.values().map(|named| named.foreign.as_str());
            Err(format!("it holds no class heads under transformers' names (decoder.class_embed): {}", origin::describe(names)))
        }
    }
}

/// The weights of a convolution or a linear map: `[out, in, height, width]`, as torch has them.
struct Map {
    weight: Vec<f64>,
    /// Inputs, height and width.
    shape: [usize; 3],
}

/// The tensors of a file by transformers' present names.
struct Source<'a> {
    tensors: BTreeMap<String, Named<'a>>,
    original: Option<&'a str>,
    config: &'a RtDetr,
    used: std::cell::RefCell<BTreeSet<String>>,
}

impl Source<'_> {
    /// A tensor of ours.
    fn numbers_of(&self, entry: &Entry) -> Result<Vec<f32>, String> {
        let Entry { name, shape, role } = entry;
        let (layer, part) = name.rsplit_once('.').unwrap_or((name, ""));
        if *role == Role::Rows {
            return self.first(&foreign(self.config, name).plain(), "weight", shape);
        }
        let found = foreign(self.config, layer);
        let outputs = match role {
            Role::Depthwise => shape[2],
            _ => shape[0],
        };
        match (role, part) {
            (Role::Affine, _) => {
                let scale = self.first(&found.affine(), "scale", &[1])?;
                let shift = self.first(&found.affine(), "bias", &[1])?;
                Ok([scale, shift].concat())
            }
            (Role::NormScale, _) => self.first(&found.plain(), "weight", shape),
            (Role::NormShift, _) => self.first(&found.plain(), "bias", shape),
            (_, "weight") => {
                let (inputs, [height, width]) = match (role, &shape[..]) {
                    (Role::Depthwise, &[height, width, _]) => (1, [height, width]),
                    (_, &[_, height, width, inputs]) => (inputs, [height, width]),
                    (_, &[_, inputs]) => (self.inputs(layer, inputs), [1, 1]),
                    _ => return Err(format!("{name} can't be a weight of shape {shape:?}")),
                };
                let map = self.map(&found, outputs, [inputs, height, width], shape.len() == 2)?;
                Ok(self.arranged(layer, &map, outputs, *role == Role::Depthwise))
            }
            _ => {
                let shift = self.shift(&found, outputs)?;
                Ok(shift.into_iter().map(|x| x as f32).collect())
            }
        }
    }

    /// What the first map of a quality head is given in the file: the mean of the top probabilities beside them.
    fn inputs(&self, layer: &str, inputs: usize) -> usize {
        match self.config.decoder.boxes {
            BoxHead::Distributions { top, .. } if is_first_of_quality(layer) => inputs / top * (top + 1),
            _ => inputs,
        }
    }

    /// Channels last, and the mean of the quality head's inputs folded away.
    fn arranged(&self, layer: &str, map: &Map, outputs: usize, depthwise: bool) -> Vec<f32> {
        let [inputs, height, width] = map.shape;
        if let (BoxHead::Distributions { top, .. }, true) = (&self.config.decoder.boxes, is_first_of_quality(layer)) {
            let groups = map.weight.chunks_exact(top + 1);
            return groups.flat_map(|group| group[..*top].iter().map(|&x| (x + group[*top] / *top as f64) as f32)).collect();
        }
        let places = height * width;
        let mut arranged = vec![0.0; map.weight.len()];
        for o in 0..outputs {
            for i in 0..inputs {
                for place in 0..places {
                    let to = if depthwise { place * outputs + o } else { (o * places + place) * inputs + i };
                    arranged[to] = map.weight[(o * inputs + i) * places + place] as f32;
                }
            }
        }
        arranged
    }

    /// A convolution or linear map with its batch norm and RepVGG's other branch folded in.
    fn map(&self, found: &Foreign, outputs: usize, [inputs, height, width]: [usize; 3], linear: bool) -> Result<Map, String> {
        match found {
            Foreign::Plain(names) => {
                let shape = if linear { vec![outputs, inputs] } else { vec![outputs, inputs, height, width] };
                let weight = self.first(names, "weight", &shape)?;
                Ok(Map { weight: weight.into_iter().map(f64::from).collect(), shape: [inputs, height, width] })
            }
            Foreign::ConvNorm { conv, norm, .. } => {
                let weight = self.first(conv, "weight", &[outputs, inputs, height, width])?;
                let (scale, _) = self.norm(norm, outputs)?;
                let each = weight.len() / outputs;
                let weight = weight.iter().enumerate().map(|(i, &x)| f64::from(x) * scale[i / each]).collect();
                Ok(Map { weight, shape: [inputs, height, width] })
            }
            Foreign::RepVgg { wide, narrow } => {
                let mut wide = self.map(&wide.conv_norm(), outputs, [inputs, height, width], false)?;
                let narrow = self.map(&narrow.conv_norm(), outputs, [inputs, 1, 1], false)?;
                // The 1×1 branch is the middle of the 3×3 one.
                let places = height * width;
                for (i, x) in narrow.weight.iter().enumerate() {
                    wide.weight[i * places + places / 2] += x;
                }
                Ok(wide)
            }
        }
    }

    /// A shift for each output.
    fn shift(&self, found: &Foreign, outputs: usize) -> Result<Vec<f64>, String> {
        match found {
            Foreign::Plain(names) => Ok(self.first(names, "bias", &[outputs])?.into_iter().map(f64::from).collect()),
            Foreign::ConvNorm { norm, .. } => Ok(self.norm(norm, outputs)?.1),
            Foreign::RepVgg { wide, narrow } => {
                let (wide, narrow) = (self.norm(&wide.norm, outputs)?.1, self.norm(&narrow.norm, outputs)?.1);
                Ok(wide.iter().zip(&narrow).map(|(a, b)| a + b).collect())
            }
        }
    }

    /// A batch norm as scale and shift.
    fn norm(&self, names: &[String], width: usize) -> Result<(Vec<f64>, Vec<f64>), String> {
        let numbers = |part: &str| self.first(names, part, &[width]);
        let (weight, bias, mean, variance) = (numbers("weight")?, numbers("bias")?, numbers("running_mean")?, numbers("running_var")?);
        let scale: Vec<f64> = weight.iter().zip(&variance).map(|(&w, &v)| f64::from(w) / (f64::from(v) + stated::EPSILON).sqrt()).collect();
        if !scale.iter().all(|scale| scale.is_finite()) {
            return Err(format!("tensor {}.running_var holds a variance that can't be one", names[0]));
        }
        let shift = (0..width).map(|o| f64::from(bias[o]) - f64::from(mean[o]) * scale[o]).collect();
        Ok((scale, shift))
    }

    /// The numbers of the first of these modules' tensors that the file has.
    fn first(&self, modules: &[String], part: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let name = |module: &String| format!("{module}.{part}");
        let Some((name, Named { foreign, tensor })) = modules.iter().find_map(|module| self.tensors.get_key_value(&name(module))) else {
            let wanted = self.spelled(modules.first().map(name).unwrap_or_default());
            return Err(format!("tensor {wanted} is missing (expected shape {shape:?})"));
        };
        self.used.borrow_mut().insert(name.clone());
        if tensor.shape != shape && !(shape == [1] && tensor.shape.is_empty()) {
            return Err(format!("tensor {foreign} has shape {:?}, expected {shape:?}", tensor.shape));
        }
        tensor.to_f32().ok_or_else(|| format!("tensor {foreign} is not of a floating-point type"))
    }

    /// What the file would call a tensor that it lacks.
    fn spelled(&self, canonical: String) -> String {
        let original = self.original.and_then(|root| Some(format!("{root}{}", original::spelled(self.config.model_type, &canonical)?)));
        original.unwrap_or(canonical)
    }

    /// A sentence about tensors that no detector of this architecture has.
    fn unexpected(&self) -> Option<String> {
        let used = self.used.borrow();
        let expected = |name: &&String| used.contains(*name) || names::is_for_training(name);
        let names: Vec<&str> = self.tensors.iter().filter(|(name, _)| !expected(name)).map(|(_, named)| named.foreign.as_str()).collect();
        let first = names.first()?;
        Some(match names.len() {
            1 => format!("tensor {first} is not part of the detector"),
            count => format!("{count} tensors are not part of the detector: {first}, …"),
        })
    }
}

fn is_first_of_quality(layer: &str) -> bool {
    layer.starts_with("quality_head.") && layer.ends_with(".0")
}
