//! Reading checkpoints of any kind that DETR comes in, and reading and writing our own file.

use crate::config::Config;
use crate::weights::Weights;
use serde::{Deserialize, Serialize};

/// A detector as read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub config: Config,
    pub weights: Weights,
    pub card: Card,
    /// What the file didn't say and was therefore assumed, a sentence each.
    pub guesses: Vec<String>,
}

/// What the file says about the detector beside its architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    pub name: String,
    /// The score from which a detection is shown unless the user says otherwise.
    pub threshold: Option<f32>,
    pub licence: String,
    /// Where the weights come from: parent file and its sha256, recipe, tool version; a sentence or a path each.
    pub provenance: Vec<String>,
}
