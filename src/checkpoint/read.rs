//! Reads a checkpoint of any kind from memory: its bytes, and the texts that lie beside it.

use super::foreign::{self, Contents, Least, pth};
use super::{Beside, Checkpoint, Guess, kinds, own, safetensors};
use crate::config::Architecture;
use crate::error::{Error, Result};

/// Reads a detector from the bytes of its file, or of all its files where it is sharded; `name` is for messages. Our own file needs nothing
/// beside it; of a foreign one `config.json` and `preprocessor_config.json` tell what tensors can't.
pub fn import(files: &[&[u8]], beside: &Beside, name: &str, guess: &Guess) -> Result<Checkpoint<Architecture>> {
    adjusted(read(files, beside, name, guess, Least::Detector)?.0, guess)
}

/// The checkpoint with what the caller wants of it whatever its file says.
pub(super) fn adjusted(mut checkpoint: Checkpoint<Architecture>, guess: &Guess) -> Result<Checkpoint<Architecture>> {
    if let Some(resize) = guess.resize {
        checkpoint.config.pixels_mut().resize = resize;
        checkpoint.config.check()?;
    }
    if let Some(names) = &guess.class_names {
        let labels = names.labels(checkpoint.config.labels().len(), &mut Vec::new());
        *checkpoint.config.labels_mut() = labels.map_err(Error::Config)?;
    }
    Ok(checkpoint)
}

/// The checkpoint, and whether its file is ours and has a card.
pub(super) fn read(files: &[&[u8]], beside: &Beside, name: &str, guess: &Guess, least: Least) -> Result<(Checkpoint<Architecture>, bool)> {
    let fail = |problem: String| Error::Checkpoint { file: name.into(), problem };
    let mut all = Contents::default();
    for (i, bytes) in files.iter().enumerate() {
        let contents = if safetensors::is_safetensors(bytes) {
            let file = safetensors::read(bytes).map_err(fail)?;
            if own::is_own(&file) && i == 0 {
                return Ok((own::parse(&file, name)?, true));
            }
            #[cfg(not(target_arch = "wasm32"))]
            if crate::train::state::is_state(&file) && i == 0 {
                let (config, state) = crate::train::state::parse(&file, name)?;
                return Ok((state.detector(&config)?, false));
            }
            Contents { tensors: file.tensors.into_iter().map(|(name, tensor)| (name, Ok(tensor))).collect(), ..Contents::default() }
        } else if pth::is_pth(bytes) {
            pth::read(bytes).map_err(fail)?
        } else {
            return Err(fail(kinds::explain(bytes)));
        };
        for (tensor, content) in contents.tensors {
            if all.tensors.insert(tensor.clone(), content).is_some() {
                return Err(fail(format!("two of its files hold the tensor {}", foreign::origin::shown(&tensor))));
            }
        }
        all.options.extend(contents.options);
        all.containers.extend(contents.containers);
    }
    let size = files.iter().map(|bytes| bytes.len()).sum();
    Ok((foreign::convert(all, size, beside, name, guess, least)?, false))
}
