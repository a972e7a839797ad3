//! Opens a checkpoint of any kind from the disk, and writes our own.

use super::foreign::{self, Least, pth};
use super::{Checkpoint, Guess, Storage, own, safetensors};
use crate::config::{Architecture, NetworkConfig};
use crate::error::{Error, Result};
use crate::output;
use crate::train::state;
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// What a directory's checkpoint may be called.
const NAMES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Opens a checkpoint of a DETR: see [`open_any`].
pub fn open(path: &Path, guess: &Guess) -> Result<Checkpoint> {
    open_any(path, guess)?.into_detr("this command")
}

/// Opens a checkpoint, whatever its kind and its architecture: our own file, `.safetensors` or `.pth` with foreign names, or a directory as Hugging Face
/// saves it, or the state of a training run, which is taken as the detector that it makes. `config.json` and `preprocessor_config.json` beside the file are taken into account.
/// `guess` is for what foreign files don't say; only its input size goes before what any file says, since a network takes pictures of every size.
pub fn open_any(path: &Path, guess: &Guess) -> Result<Checkpoint<Architecture>> {
    sized(read(path, guess, Least::Detector)?, guess)
}

/// Opens what a new detector can begin with: any checkpoint, or a backbone alone, under the names of timm, torchvision or transformers. Of
/// such a one the weights are the backbone's, and the transformer in the config is the paper's.
pub fn open_backbone(path: &Path, guess: &Guess) -> Result<Checkpoint> {
    sized(read(path, guess, Least::Backbone)?, guess)?.into_detr("a backbone")
}

fn sized(mut checkpoint: Checkpoint<Architecture>, guess: &Guess) -> Result<Checkpoint<Architecture>> {
    if let Some(resize) = guess.resize {
        checkpoint.config.pixels_mut().resize = resize;
        checkpoint.config.check()?;
    }
    Ok(checkpoint)
}

fn read(path: &Path, guess: &Guess, least: Least) -> Result<Checkpoint<Architecture>> {
    let file = file_of(path)?;
    let name = file.display().to_string();
    let fail = |problem: String| Error::Checkpoint { file: name.clone(), problem };
    let bytes = map(&file)?;
    if safetensors::is_safetensors(&bytes) {
        let content = safetensors::read(&bytes).map_err(fail)?;
        if own::is_own(&content) {
            return own::parse(&content, &name);
        }
        if state::is_state(&content) {
            drop(content);
            let (config, state) = state::read(&file)?;
            return named(state.detector(&config)?.into(), &file);
        }
        return named(foreign::convert(content.tensors, &file, guess, least)?, &file);
    }
    if pth::is_pth(&bytes) {
        return named(foreign::convert(pth::read(&bytes).map_err(fail)?, &file, guess, least)?, &file);
    }
    Err(fail("not a checkpoint that detrim knows (.safetensors, or .pth as PyTorch saves it)".into()))
}

/// A checkpoint without a card is called as its file is, or as its directory where the file is called as all are.
fn named(mut checkpoint: Checkpoint<Architecture>, file: &Path) -> Result<Checkpoint<Architecture>> {
    let common = file.file_name().is_some_and(|name| NAMES.iter().any(|common| name == *common));
    let name = if common { file.parent().and_then(Path::file_name) } else { file.file_stem() };
    checkpoint.card.name = name.unwrap_or_default().to_string_lossy().into_owned();
    Ok(checkpoint)
}

/// A checkpoint's file: the path itself, or what lies in a directory.
pub fn file_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    let found = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| Error::Checkpoint { file: path.display().to_string(), problem: format!("the directory holds none of {}", NAMES.join(", ")) })
}

/// A file's bytes. Mapped, so that nothing is allocated for what a hostile file only claims to hold, and no more is read of a
/// training checkpoint than the detector's part.
fn map(path: &Path) -> Result<Mmap> {
    let fail = |source| Error::Io { file: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::Checkpoint { file: path.display().to_string(), problem: "not a file".into() });
    }
    // SAFETY: we only read, and keep no reference beyond `open`. What remains is somebody rewriting the file in place in that second:
    // as with every program that maps its files, and as we never do ourselves (see `output`).
    unsafe { Mmap::map(&file) }.map_err(fail)
}

/// Writes our own file: under another name first, so that there is never half a file under this one.
pub fn write_own(path: &Path, checkpoint: &Checkpoint<impl NetworkConfig>, storage: Storage) -> Result<()> {
    output::write(path, &own::to_bytes(checkpoint, storage)?)
}
