//! Reading checkpoints of any kind that DETR comes in, and reading and writing our own file.
//!
//! A foreign file (`foreign`) is converted as it is opened: what runs are our own names, layouts and folded batch norm, whatever
//! the file. Our own file (`own`) holds config and weights as they are. Both are read from memory (`read`); where they lie on a disk is known
//! to `files` and `open` alone.

pub(crate) mod class_names;
#[cfg(not(target_arch = "wasm32"))]
mod files;
mod foreign;
mod kinds;
#[cfg(not(target_arch = "wasm32"))]
mod open;
mod own;
mod random;
mod read;
pub(crate) mod safetensors;
pub(crate) mod tensors;

use crate::backend::SamplingMethod;
use crate::config::{Activation, Architecture, ClassActivation, Config, NetworkConfig, Resize};
use crate::error::Result;
use crate::weights::Weights;
use serde::{Deserialize, Serialize};

pub use class_names::ClassNames;
#[cfg(not(target_arch = "wasm32"))]
pub use open::{files_of, open, open_any, open_backbone, write_own};
pub use own::Storage;
#[cfg(not(target_arch = "wasm32"))]
pub use own::frame_bytes;
pub use random::random;
pub use read::import;

/// A detector as read from a file: a DETR, or with [`Architecture`] as its config one of any architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<C = Config> {
    pub config: C,
    pub weights: Weights,
    pub card: Card,
    /// What the file didn't say and was therefore assumed, a sentence each.
    pub guesses: Vec<String>,
}

impl<C: NetworkConfig> Checkpoint<C> {
    /// The score from which detections are shown if nobody says otherwise: the card's, or what suits the kind of scores. Softmax scores
    /// compete with no-object and are high for what is there; sigmoid ones, as the focal loss trains them, stay lower.
    pub fn threshold(&self) -> f32 {
        self.card.threshold.unwrap_or(match self.config.architecture().class_activation() {
            ClassActivation::Softmax => 0.7,
            ClassActivation::Sigmoid => 0.4,
        })
    }
}

/// What the file says about the detector beside its architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    pub name: String,
    /// The score from which a detection is shown unless the user says otherwise; see [`Checkpoint::threshold`].
    pub threshold: Option<f32>,
    pub licence: String,
    /// Where the weights come from: parent file and its sha256, recipe, tool version; a sentence or a path each.
    pub provenance: Vec<String>,
}

/// The texts that lie beside a foreign checkpoint's weights, as Hugging Face saves them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// `config.json`
    pub config: Option<String>,
    /// `preprocessor_config.json`
    pub preprocessor: Option<String>,
}

/// What the caller knows about a foreign checkpoint that its tensors' shapes can't tell. It wins over `config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guess {
    /// Attention heads of a layer that wasn't trimmed.
    pub heads: Option<usize>,
    /// Width of every head, where it isn't `d_model / heads`.
    pub head_width: Option<usize>,
    /// Whether the backbone's last stage is dilated instead of strided (DC5).
    pub dilation: Option<bool>,
    /// Activation of the feed-forward networks.
    pub activation: Option<Activation>,
    pub class_activation: Option<ClassActivation>,
    /// Of every kind of checkpoint: these go before what the file says, whatever it is.
    pub class_names: Option<ClassNames>,
    pub resize: Option<Resize>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    /// DEIMv2 under transformers' names: compute what transformers 5.24 does, which isn't what the weights were trained for. It keeps three
    /// things of D-FINE that DEIMv2 hasn't: a map and a norm before the selection, ReLU inside the box heads, and positions made anew in
    /// every decoder layer.
    pub exact_transformers: bool,
    /// Of RT-DETR and its descendants: how many tokens become queries.
    pub queries: Option<usize>,
    /// The same: how many decoder layers are evaluated. Each has heads of its own.
    pub decoder_layers: Option<usize>,
    /// The same: how a sampled location becomes a value.
    pub sampling: Option<SamplingMethod>,
}

impl Checkpoint<Architecture> {
    /// As a DETR, for what works on that architecture only.
    pub fn into_detr(self, what: &str) -> Result<Checkpoint> {
        let Self { config, weights, card, guesses } = self;
        Ok(Checkpoint { config: config.detr(what)?.clone(), weights, card, guesses })
    }
}

impl From<Checkpoint> for Checkpoint<Architecture> {
    fn from(Checkpoint { config, weights, card, guesses }: Checkpoint) -> Self {
        Self { config: Architecture::Detr(config), weights, card, guesses }
    }
}

/// Reads our own file of a DETR from memory; `file` is its name in messages.
pub fn read_own(bytes: &[u8], file: &str) -> Result<Checkpoint> {
    read_any(bytes, file)?.into_detr("this command")
}

/// Reads our own file of any architecture from memory; `file` is its name in messages.
pub fn read_any(bytes: &[u8], file: &str) -> Result<Checkpoint<Architecture>> {
    own::read(bytes, file)
}

/// Our own file as bytes. The same checkpoint always gives the same bytes.
pub fn to_bytes(checkpoint: &Checkpoint<impl NetworkConfig>, storage: Storage) -> Result<Vec<u8>> {
    own::to_bytes(checkpoint, storage)
}
