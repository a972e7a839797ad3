//! Checkpoints of other projects: original DETR, Hugging Face transformers, timm's and torchvision's backbones.
//!
//! Tensors (of `.safetensors`, or of `.pth` by `pth`) → our names (`rename`, by the table in `names`) → a config (`architecture`, with
//! what the files beside it state, `stated`) → weights with batch norm folded in (`fold`).

mod architecture;
mod fold;
mod labels;
mod names;
pub mod pth;
mod rename;
mod rt_detr;
mod stated;

use super::tensors::Tensors;
use super::{Card, Checkpoint, Guess};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::layout::layout;
use architecture::Clues;
use rename::Renamed;
use serde::de::DeserializeOwned;
use stated::{Preprocessor, Stated};
use std::path::Path;

/// How much of a detector a file must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Least {
    Detector,
    /// A backbone, as it comes from training on ImageNet. Its checkpoint has the paper's transformer in its config, but no weights of one.
    Backbone,
}

/// Makes a checkpoint of ours of foreign tensors.
pub fn convert(tensors: Tensors, file: &Path, guess: &Guess, least: Least) -> Result<Checkpoint<Architecture>> {
    let fail = |problem: String| Error::Checkpoint { file: file.display().to_string(), problem };
    let stated: Option<Stated> = beside(file, "config.json")?;
    let preprocessor: Option<Preprocessor> = beside(file, "preprocessor_config.json")?;
    if let Some(family) = rt_detr::Family::of(file, &tensors).map_err(fail)? {
        return family.convert(&tensors, preprocessor.as_ref(), guess).map_err(fail);
    }
    let renamed = Renamed::new(tensors).map_err(fail)?;
    let clues = Clues { tensors: &renamed, stated: stated.as_ref(), preprocessor: preprocessor.as_ref(), guess };
    let bare = least == Least::Backbone && renamed.shape("input_projection.weight").is_none();
    let (config, mut guesses) = if bare { architecture::bare(&clues) } else { architecture::derive(&clues) }.map_err(fail)?;
    let entries = layout(&config).into_iter().filter(|entry| !bare || entry.name.starts_with("backbone.")).collect();
    let weights = fold::convert(&renamed, &config, entries).map_err(fail)?;
    guesses.extend(left_over(&renamed.strays));
    Ok(Checkpoint { config: Architecture::Detr(config), weights, card: Card::default(), guesses })
}

/// A JSON file beside the checkpoint, if there is one.
fn beside<T: DeserializeOwned>(file: &Path, name: &str) -> Result<Option<T>> {
    let path = file.with_file_name(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { file: path.display().to_string(), source }),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::Checkpoint { file: path.display().to_string(), problem: error.to_string() })
}

/// A sentence about tensors that the detector has no use for.
fn left_over(strays: &[String]) -> Option<String> {
    let names: Vec<&str> = strays.iter().map(String::as_str).filter(|name| !name.ends_with("num_batches_tracked")).collect();
    let (first, count) = (names.first()?, names.len());
    Some(match count {
        1 => format!("tensor {first} is not part of the detector"),
        _ => format!("{count} tensors are not part of the detector: {first}, …"),
    })
}
