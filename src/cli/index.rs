//! `models/index.json`: what embedded models there are, for the page and for whoever downloads them.

use anyhow::{Context, Result};
use detrim::Config;
use detrim::checkpoint::Card;
use detrim::{hash, output};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
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
    /// What else somebody has written there.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What was measured, and on which pictures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Metrics {
    pub on: String,
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// Enters a model file into the index, in place of an entry of the same name. Without `metrics` those of the old entry stay.
pub fn update(index: &Path, model: &Path, config: &Config, card: &Card, metrics: Option<Metrics>) -> Result<()> {
    let directory = index.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Until this is dropped: what another command enters meanwhile would be lost.
    let _turn = lock(index, directory)?;
    let mut entries: Vec<Entry> = match std::fs::read(index) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} can't be understood", index.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| index.display().to_string()),
    };
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
        labels: config.labels.iter().filter(|label| !label.is_gap()).map(|label| label.name.clone()).collect(),
        metrics: metrics.or(old).unwrap_or_default(),
        licence: card.licence.clone(),
        threshold: card.threshold,
        more: Map::new(),
    };
    match place {
        Some(place) => entries[place] = Entry { more: std::mem::take(&mut entries[place].more), ..entry },
        None => entries.push(entry),
    }
    let text = serde_json::to_string_pretty(&entries)? + "\n";
    Ok(output::write(index, text.as_bytes())?)
}

/// Waits for the index's turn. The lock is its directory's, since each update is another file of the same name.
#[cfg(unix)]
fn lock(index: &Path, directory: &Path) -> Result<File> {
    let name = || format!("{} can't be locked", index.display());
    let lock = File::open(directory).with_context(name)?;
    lock.lock().with_context(name)?;
    Ok(lock)
}

/// Where directories can't be opened, a file beside it stands for them.
#[cfg(not(unix))]
fn lock(index: &Path, _: &Path) -> Result<File> {
    let name = || format!("{} can't be locked", index.display());
    let lock = File::create(index.with_extension("lock")).with_context(name)?;
    lock.lock().with_context(name)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use detrim::checkpoint::{self, Guess};

    fn config() -> Config {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/detr-lite0-speed.safetensors");
        checkpoint::open(&file, &Guess::default()).unwrap().config
    }

    #[test]
    fn what_several_commands_enter_at_once_is_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.json");
        let names: Vec<String> = (0..12).map(|n| format!("model-{n}")).collect();
        let config = config();
        std::thread::scope(|scope| {
            for name in &names {
                let (index, config) = (&index, &config);
                let file = folder.path().join(format!("{name}.safetensors"));
                std::fs::write(&file, name).unwrap();
                scope.spawn(move || update(index, &file, config, &Card { name: name.clone(), ..Card::default() }, None).unwrap());
            }
        });
        let entries: Vec<Entry> = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        let mut found: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        found.sort();
        let mut names = names;
        names.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn what_else_an_entry_says_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (index, file) = (folder.path().join("index.json"), folder.path().join("m.safetensors"));
        std::fs::write(&file, "weights").unwrap();
        let config = config();
        let card = Card { name: "m".into(), ..Card::default() };
        update(&index, &file, &config, &card, Some(Metrics { on: "val".into(), values: BTreeMap::from([("AP".into(), 0.5)]) })).unwrap();
        let text = std::fs::read_to_string(&index).unwrap().replacen('{', "{ \"note\": \"mine\",", 1);
        std::fs::write(&index, text).unwrap();
        update(&index, &file, &config, &card, None).unwrap();
        let entries: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        assert_eq!((entries[0]["note"].as_str(), entries[0]["metrics"]["on"].as_str()), (Some("mine"), Some("val")));
    }
}
