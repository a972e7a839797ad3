//! A run's state as a file: one `.safetensors`, so that any tool can look into it.
//!
//! | name | what |
//! |---|---|
//! | `weights.…` | the weights, backbone and training's own included |
//! | `moment1.…`, `moment2.…` | AdamW's memory |
//! | `average.…` | the running mean of the weights |
//!
//! The header's `detrim-training` entry holds the numbers and the architecture. The *compact* form holds the mean only, in
//! f16 and as weights: a tenth of the size. A run that goes on from it fills the optimiser's memory anew.

use super::ema::Average;
use super::optimiser::Moment;
use super::run::State;
use super::trained::Trained;
use super::{network, rt_detr};
use crate::checkpoint::class_names::clean_labels;
use crate::checkpoint::safetensors::{self, Stored};
use crate::config::{Architecture, Config, NetworkConfig};
use crate::error::{Error, Result};
use crate::output;
use crate::weights::{HostTensor, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const KEY: &str = "detrim-training";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    config: Architecture,
    step: u64,
    since: u64,
    skipped: u64,
    averaged: u64,
    /// Steps of each parameter's moments.
    moments: BTreeMap<String, u32>,
    #[serde(default)]
    compact: bool,
    #[serde(default)]
    provenance: Vec<String>,
}

/// Writes the whole state: under another name first.
pub fn write(path: &Path, config: &impl NetworkConfig, state: &State) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, tensor) in &state.weights.tensors {
        tensors.push((format!("weights.{name}"), Stored::new(&tensor.shape, tensor.to_f32(), false)));
        let shape = &tensor.shape[..];
        if let Some(moment) = state.moments.0.get(name) {
            tensors.push((format!("moment1.{name}"), Stored::new(shape, (&moment.first[..]).into(), false)));
            tensors.push((format!("moment2.{name}"), Stored::new(shape, (&moment.second[..]).into(), false)));
        }
        if let Some(mean) = state.average.values.get(name) {
            tensors.push((format!("average.{name}"), Stored::new(shape, mean.into(), false)));
        }
    }
    let moments = state.moments.0.iter().map(|(name, moment)| (name.clone(), moment.steps)).collect();
    save(path, Header { moments, ..header(config, state) }, tensors)
}

/// Writes the compact form.
pub fn write_compact(path: &Path, config: &impl NetworkConfig, state: &State) -> Result<()> {
    let mean = state.average.over(&state.weights);
    let tensors = mean.tensors.iter().map(|(name, tensor)| (format!("weights.{name}"), Stored::new(&tensor.shape, tensor.to_f32(), true)));
    save(path, Header { compact: true, ..header(config, state) }, tensors.collect())
}

fn header(config: &impl NetworkConfig, state: &State) -> Header {
    let State { step, since, skipped, .. } = *state;
    let (averaged, provenance) = (state.average.steps, state.provenance.clone());
    let config = config.architecture();
    Header { version: VERSION, config, step, since, skipped, averaged, moments: BTreeMap::new(), compact: false, provenance }
}

fn save(path: &Path, header: Header, tensors: Vec<(String, Stored)>) -> Result<()> {
    let fail = |problem: String| Error::Run { file: path.display().to_string(), problem };
    let header = serde_json::to_string(&header).map_err(|error| fail(error.to_string()))?;
    let bytes = ::safetensors::serialize(tensors, Some([(KEY.to_string(), header)].into())).map_err(|error| fail(error.to_string()))?;
    output::write(path, &bytes)
}

/// Whether a file is one of these rather than a model.
pub(crate) fn is_state(file: &safetensors::File) -> bool {
    file.metadata.contains_key(KEY)
}

/// Reads the state of a DETR: see [`read_any`].
pub fn read(path: &Path) -> Result<(Config, State)> {
    let (config, state) = read_any(path)?;
    Ok((config.detr(&format!("{}: this option", path.display()))?.clone(), state))
}

/// Reads a state, whole or compact, with the architecture that it is of.
pub fn read_any(path: &Path) -> Result<(Architecture, State)> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| Error::Io { file: name.clone(), source })?;
    let fail = |problem: String| Error::Run { file: name.clone(), problem };
    if !safetensors::is_safetensors(&bytes) {
        return Err(fail("not the state of a training run (a .safetensors file was expected)".into()));
    }
    parse(&safetensors::read(&bytes).map_err(fail)?, &name)
}

/// Takes what such a file holds; `name` is for messages.
pub(crate) fn parse(file: &safetensors::File, name: &str) -> Result<(Architecture, State)> {
    let fail = |problem: String| Error::Run { file: name.into(), problem };
    let text = file.metadata.get(KEY).ok_or_else(|| fail(format!("not the state of a training run: its header has no `{KEY}` entry")))?;
    let mut header: Header = serde_json::from_str(text).map_err(|error| fail(format!("the header's `{KEY}` entry can't be understood: {error}")))?;
    if header.version != VERSION {
        return Err(fail(format!("its format is version {}; this version of detrim reads version {VERSION}", header.version)));
    }
    // As of every checkpoint: what follows relies on it.
    header.config.check().map_err(|error| fail(error.to_string()))?;
    clean_labels(header.config.labels_mut());
    let Header { step, since, skipped, provenance, .. } = header;
    let mut state = State { step, since, skipped, provenance, ..State::default() };
    let mut groups: BTreeMap<&str, BTreeMap<String, HostTensor>> = BTreeMap::new();
    for (full, tensor) in &file.tensors {
        let (group, name) = full.split_once('.').unwrap_or((full, ""));
        let numbers = tensor.to_f32().ok_or_else(|| fail(format!("tensor {full} is neither f32 nor f16")))?;
        if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
            return Err(fail(format!("tensor {full} holds {} at {at}", numbers[at])));
        }
        groups.entry(group).or_default().insert(name.into(), HostTensor::f32(&tensor.shape, numbers));
    }
    state.weights = Weights { tensors: groups.remove("weights").unwrap_or_default() };
    let checked = match &header.config {
        Architecture::Detr(config) => network::check(config, &state.weights),
        Architecture::RtDetr(config) => rt_detr::check(config, &state.weights),
    };
    checked.map_err(|error| fail(error.to_string()))?;
    let mut take = |group: &str| -> Result<BTreeMap<String, Vec<f32>>> {
        let tensors = groups.remove(group).unwrap_or_default().into_iter();
        let fits = |(name, tensor): (String, HostTensor)| {
            let expected = state.weights.tensors.get(&name).map(|weight| &weight.shape);
            if expected != Some(&tensor.shape) {
                let expected = expected.map_or_else(|| "no such tensor".into(), |shape| format!("{shape:?}"));
                return Err(fail(format!("tensor {group}.{name} has shape {:?}, expected {expected}", tensor.shape)));
            }
            Ok((name, tensor.to_f32().into_owned()))
        };
        tensors.map(fits).collect()
    };
    let (first, mut second, average) = (take("moment1")?, take("moment2")?, take("average")?);
    for (name, first) in first {
        let (Some(second), Some(&steps)) = (second.remove(&name), header.moments.get(&name)) else {
            return Err(fail(format!("tensor moment1.{name} has no moment2, or the header doesn't count its steps")));
        };
        state.moments.0.insert(name, Moment { steps, first, second });
    }
    state.average = Average { steps: header.averaged, values: average };
    if let Some(stray) = groups.keys().next() {
        return Err(fail(format!("it holds tensors {stray}.…, which belong to no run")));
    }
    if header.compact {
        // The optimiser begins anew, and with it the warm-up. The mean goes on from these weights. (Whether the backbone is trained isn't
        // known yet: its mean begins with the next step.)
        state.since = state.step;
        let trained = state.weights.tensors.iter().filter(|(name, _)| !Trained::is_backbone(name));
        state.average.values = trained.map(|(name, tensor)| (name.clone(), tensor.to_f32().into_owned())).collect();
    }
    Ok((header.config, state))
}

#[cfg(test)]
mod tests {
    use super::super::fresh::fresh;
    use super::*;
    use crate::config::{Attention, Backbone, DecoderLayer, EfficientNetLite, EncoderLayer, InvertedResidual, Label};

    fn example() -> (Config, State) {
        let attention = Attention { heads: 2, head_width: 4 };
        let block = InvertedResidual { expansion: None, kernel: 3, stride: 2, channels: 4, residual: false };
        let config = Config {
            d_model: 8,
            encoder: vec![EncoderLayer { self_attention: attention, ffn: 8 }],
            decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 8 }],
            queries: 3,
            classes: 2,
            class_activation: crate::config::ClassActivation::Sigmoid,
            query_content: true,
            box_reference: true,
            labels: (0..2).map(|id| Label { id, name: format!("label {id}") }).collect(),
            ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }))
        };
        let parent = crate::checkpoint::random(config.clone(), "parent", 1).weights;
        let mut state = State::new(fresh(config.clone(), &parent, 2).unwrap().weights);
        (state.step, state.since, state.skipped, state.average.steps) = (7, 2, 1, 5);
        state.provenance = vec!["trimmed from parent".into()];
        for (name, tensor) in &state.weights.tensors {
            if !Trained::is_backbone(name) {
                let some = |factor: f32| tensor.to_f32().iter().map(|x| x * factor).collect::<Vec<_>>();
                state.moments.0.insert(name.clone(), Moment { steps: 5, first: some(0.1), second: some(0.01) });
                state.average.values.insert(name.clone(), some(0.9));
            }
        }
        (config, state)
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let (config, state) = example();
        write(&path, &config, &state).unwrap();
        assert_eq!(read(&path).unwrap(), (config, state));
    }

    #[test]
    fn the_compact_form_is_the_mean_and_begins_the_memory_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compact.safetensors");
        let (config, state) = example();
        write_compact(&path, &config, &state).unwrap();
        let (found, back) = read(&path).unwrap();
        assert_eq!((found, back.step, back.since), (config, 7, 7));
        assert!(back.moments.0.is_empty());
        assert_eq!(back.provenance, state.provenance);
        let mean = state.average.over(&state.weights);
        for (name, tensor) in &back.weights.tensors {
            for (a, b) in tensor.to_f32().iter().zip(mean.tensors[name].to_f32().iter()) {
                assert!((a - b).abs() <= b.abs() / 1000.0 + 1e-6, "{name}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_config_that_no_network_can_have_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let (mut config, state) = example();
        config.pixels.resize = crate::config::Resize::Stretch { height: 1 << 40, width: 1 };
        write(&path, &config, &state).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("last.safetensors") && error.contains("input size"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_with_its_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let (config, mut state) = example();
        write(&path, &config, &state).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 9, 200, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("last.safetensors"), "{error}");
        }
        state.weights.insert("decoder.norm.bias", HostTensor::f32(&[3], vec![0.0; 3]));
        state.moments.0.remove("decoder.norm.bias");
        state.average.values.remove("decoder.norm.bias");
        write(&path, &config, &state).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("decoder.norm.bias") && error.contains("[3]") && error.contains("[8]"), "{error}");
    }
}
