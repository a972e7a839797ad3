//! Where a checkpoint lies on the disk: a file, the shards that an index lists, or a folder as transformers, its Trainer or Hugging Face's
//! cache have it.

use super::Beside;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// What a folder's weights are called, the first that is there.
const NAMES: [&str; 4] = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Endings of files that may hold weights, the better ones first.
const ENDINGS: [&str; 5] = ["safetensors", "pth", "pt", "ckpt", "bin"];
/// What lies beside weights and has such an ending.
const NO_WEIGHTS: [&str; 5] = ["optimizer", "scheduler", "scaler", "training_args", "rng_state"];
/// Weights in forms that aren't read, and what they are.
const UNREAD: [(&str, &str); 6] = [
    ("adapter_model.safetensors", "an adapter of PEFT's: merge it into its model first (merge_and_unload) and save that"),
    ("tf_model.h5", "weights for TensorFlow"),
    ("flax_model.msgpack", "weights for Flax"),
    ("model.onnx", "an ONNX model"),
    ("saved_model.pb", "a SavedModel of TensorFlow's"),
    ("model.pdparams", "weights for Paddle"),
];
const INDEX: &str = ".index.json";
/// More shards than any checkpoint is divided into.
const MAX_SHARDS: usize = 1000;

/// The files of a checkpoint: one, or all its shards (after their index).
#[derive(Debug, PartialEq)]
pub struct Files {
    /// What to call it in messages, and where the texts beside it lie.
    pub main: PathBuf,
    pub weights: Vec<PathBuf>,
}

pub fn find(path: &Path) -> Result<Files> {
    let fail = |problem: String| Err(Error::Checkpoint { file: path.display().to_string(), problem });
    if !path.exists() {
        return fail(format!("No such file or folder{}", hub(path)));
    }
    if path.is_dir() {
        return match in_folder(path)? {
            Ok(main) => of_file(main),
            Err(problem) => fail(problem),
        };
    }
    of_file(path.into())
}

/// How to get what looks like a name on Hugging Face's hub.
fn hub(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain =
        |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let file = ENDINGS.iter().any(|ending| text.ends_with(&format!(".{ending}")));
    match text.split_once('/') {
        Some((owner, name)) if plain(owner) && plain(name) && !file => {
            format!(" (is it a name on Hugging Face? `hf download {text} --local-dir {name}` makes it a folder to give)")
        }
        _ => String::new(),
    }
}

fn of_file(main: PathBuf) -> Result<Files> {
    let weights = if main.to_string_lossy().ends_with(INDEX) { shards(&main)? } else { vec![main.clone()] };
    Ok(Files { main, weights })
}

/// The shards that an index lists, which all must be there.
fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let fail = |problem: String| Error::Checkpoint { file: index.display().to_string(), problem };
    let text = text(index)?.unwrap_or_default();
    let Index { weight_map } = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(fail(format!("its weight_map lists {} files", names.len())));
    }
    let mut files = Vec::new();
    for name in &names {
        // Nothing outside of the folder, whatever the index says.
        if !matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
            return Err(fail(format!("it lists {name:?}, which is no file beside it")));
        }
        let file = index.with_file_name(name);
        if !file.is_file() {
            return Err(fail(format!("it lists {} files, of which {name} is missing beside it: download all of them", names.len())));
        }
        files.push(file);
    }
    Ok(files)
}

/// A folder's weights, or what is wrong with it.
fn in_folder(folder: &Path) -> Result<Result<PathBuf, String>> {
    if let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(Ok(file));
    }
    let fail = |source| Error::Io { file: folder.display().to_string(), source };
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() { folders.push(name) } else { files.push(name) }
    }
    files.sort();
    let adapter = files.iter().any(|name| name == UNREAD[0].0);
    for ending in ENDINGS.iter().filter(|_| !adapter) {
        let holds = |name: &&String| {
            name.ends_with(&format!(".{ending}")) && !NO_WEIGHTS.iter().any(|other| name.starts_with(other)) && !name.starts_with('.')
        };
        match &files.iter().filter(holds).collect::<Vec<_>>()[..] {
            [] => {}
            [one] => return Ok(Ok(folder.join(one))),
            several => return Ok(Err(format!("the folder holds several: give one of {}", list(several)))),
        }
    }
    // Hugging Face's cache keeps a repository's files under the commit that they are of.
    if folders.iter().any(|name| name == "snapshots") {
        return in_snapshots(&folder.join("snapshots"));
    }
    let mut steps: Vec<(u64, &String)> = folders.iter().filter_map(|name| Some((name.strip_prefix("checkpoint-")?.parse().ok()?, name))).collect();
    steps.sort();
    if let Some((_, last)) = steps.last() {
        let best = best_of(&folder.join(last)).filter(|best| folders.contains(best));
        let best = best.map(|best| format!("; the best of them was {best}, says trainer_state.json")).unwrap_or_default();
        let names: Vec<&String> = steps.iter().rev().map(|(_, name)| *name).collect();
        return Ok(Err(format!("the folder is a Trainer's and holds no weights itself: give one of its checkpoints, {}{best}", list(&names))));
    }
    if let Some((name, what)) = UNREAD.iter().find(|(name, _)| files.iter().any(|file| file == name)) {
        return Ok(Err(format!("the folder holds no weights that detrim reads (model.safetensors, pytorch_model.bin), but {name}: {what}")));
    }
    Ok(Err(format!("the folder holds no weights: none of {}, nor any other .safetensors or .pth", NAMES.join(", "))))
}

fn in_snapshots(snapshots: &Path) -> Result<Result<PathBuf, String>> {
    let fail = |source| Error::Io { file: snapshots.display().to_string(), source };
    let entries = std::fs::read_dir(snapshots).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    match &entries[..] {
        [one] if one.path().is_dir() && !one.path().join("snapshots").exists() => in_folder(&one.path()),
        _ => Ok(Err("the folder is one of Hugging Face's cache: give one of its snapshots/".into())),
    }
}

/// What a Trainer's state calls the best checkpoint, without its folder.
fn best_of(checkpoint: &Path) -> Option<String> {
    let state: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(checkpoint.join("trainer_state.json")).ok()?).ok()?;
    Some(Path::new(state.get("best_model_checkpoint")?.as_str()?).file_name()?.to_string_lossy().into_owned())
}

fn list(names: &[&String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, …") } else { shown }
}

impl Files {
    /// The texts beside it.
    pub fn beside(&self) -> Result<Beside> {
        let read = |name: &str| text(&self.main.with_file_name(name));
        let preprocessor = match read("preprocessor_config.json")? {
            Some(text) => Some(text),
            None => read("processor_config.json")?.filter(|text| text.contains("\"image_processor\"")),
        };
        Ok(Beside { config: read("config.json")?, preprocessor })
    }

    /// What a checkpoint without a name of its own is called: as its file, or as its folder where the file is called as all are.
    pub fn name(&self) -> String {
        let common = self.main.file_name().is_some_and(|name| NAMES.iter().any(|common| name == *common));
        let name = if common { self.main.parent().and_then(Path::file_name) } else { self.main.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A text, if the file is there.
fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { file: path.display().to_string(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a folder of these files.
    fn found(files: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let (name, content) = file.split_once('=').unwrap_or((file, ""));
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let relative = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        find(folder.path()).map(|files| files.weights.into_iter().map(relative).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folders_weights_are_found_under_any_name() {
        for (files, expected) in [
            (&["config.json", "model.safetensors", "pytorch_model.bin"][..], &["model.safetensors"][..]),
            (&["pytorch_model.bin", "training_args.bin", "best.pt"], &["pytorch_model.bin"]),
            (&["best.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"], &["best.safetensors"]),
            (&["checkpoint0299.pth", "log.txt"], &["checkpoint0299.pth"]),
            (&["blobs/1", "refs/main", "snapshots/1f/model.safetensors", "snapshots/1f/config.json"], &["snapshots/1f/model.safetensors"]),
            (
                &[
                    "model.safetensors.index.json={\"weight_map\": {\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\", \"c\": \"m-1.safetensors\"}}",
                    "m-1.safetensors",
                    "m-2.safetensors",
                ],
                &["m-1.safetensors", "m-2.safetensors"],
            ),
        ] {
            let found = found(files);
            let expected: Vec<String> = expected.iter().map(|name| name.to_string()).collect();
            assert_eq!(found, Ok(expected), "{files:?}");
        }
    }

    #[test]
    fn a_folder_without_weights_says_what_it_holds() {
        let state = "checkpoint-1000/trainer_state.json={\"best_model_checkpoint\": \"./out/checkpoint-500\"}";
        for (files, words) in [
            (
                &["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors", state, "README.md"][..],
                &["checkpoint-1000, checkpoint-500", "best of them was checkpoint-500"][..],
            ),
            (&["a.safetensors", "b.safetensors"], &["give one of a.safetensors, b.safetensors"]),
            (&["adapter_model.safetensors"], &["adapter", "merge"]),
            (&["tf_model.h5", "config.json"], &["tf_model.h5", "TensorFlow"]),
            (&["README.md"], &["model.safetensors"]),
            (
                &["model.safetensors.index.json={\"weight_map\": {\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\"}}", "m-1.safetensors"],
                &["2 files", "m-2.safetensors is missing"],
            ),
            (&["model.safetensors.index.json={\"weight_map\": {\"a\": \"../m.safetensors\"}}"], &["\"../m.safetensors\"", "beside"]),
            (&["model.safetensors.index.json={\"weight_map\": {\"a\": \"/etc/passwd\"}}"], &["/etc/passwd"]),
            (&["model.safetensors.index.json={}"], &["weight_map"]),
            (&["model.safetensors.index.json={\"weight_map\": {}}"], &["0 files"]),
        ] {
            let problem = found(files).unwrap_err();
            assert!(words.iter().all(|word| problem.contains(word)), "{files:?}: {problem}");
        }
    }

    #[test]
    fn a_name_on_the_hub_is_no_file() {
        let problem = |path: &str| find(Path::new(path)).unwrap_err().to_string();
        assert!(problem("facebook/detr-resnet-50").contains("hf download facebook/detr-resnet-50 --local-dir detr-resnet-50"));
        for path in ["nowhere.safetensors", "run/best.safetensors", "/a/b", "a/b/c", "../b"] {
            assert_eq!(problem(path), format!("{path}: No such file or folder"));
        }
    }
}
