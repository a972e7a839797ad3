//! Checkpoints of other projects: original DETR, Hugging Face transformers, the repositories of RT-DETR, D-FINE and DEIMv2, timm's and
//! torchvision's backbones.
//!
//! What a file holds (`.safetensors`, or `.pth` by `pth`) → the tensors of the network, wherever they lie (`root`) → our names (`rename`, by
//! the table in `names`) → a config (`architecture`, with what is stated beside the tensors: `evidence`, `stated`, `preprocessor`) → weights
//! with batch norm folded in (`fold`).
//!
//! `pth`, `root`, `origin`, `evidence` and `preprocessor` know nothing of DETR: they serve every architecture that is read.

mod architecture;
mod evidence;
mod fold;
mod names;
pub mod origin;
mod preprocessor;
pub mod pth;
mod rename;
mod root;
mod rt_detr;
mod stated;

use super::tensors::RawTensor;
use super::{Beside, Card, Checkpoint, Guess};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::layout::layout;
use architecture::Clues;
use evidence::{Evidence, Family};
use rename::Renamed;
use std::collections::BTreeMap;

/// What a file holds: all tensors that have names, those that can't be read with what is wrong with them, and what else it says.
#[derive(Default)]
pub struct Contents<'a> {
    pub tensors: BTreeMap<String, Result<RawTensor<'a>, String>>,
    /// The dictionaries that lie beside each other in a `.pth`: what all names in one begin with.
    pub containers: Vec<String>,
    /// What the training program was started with.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// How much of a detector a file must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Least {
    Detector,
    /// A backbone, as it comes from training on ImageNet. Its checkpoint has the paper's transformer in its config, but no weights of one.
    Backbone,
}

/// More tensors than any detector has.
const MAX_TENSORS: usize = 100_000;
/// How many times the file's bytes its tensors may take together: some are stored once under several names.
const MAX_SHARING: usize = 4;

/// Makes a checkpoint of ours of a file of `size` bytes; `file` is its name in messages.
pub fn convert(contents: Contents, size: usize, beside: &Beside, file: &str, guess: &Guess, least: Least) -> Result<Checkpoint<Architecture>> {
    import(contents, size, beside, guess, least).map_err(|problem| Error::Checkpoint { file: file.into(), problem })
}

fn import(contents: Contents, size: usize, beside: &Beside, guess: &Guess, least: Least) -> Result<Checkpoint<Architecture>, String> {
    check_amount(&contents, size)?;
    let evidence = Evidence::new(&contents, beside)?;
    if least == Least::Detector && rt_detr::original::fits(contents.tensors.keys().map(String::as_str)) {
        let rooted = root::find(contents, rt_detr::original::known)?;
        let told = rooted.told();
        let mut checkpoint = rt_detr::convert_original(&rooted, &evidence, guess)?;
        checkpoint.guesses.extend(told);
        return Ok(checkpoint);
    }
    match evidence.family(least)? {
        Family::Detr => detr(contents, &evidence, guess, least),
        Family::RtDetr(model_type) => {
            let rooted = root::find(contents, rt_detr::known)?;
            let told = rooted.told();
            let mut checkpoint = rt_detr::convert(model_type, &rooted, &evidence, guess)?;
            checkpoint.guesses.extend(told);
            Ok(checkpoint)
        }
    }
}

/// Refuses more tensors than there can be, and tensors that share few bytes and claim many: each would be copied.
fn check_amount(contents: &Contents, size: usize) -> Result<(), String> {
    let count = contents.tensors.len();
    if count > MAX_TENSORS {
        return Err(format!("it holds {count} tensors; a detector has at most {MAX_TENSORS}"));
    }
    let bytes = |tensor: &RawTensor| tensor.elements().saturating_mul(tensor.dtype.size());
    let claimed = contents.tensors.values().flatten().fold(0, |sum: usize, tensor| sum.saturating_add(bytes(tensor)));
    if claimed > size.saturating_mul(MAX_SHARING) {
        return Err(format!("its tensors take {claimed} bytes together, but the file has {size}: too many share the same bytes"));
    }
    Ok(())
}

fn detr(contents: Contents, evidence: &Evidence, guess: &Guess, least: Least) -> Result<Checkpoint<Architecture>, String> {
    let names: Vec<String> = contents.tensors.keys().cloned().collect();
    let rooted = root::find(contents, rename::known)?;
    let mut guesses: Vec<String> = rooted.told().into_iter().collect();
    let renamed = Renamed::new(rooted)?;
    let bare = renamed.shape("input_projection.weight").is_none();
    // Where one part is missing the file has names for the others, by which it is told which; where several are, it is another network.
    let parts = ["input_projection.weight", "query_position", "encoder.", "decoder.", "class_head.", "box_head."];
    let missing = parts.iter().filter(|part| !renamed.has_any(part)).count();
    if least == Least::Detector && missing > 1 {
        let what = if renamed.has_any("backbone.stage") && missing == parts.len() {
            "a backbone alone, no detector (`train --backbone` begins with one)"
        } else {
            "no DETR under names that detrim knows"
        };
        return Err(format!("it holds {what}: {}", origin::describe(names.iter().map(String::as_str))));
    }
    let clues = Clues { tensors: &renamed, evidence, guess };
    let bare = bare && least == Least::Backbone;
    let (config, found) = if bare { architecture::bare(&clues) } else { architecture::derive(&clues) }?;
    guesses.extend(found);
    let entries = layout(&config).into_iter().filter(|entry| !bare || entry.name.starts_with("backbone.")).collect();
    let weights = fold::convert(&renamed, &config, entries)?;
    guesses.extend(left_over(&renamed.strays));
    Ok(Checkpoint { config: Architecture::Detr(config), weights, card: Card::default(), guesses })
}

/// A sentence about tensors that the detector has no use for.
fn left_over(strays: &[String]) -> Option<String> {
    let names: Vec<&str> = strays.iter().map(String::as_str).filter(|name| !name.ends_with("num_batches_tracked")).collect();
    let (first, count) = (origin::shown(names.first()?), names.len());
    Some(match count {
        1 => format!("tensor {first} is not part of the detector"),
        _ => format!("{count} tensors are not part of the detector: {first}, …"),
    })
}
