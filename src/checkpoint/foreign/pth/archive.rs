//! The format that `torch.save` has written since PyTorch 1.6: a zip archive of a pickle and one entry for each storage.

use super::Storages;
use super::pickle::Pickle;
use super::value::Value;
use std::io::Cursor;
use zip::{CompressionMethod, ZipArchive};

pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

pub fn read(bytes: &[u8]) -> Result<(Pickle<'_>, Storages<'_>), String> {
    let broken = |error: zip::result::ZipError| format!("broken zip archive (is the file cut off?): {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let name = archive.file_names_raw().find(|name| *name == b"data.pkl" || name.ends_with(b"/data.pkl")).map(<[u8]>::to_vec);
    let name = name.ok_or("a zip archive, but none of torch.save: it holds no data.pkl")?;
    let root = &name[..name.len() - b"data.pkl".len()];
    if entry(bytes, &mut archive, &[root, b"byteorder"].concat())?.is_some_and(|order| order != b"little") {
        return Err("its numbers are big-endian, which is not supported".into());
    }
    let pickle = Pickle::load(entry(bytes, &mut archive, &name)?.unwrap_or_default())?;
    let mut storages = Storages::new();
    for value in pickle.values() {
        let Value::Storage(storage) = value else { continue };
        if storages.contains_key(storage.key) {
            continue;
        }
        if let Some(data) = entry(bytes, &mut archive, &[root, b"data/", storage.key].concat())? {
            storages.insert(storage.key, data);
        }
    }
    Ok((pickle, storages))
}

/// The bytes of an archive's entry, where they lie in the file: torch doesn't compress.
fn entry<'a>(bytes: &'a [u8], archive: &mut ZipArchive<Cursor<&[u8]>>, name: &[u8]) -> Result<Option<&'a [u8]>, String> {
    let Some(index) = archive.index_for_name_raw(name) else { return Ok(None) };
    let name = String::from_utf8_lossy(name);
    let entry = archive.by_index_raw(index).map_err(|error| format!("broken entry {name}: {error}"))?;
    if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
        return Err(format!("its entry {name} is compressed or encrypted; torch.save doesn't do that"));
    }
    let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
    let range = start.zip(usize::try_from(entry.size()).ok()).and_then(|(start, size)| Some(start..start.checked_add(size)?));
    let data = range.and_then(|range| bytes.get(range));
    data.map(Some).ok_or_else(|| format!("its entry {name} reaches beyond the end of the file"))
}
