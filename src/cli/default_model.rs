//! Which model a command uses when none is named.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What is needed of an entry of `models/index.json`, whose first entry is the default.
#[derive(Deserialize)]
struct Entry {
    file: String,
}

/// The model named, or the default one of the `models/` directory here or near the program.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.into());
    }
    let program = std::env::current_exe().unwrap_or_default();
    // A built program lies at target/release/detrim, an unpacked one beside models/.
    let places = std::iter::once(Path::new("")).chain(program.ancestors().skip(1).take(3));
    let Some(models) = places.map(|place| place.join("models")).find(|models| models.join("index.json").is_file()) else {
        bail!("no model: name one with --model FILE (the page's own lies in models/ of the repository; `detrim fetch detr-r50` downloads DETR's)");
    };
    let index = models.join("index.json");
    let text = std::fs::read_to_string(&index).with_context(|| index.display().to_string())?;
    let entries: Vec<Entry> = serde_json::from_str(&text).with_context(|| index.display().to_string())?;
    let first = entries.first().with_context(|| format!("{}: lists no model; name one with --model FILE", index.display()))?;
    Ok(models.join(&first.file))
}
