//! The format that `torch.save` has written since PyTorch 1.6: a zip archive of a pickle and one entry for each storage.

use super::Storages;
use super::pickle::Pickle;
use super::value::Value;
use super::zip::Archive;

pub fn read(bytes: &[u8]) -> Result<(Pickle<'_>, Storages<'_>), String> {
    let archive = Archive::read(bytes)?;
    let name = archive.names().find(|name| *name == b"data.pkl" || name.ends_with(b"/data.pkl")).ok_or_else(|| other_archive(&archive))?;
    let root = &name[..name.len() - b"data.pkl".len()];
    // torch.jit.save writes a data.pkl too, of objects whose classes are in `code/`.
    if archive.names().any(|name| name.strip_prefix(root).is_some_and(|name| name.starts_with(b"code/"))) {
        return Err(
            "a TorchScript archive (torch.jit.save), which holds a program: save the weights instead, torch.save(model.state_dict(), FILE)".into()
        );
    }
    if archive.entry(&[root, b"byteorder"].concat())?.is_some_and(|order| order != b"little") {
        return Err("its numbers are big-endian, which is not supported".into());
    }
    let pickle = Pickle::load(archive.entry(name)?.unwrap_or_default())?;
    let mut storages = Storages::new();
    for value in pickle.values() {
        let Value::Storage(storage) = value else { continue };
        if storages.contains_key(storage.key) {
            continue;
        }
        if let Some(data) = archive.entry(&[root, b"data/", storage.key].concat())? {
            storages.insert(storage.key, data);
        }
    }
    Ok((pickle, storages))
}

/// What an archive is that torch didn't write.
fn other_archive(archive: &Archive) -> String {
    let has = |ending: &[u8]| archive.names().any(|name| name.ends_with(ending));
    let first = archive.names().next().map(|name| String::from_utf8_lossy(name).escape_debug().take(80).collect::<String>()).unwrap_or_default();
    match () {
        () if has(b".weights.h5") => "a Keras model, which detrim doesn't read: it reads PyTorch's checkpoints (.safetensors, .pth)".into(),
        () if has(b".npy") => "an .npz archive of NumPy's, not a checkpoint: save the state dict with torch.save or safetensors".into(),
        () if has(b"models/model.json") || has(b"serialized_exported_program.json") => {
            "a program of torch.export (.pt2): save the weights instead, torch.save(model.state_dict(), FILE)".into()
        }
        () if [&b".safetensors"[..], b".pth", b".pt", b".bin", b".ckpt"].iter().any(|ending| has(ending)) => {
            format!("a zip archive that holds a checkpoint ({first}, …): unpack it and give the file in it")
        }
        () => format!("a zip archive, but none of torch.save: it holds no data.pkl (but {first}, …)"),
    }
}
