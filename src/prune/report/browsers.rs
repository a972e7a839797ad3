//! Times in a browser, as `node tests/browser/report.js` measures them for the networks of a report's folder.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How fast networks are in one browser, on whatever it could compute with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Browsers {
    /// Name and version.
    pub browser: String,
    pub wasm: Option<Turns>,
    pub webgpu: Option<Turns>,
}

/// Networks that took turns: the parent, one after another of the others, the parent again …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// The GPU's name as far as the browser tells it.
    pub adapter: String,
    /// The adapter is a program on the processor: its times say nothing about graphics processors.
    pub software: bool,
    pub rounds: usize,
    /// By their names in the report, the parent among them.
    pub networks: BTreeMap<String, Turn>,
}

/// One network's times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Of its file.
    pub sha256: String,
    /// The median, in milliseconds.
    pub ms: f64,
    /// The median of its time over the parent's, round by round.
    pub ratio: f64,
}

/// What a report's row tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Browser {
    pub wasm: Option<Time>,
    pub webgpu: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    pub ms: f64,
    pub ratio: f64,
}

impl Browsers {
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { file: file.clone(), source })?;
        let found = serde_json::from_slice::<Self>(&bytes).map_err(|error| error.to_string());
        found.and_then(Self::checked).map_err(|problem| Error::Times { file, problem })
    }

    /// Refuses what can't have been measured.
    fn checked(self) -> Result<Self, String> {
        if self.wasm.is_none() && self.webgpu.is_none() {
            return Err("there is neither wasm nor webgpu".into());
        }
        for (name, turns) in self.places() {
            if turns.rounds == 0 {
                return Err(format!("{name}: no rounds"));
            }
            if !turns.networks.contains_key("parent") {
                return Err(format!("{name}: the network `parent` is missing"));
            }
            let odd = turns.networks.iter().find(|(_, Turn { ms, ratio, .. })| ![ms, ratio].iter().all(|x| x.is_finite() && **x > 0.0));
            if let Some((network, Turn { ms, ratio, .. })) = odd {
                return Err(format!("{name}: {network} has {ms} ms and the ratio {ratio}, which must be above 0"));
            }
        }
        Ok(self)
    }

    /// Where there are times, by name.
    fn places(&self) -> impl Iterator<Item = (&'static str, &Turns)> {
        [("wasm", &self.wasm), ("webgpu", &self.webgpu)].into_iter().filter_map(|(name, turns)| Some((name, turns.as_ref()?)))
    }

    /// The times of the network in a file. `None` where there are none; an error where they are of another file.
    pub fn of(&self, network: &str, sha256: &str) -> Result<Option<Browser>, String> {
        let time = |turns: &Option<Turns>| {
            let turn = turns.as_ref().and_then(|turns| turns.networks.get(network));
            match turn {
                Some(turn) if turn.sha256 != sha256 => Err(format!("the times of {network} in a browser are of another file: measure anew")),
                turn => Ok(turn.map(|turn| Time { ms: turn.ms, ratio: turn.ratio })),
            }
        };
        let found = Browser { wasm: time(&self.wasm)?, webgpu: time(&self.webgpu)? };
        Ok(Some(found).filter(|found| found.wasm.is_some() || found.webgpu.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn times() -> Value {
        let turns = |ratio: f64| {
            json!({ "adapter": "CPU", "software": false, "rounds": 3, "networks": {
                "parent": { "sha256": "aa", "ms": 20.0, "ratio": 1.0 },
                "layers": { "sha256": "bb", "ms": 11.0, "ratio": ratio },
            }})
        };
        json!({ "browser": "Chromium 1", "wasm": turns(0.5), "webgpu": turns(0.25) })
    }

    fn read(value: &Value) -> Result<Browsers> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("times.json");
        std::fs::write(&file, value.to_string()).unwrap();
        Browsers::open(&file)
    }

    #[test]
    fn times_are_found_by_name_and_file() {
        let found = read(&times()).unwrap();
        let layers = found.of("layers", "bb").unwrap().unwrap();
        assert_eq!((layers.wasm.unwrap().ratio, layers.webgpu.unwrap().ratio), (0.5, 0.25), "the paired ratio, not that of the medians");
        assert_eq!(found.of("heads", "cc").unwrap(), None);
        assert!(found.of("layers", "cc").unwrap_err().contains("another file"));
    }

    #[test]
    fn what_is_no_measurement_is_refused_by_name() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut value = times();
            change(&mut value);
            read(&value).unwrap_err().to_string()
        };
        for (error, expected) in [
            (with(&|value| *value = json!({ "layers": { "wasm": 90.5 } })), "unknown field `layers`"),
            (with(&|value| value["wasm"]["rounds"] = 0.into()), "wasm: no rounds"),
            (with(&|value| drop(value["webgpu"]["networks"].as_object_mut().unwrap().remove("parent"))), "`parent` is missing"),
            (with(&|value| value["wasm"]["networks"]["layers"]["ms"] = (-1.0).into()), "layers has -1 ms"),
            (with(&|value| *value = json!({ "browser": "Chromium 1" })), "neither wasm nor webgpu"),
        ] {
            assert!(error.contains("times.json") && error.contains(expected), "{error}");
        }
    }
}
