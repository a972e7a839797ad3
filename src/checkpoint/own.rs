//! Our own file: a `.safetensors` file of tensors under our own names, whose header holds under `detrim` one JSON text:
//! the version of this format, the config and the card.
//!
//! One file is all that a web page needs to fetch, and any safetensors reader can list what is inside.

use super::safetensors::{self, File, Stored};
use super::tensors::{Dtype, RawTensor};
use super::{Card, Checkpoint};
use crate::config::Config;
use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::layout::Entry;
use crate::layout::{self, layout};
use crate::weights::{Data, HostTensor, Weights};
use half::f16;
use serde::{Deserialize, Serialize};

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
}

impl Storage {
    /// Bytes of a tensor.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn bytes(self, entry: &Entry) -> usize {
        let numbers: usize = entry.shape.iter().product();
        numbers * if self == Storage::F16 && entry.is_large() { 2 } else { 4 }
    }
}

/// Whether a safetensors header is one of ours.
#[cfg(not(target_arch = "wasm32"))]
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
    let Header { config, card, .. } = serde_json::from_str(text).map_err(broken)?;
    config.check().map_err(|error| fail(error.to_string()))?;
    let mut weights = Weights::default();
    for entry in layout(&config) {
        let tensor = file.tensors.get(&entry.name).ok_or_else(|| Error::MissingTensor { name: entry.name.clone(), expected: entry.shape.clone() });
        let tensor = tensor.and_then(|tensor| {
            if tensor.shape != entry.shape {
                return Err(Error::Shape { name: entry.name.clone(), expected: entry.shape.clone(), found: tensor.shape.clone() });
            }
            Ok(tensor)
        });
        let tensor = host(tensor.map_err(|error| fail(error.to_string()))?);
        weights.insert(&entry.name, tensor.ok_or_else(|| fail(format!("tensor {} is neither f32 nor f16", entry.name)))?);
    }
    let known: usize = weights.tensors.len();
    if known != file.tensors.len() {
        let stray = file.tensors.keys().find(|name| !weights.tensors.contains_key(*name));
        return Err(fail(format!("tensor {} is not part of the architecture", stray.map_or("?", |name| name))));
    }
    Ok(Checkpoint { config, weights, card, guesses: Vec::new() })
}

/// f16 stays f16.
fn host(tensor: &RawTensor) -> Option<HostTensor> {
    let numbers = tensor.to_f32()?;
    let data = match tensor.dtype {
        Dtype::F32 => Data::F32(numbers),
        Dtype::F16 => Data::F16(numbers.into_iter().map(f16::from_f32).collect()),
        _ => return None,
    };
    Some(HostTensor { shape: tensor.shape.clone(), data })
}

/// Our file as bytes; the same checkpoint always gives the same bytes.
pub fn to_bytes(checkpoint: &Checkpoint, storage: Storage) -> Result<Vec<u8>> {
    let Checkpoint { config, weights, card, .. } = checkpoint;
    layout::check(config, weights)?;
    let header = Header { version: VERSION, config: config.clone(), card: card.clone() };
    let header = serde_json::to_string(&header).map_err(|error| Error::Config(error.to_string()))?;
    let mut tensors = Vec::new();
    for entry in layout(config) {
        let tensor = weights.get(&entry.name, &entry.shape)?;
        if tensor.to_f32().iter().any(|x| !x.is_finite()) {
            return Err(Error::Config(format!("tensor {} holds a number that isn't finite", entry.name)));
        }
        let small = storage == Storage::F16 && entry.is_large();
        if small && tensor.to_f32().iter().any(|x| x.abs() > f16::MAX.to_f32()) {
            return Err(Error::Config(format!("tensor {} holds numbers that don't fit into f16: store it as f32", entry.name)));
        }
        tensors.push((entry.name, Stored::new(&tensor.shape, tensor.to_f32(), small)));
    }
    let metadata = [(KEY.to_string(), header)].into();
    ::safetensors::serialize(tensors, Some(metadata)).map_err(|error| Error::Config(error.to_string()))
}
