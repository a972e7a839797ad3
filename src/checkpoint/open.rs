//! Opens a checkpoint of any kind from the disk, and writes our own.

use super::files::{self, Files};
use super::foreign::Least;
use super::{Checkpoint, Guess, Storage, own, read};
use crate::error::{Error, Result};
use crate::output;
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// Opens a checkpoint, whatever its kind: our own file, `.safetensors` or `.pth` with foreign names, its shards, a folder as Hugging Face
/// saves it, or the state of a training run, which is taken as the detector that it makes. `config.json` and `preprocessor_config.json` beside the file are taken into account.
/// `guess` is for what foreign files don't say; only its input size and its names of classes go before what any file says.
pub fn open(path: &Path, guess: &Guess) -> Result<Checkpoint> {
    from_disk(path, guess, Least::Detector)
}

/// Opens what a new detector can begin with: any checkpoint, or a backbone alone, under the names of timm, torchvision or transformers. Of
/// such a one the weights are the backbone's, and the transformer in the config is the paper's.
pub fn open_backbone(path: &Path, guess: &Guess) -> Result<Checkpoint> {
    from_disk(path, guess, Least::Backbone)
}

fn from_disk(path: &Path, guess: &Guess, least: Least) -> Result<Checkpoint> {
    let files = files::find(path)?;
    let mapped = files.weights.iter().map(|file| map(file)).collect::<Result<Vec<_>>>()?;
    let bytes: Vec<&[u8]> = mapped.iter().map(|file| file.as_deref().unwrap_or_default()).collect();
    // A message about one file of several is about the one that leads to them.
    let name = files.main.display().to_string();
    let (mut checkpoint, has_card) = read::read(&bytes, &files.beside()?, &name, guess, least)?;
    if !has_card {
        checkpoint.card.name = files.name();
    }
    read::adjusted(checkpoint, guess)
}

/// The files that a checkpoint's weights are read from.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let Files { weights, .. } = files::find(path)?;
    Ok(weights)
}

/// A file's bytes; none where there are none. Mapped, so that nothing is allocated for what a hostile file only claims to hold, and no more is
/// read of a training checkpoint than the detector's part.
fn map(path: &Path) -> Result<Option<Mmap>> {
    let fail = |source| Error::Io { file: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(Error::Checkpoint { file: path.display().to_string(), problem: "not a file".into() });
    }
    if metadata.len() == 0 {
        return Ok(None);
    }
    // SAFETY: we only read, and keep no reference beyond `open`. What remains is somebody rewriting the file in place in that second:
    // as with every program that maps its files, and as we never do ourselves (see `output`).
    unsafe { Mmap::map(&file) }.map(Some).map_err(fail)
}

/// Writes our own file: under another name first, so that there is never half a file under this one.
pub fn write_own(path: &Path, checkpoint: &Checkpoint, storage: Storage) -> Result<()> {
    output::write(path, &own::to_bytes(checkpoint, storage)?)
}
