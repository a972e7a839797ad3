//! The format that `torch.save` wrote before PyTorch 1.6, and still does on demand: pickles of a magic number, a protocol version, a
//! description of the machine, the object and the storages' keys; then the storages, each behind its number of elements.

use super::Storages;
use super::pickle::Pickle;
use super::value::{StorageRef, Value};
use std::collections::HashMap;

/// 0x1950a86a20f9469cfc6c, the lowest byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

pub fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80)
}

/// Whether a pickle without `torch.save`'s magic number begins with NumPy's arrays.
fn is_numpy(bytes: &[u8]) -> bool {
    const BEGINNING: usize = 4096;
    let begins = |part: &[u8], end: usize| bytes[..bytes.len().min(end)].windows(part.len()).any(|window| window == part);
    begins(b"numpy", BEGINNING) && begins(b"_reconstruct", BEGINNING) && !begins(&MAGIC, 32)
}

pub fn read(bytes: &[u8]) -> Result<(Pickle<'_>, Storages<'_>), String> {
    if is_numpy(bytes) {
        return Err(
            "a pickle of NumPy's arrays, as PaddlePaddle saves them (.pdparams): give a PyTorch checkpoint of the same model (lyuwenyu/RT-DETR and Hugging Face have them)".into()
        );
    }
    let mut rest = bytes;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::load(rest)?;
        rest = &rest[pickle.length..];
        Ok(pickle)
    };
    let magic = next()?;
    if *magic.value(magic.root) != Value::Long(&MAGIC) {
        return Err("a pickle, but not of torch.save: its magic number is missing".into());
    }
    let protocol = next()?;
    if *protocol.value(protocol.root) != Value::Int(PROTOCOL) {
        return Err(format!("its version is {:?}, but only {PROTOCOL} is known", protocol.value(protocol.root)));
    }
    let machine = next()?;
    if is_big_endian(&machine) {
        return Err("its numbers are big-endian, which is not supported".into());
    }
    let object = next()?;
    let keys = next()?;
    let Value::Sequence(ids) = keys.value(keys.root) else { return Err("its list of storages is missing".into()) };
    let known: HashMap<&[u8], &StorageRef> = object.values().iter().filter_map(storage).map(|storage| (storage.key, storage)).collect();
    let mut storages = Storages::new();
    for &id in ids {
        let Value::Text(key) = keys.value(id) else { return Err("a storage's key is no text".into()) };
        let storage = known.get(key).ok_or_else(|| format!("storage {} belongs to no tensor", String::from_utf8_lossy(key)))?;
        // Cut off here: the tensors whose storages are missing will be named.
        let Some((count, data)) = rest.split_first_chunk() else { break };
        let count = u64::from_le_bytes(*count);
        if usize::try_from(count) != Ok(storage.elements) {
            let key = String::from_utf8_lossy(key);
            return Err(format!("storage {key} has {count} elements, but its tensors say {}", storage.elements));
        }
        let size = storage.elements.checked_mul(storage.dtype.size()).ok_or("a storage has an impossible size")?;
        let (data, after) = data.split_at(size.min(data.len()));
        storages.insert(storage.key, data);
        rest = after;
    }
    Ok((object, storages))
}

fn storage<'p, 'a>(value: &'p Value<'a>) -> Option<&'p StorageRef<'a>> {
    match value {
        Value::Storage(storage) => Some(storage),
        _ => None,
    }
}

fn is_big_endian(machine: &Pickle) -> bool {
    let Value::Dict(entries) = machine.value(machine.root) else { return false };
    entries.iter().any(|&(key, value)| machine.text(key) == Some("little_endian") && *machine.value(value) == Value::Bool(false))
}
