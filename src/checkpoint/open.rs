//! Opens a checkpoint of any kind from the disk, and writes our own.

use super::architecture::{self, Clues};
use super::rename::Renamed;
use super::stated::{Preprocessor, Stated};
use super::tensors::Tensors;
use super::{Card, Checkpoint, Guess, Storage, fold, own, pth, safetensors};
use crate::error::{Error, Result};
use crate::output;
use memmap2::Mmap;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What a directory's checkpoint may be called.
const NAMES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Opens a checkpoint, whatever its kind: our own file, `.safetensors` or `.pth` with foreign names, or a directory as Hugging Face
/// saves it. `config.json` and `preprocessor_config.json` beside the file are taken into account.
pub fn open(path: &Path, guess: &Guess) -> Result<Checkpoint> {
    let file = find(path)?;
    let name = file.display().to_string();
    let fail = |problem: String| Error::Checkpoint { file: name.clone(), problem };
    let bytes = map(&file)?;
    if safetensors::is_safetensors(&bytes) {
        let content = safetensors::read(&bytes).map_err(fail)?;
        if own::is_own(&content) {
            return own::parse(&content, &name);
        }
        return foreign(content.tensors, &file, guess);
    }
    if pth::is_pth(&bytes) {
        return foreign(pth::read(&bytes).map_err(fail)?, &file, guess);
    }
    Err(fail("not a checkpoint that detrim knows (.safetensors, or .pth as PyTorch saves it)".into()))
}

/// The checkpoint's file: the path itself, or what lies in it.
fn find(path: &Path) -> Result<PathBuf> {
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
    // SAFETY: the bytes may only change under us if somebody rewrites the file in place meanwhile; we never keep a reference into
    // it beyond `open`, and every number in it is valid.
    unsafe { Mmap::map(&file) }.map_err(fail)
}

/// Makes a checkpoint of ours of foreign tensors.
fn foreign(tensors: Tensors, file: &Path, guess: &Guess) -> Result<Checkpoint> {
    let fail = |problem: String| Error::Checkpoint { file: file.display().to_string(), problem };
    let stated: Option<Stated> = beside(file, "config.json")?;
    let preprocessor: Option<Preprocessor> = beside(file, "preprocessor_config.json")?;
    let renamed = Renamed::new(tensors).map_err(fail)?;
    let clues = Clues { tensors: &renamed, stated: stated.as_ref(), preprocessor: preprocessor.as_ref(), guess };
    let (config, mut guesses) = architecture::derive(&clues).map_err(fail)?;
    let weights = fold::convert(&renamed, &config).map_err(fail)?;
    guesses.extend(left_over(&renamed.strays));
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let directory = file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = if NAMES.iter().any(|known| known.starts_with(&format!("{name}."))) { directory.unwrap_or(name) } else { name };
    Ok(Checkpoint { config, weights, card: Card { name, ..Card::default() }, guesses })
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

/// Writes our own file: under another name first, so that there is never half a file under this one.
pub fn write_own(path: &Path, checkpoint: &Checkpoint, storage: Storage) -> Result<()> {
    output::write(path, &own::to_bytes(checkpoint, storage)?)
}
