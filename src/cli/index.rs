//! `models/index.json`: what embedded models there are, for the page and for whoever downloads them.

use anyhow::{Context, Result};
use detrim::checkpoint::Card;
use detrim::config::Architecture;
use detrim::{hash, output};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One model of the index.
#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    /// Relative to the index.
    file: String,
    bytes: u64,
    sha256: String,
    labels: Vec<String>,
    metrics: Metrics,
    licence: String,
    threshold: Option<f32>,
}

/// What was measured, and on which pictures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Metrics {
    pub on: String,
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// Enters a model file into the index, in place of an entry of the same name. Without `metrics` those of the old entry stay.
pub fn update(index: &Path, model: &Path, config: &Architecture, card: &Card, metrics: Option<Metrics>) -> Result<()> {
    let mut entries: Vec<Entry> = match std::fs::read(index) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} can't be understood", index.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| index.display().to_string()),
    };
    let directory = index.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = model.canonicalize()?.strip_prefix(directory.canonicalize()?).map(Path::to_path_buf);
    let file = file.with_context(|| format!("{} must lie beside {}", model.display(), index.display()))?;
    let bytes = std::fs::read(model).with_context(|| model.display().to_string())?;
    let place = entries.iter().position(|entry| entry.name == card.name);
    let old = place.map(|place| entries[place].metrics.clone());
    let entry = Entry {
        name: card.name.clone(),
        file: file.to_string_lossy().replace('\\', "/"),
        bytes: bytes.len() as u64,
        sha256: hash::sha256(&bytes),
        labels: config.labels().iter().filter(|label| !label.is_gap()).map(|label| label.name.clone()).collect(),
        metrics: metrics.or(old).unwrap_or_default(),
        licence: card.licence.clone(),
        threshold: card.threshold,
    };
    match place {
        Some(place) => entries[place] = entry,
        None => entries.push(entry),
    }
    let text = serde_json::to_string_pretty(&entries)? + "\n";
    Ok(output::write(index, text.as_bytes())?)
}
