//! Our own file: a `.safetensors` file of tensors under our own names, whose header holds under `detrim` one JSON text:
//! the version of this format, the config and the card.
//!
//! One file is all that a web page needs to fetch, and any safetensors reader can list what is inside.
//!
//! A tensor is F32, F16 or I8. Beside a tensor `name` of type I8 stands `name.scale`, F32: for each output channel (the first axis;
//! the last one of a depthwise convolution) what its integers are multiplied by.

use super::class_names::{clean, clean_labels, clean_name};
use super::safetensors::{self, File, Stored};
use super::tensors::{Dtype, RawTensor};
use super::{Card, Checkpoint};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layout::{self, Entry, layout};
use crate::weights::{Channels, Data, HostTensor, Int8, Weights};
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where the header keeps our text. A single entry, because the library keeps entries in no particular order.
const KEY: &str = "detrim";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    config: Config,
    card: Card,
}

/// How numbers are stored in our file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    F32,
    /// Matrices, convolutions and query contents in f16; biases, norms and box references stay f32: they are few, and it is
    /// there that rounding shows.
    F16,
    /// Matrices and convolutions in int8 with a scale for each output channel; the heads and all else as in `F16`. What is int8
    /// already stays as it is.
    Int8,
}

/// What the tensor of an int8 tensor's scales is called.
fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

impl Storage {
    /// The most bytes of a file that a tensor takes, with its scales if it has any and what the header says of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn bytes(self, entry: &Entry) -> usize {
        let numbers: usize = entry.shape.iter().product();
        let header = header_bytes(&entry.name, &entry.shape);
        match entry.int8_channels().filter(|_| self == Storage::Int8) {
            Some(channels) => {
                let scales = axis(&entry.shape, channels);
                numbers + 4 * scales[0] + header + header_bytes(&scale_name(&entry.name), scales)
            }
            None => numbers * if self != Storage::F32 && entry.is_large() { 2 } else { 4 } + header,
        }
    }
}

/// The most bytes that the header has for a tensor: its name, type, shape and place, as the longest numbers there are in networks.
#[cfg(not(target_arch = "wasm32"))]
fn header_bytes(name: &str, shape: &[usize]) -> usize {
    const PLACES: usize = "\"\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[12345678,12345678]},".len();
    const NUMBER: usize = "2048,".len();
    name.len() + PLACES + shape.len() * NUMBER
}

/// The bytes of a file that aren't its tensors': the config and the card.
#[cfg(not(target_arch = "wasm32"))]
pub fn frame_bytes(config: &Config, card: &Card) -> Result<usize> {
    /// The length before the header, what fills it up to a multiple of 8, and the names and braces around our text.
    const AROUND: usize = 64;
    // As a text within JSON, with all that has to be escaped.
    let text = serde_json::to_string(&header(config, card)?).map_err(|error| Error::Config(error.to_string()))?;
    Ok(text.len() + AROUND)
}

fn header(config: &Config, card: &Card) -> Result<String> {
    let header = Header { version: VERSION, config: config.clone(), card: card.clone() };
    serde_json::to_string(&header).map_err(|error| Error::Config(error.to_string()))
}

/// Whether a safetensors header is one of ours.
pub fn is_own(file: &File) -> bool {
    file.metadata.contains_key(KEY)
}

/// Reads our own file from memory; `name` is for messages.
pub fn read(bytes: &[u8], name: &str) -> Result<Checkpoint> {
    let fail = |problem: String| Error::Checkpoint { file: name.into(), problem };
    if !safetensors::is_safetensors(bytes) {
        return Err(fail("not a model of detrim (a .safetensors file was expected)".into()));
    }
    parse(&safetensors::read(bytes).map_err(fail)?, name)
}

/// Takes what a safetensors file of ours holds.
pub fn parse(file: &File, name: &str) -> Result<Checkpoint> {
    let fail = |problem: String| Error::Checkpoint { file: name.into(), problem };
    let text = file.metadata.get(KEY).ok_or_else(|| fail(format!("not a model of detrim: its header has no `{KEY}` entry")))?;
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let broken = |error: serde_json::Error| fail(format!("the header's `{KEY}` entry can't be understood: {error}"));
    let Version { version } = serde_json::from_str(text).map_err(broken)?;
    if version != VERSION {
        return Err(fail(format!("its format is version {version}; this version of detrim reads version {VERSION}")));
    }
    let Header { mut config, card, .. } = serde_json::from_str(text).map_err(broken)?;
    config.check().map_err(|error| fail(error.to_string()))?;
    let mut weights = Weights::default();
    let mut scales = BTreeSet::new();
    for entry in layout(&config) {
        let tensor = tensor(file, &entry).map_err(&fail)?;
        if matches!(tensor.data, Data::I8(_)) {
            scales.insert(scale_name(&entry.name));
        }
        weights.insert(entry.name, tensor);
    }
    if let Some(stray) = file.tensors.keys().find(|name| !weights.tensors.contains_key(*name) && !scales.contains(*name)) {
        return Err(fail(format!("tensor {stray} is not part of the architecture")));
    }
    clean_labels(&mut config);
    let (card, guesses) = cleaned(card);
    Ok(Checkpoint { config, weights, card, guesses })
}

/// A card that can be shown and believed, and what of it couldn't.
fn cleaned(card: Card) -> (Card, Vec<String>) {
    /// Longer than any sentence about a model.
    const MAX_LINE: usize = 4000;
    let threshold = card.threshold.filter(|threshold| (0.0..=1.0).contains(threshold));
    let guesses = match (card.threshold, threshold) {
        (Some(odd), None) => vec![format!("the threshold {odd} of its card is none from 0 to 1: it is passed over")],
        _ => Vec::new(),
    };
    let provenance = card.provenance.iter().map(|line| clean(line, MAX_LINE)).collect();
    (Card { name: clean_name(&card.name), threshold, licence: clean(&card.licence, MAX_LINE), provenance }, guesses)
}

/// The tensor of an entry in the type that it is stored in.
fn tensor(file: &File, entry: &Entry) -> Result<HostTensor, String> {
    let Entry { name, shape, .. } = entry;
    let tensor = find(file, name, shape)?;
    let data = match (tensor.dtype, entry.int8_channels()) {
        (Dtype::F32, _) => tensor.to_f32().map(Data::F32),
        (Dtype::F16, _) => tensor.to_f32().map(|numbers| Data::F16(numbers.into_iter().map(f16::from_f32).collect())),
        (Dtype::I8, Some(channels)) => {
            let scales = scales(file, &scale_name(name), axis(shape, channels))?;
            tensor.to_i8().map(|values| Data::I8(Int8 { values, scales, channels }))
        }
        (Dtype::I8, None) => return Err(format!("tensor {name} is int8; only matrices and convolutions before the heads may be")),
        _ => None,
    };
    Ok(HostTensor { shape: shape.clone(), data: data.ok_or_else(|| format!("tensor {name} is none of f32, f16 and int8"))? })
}

fn scales(file: &File, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = find(file, name, shape)?;
    let scales = tensor.to_f32().filter(|_| tensor.dtype == Dtype::F32).ok_or_else(|| format!("tensor {name} is not f32"))?;
    match scales.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
        Some(channel) => Err(format!("tensor {name} holds {} for channel {channel}: a scale is a finite number, not below zero", scales[channel])),
        None => Ok(scales),
    }
}

fn find<'a>(file: &'a File, name: &str, shape: &[usize]) -> Result<&'a RawTensor<'a>, String> {
    let missing = || Error::MissingTensor { name: name.into(), expected: shape.to_vec() };
    let tensor = file.tensors.get(name).ok_or_else(|| missing().to_string())?;
    if tensor.shape != shape {
        return Err(Error::Shape { name: name.into(), expected: shape.to_vec(), found: tensor.shape.clone() }.to_string());
    }
    Ok(tensor)
}

/// The part of a shape that is the output channels' axis.
fn axis(shape: &[usize], channels: Channels) -> &[usize] {
    match channels {
        Channels::First => &shape[..1],
        Channels::Last => &shape[shape.len() - 1..],
    }
}

/// Our file as bytes; the same checkpoint always gives the same bytes.
pub fn to_bytes(checkpoint: &Checkpoint, storage: Storage) -> Result<Vec<u8>> {
    let Checkpoint { config, weights, card, .. } = checkpoint;
    layout::check(config, weights)?;
    let mut tensors = Vec::new();
    for entry in layout(config) {
        let tensor = weights.get(&entry.name, &entry.shape)?;
        if tensor.to_f32().iter().any(|x| !x.is_finite()) {
            return Err(Error::Config(format!("tensor {} holds a number that isn't finite", entry.name)));
        }
        if let Some(channels) = entry.int8_channels().filter(|_| storage == Storage::Int8) {
            if let Data::I8(Int8 { values, scales, .. }) = tensor.to_i8(channels).data {
                tensors.push((scale_name(&entry.name), Stored::new(axis(&tensor.shape, channels), scales.into(), false)));
                tensors.push((entry.name, Stored::int8(&tensor.shape, values)));
            }
            continue;
        }
        let small = storage != Storage::F32 && entry.is_large();
        if small && tensor.to_f32().iter().any(|x| x.abs() > f16::MAX.to_f32()) {
            return Err(Error::Config(format!("tensor {} holds numbers that don't fit into f16: store it as f32", entry.name)));
        }
        tensors.push((entry.name, Stored::new(&tensor.shape, tensor.to_f32(), small)));
    }
    let metadata = [(KEY.to_string(), header(config, card)?)].into();
    ::safetensors::serialize(tensors, Some(metadata)).map_err(|error| Error::Config(error.to_string()))
}
