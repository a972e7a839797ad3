//! What a pickle holds, by name: the tensors of dictionaries and modules within each other, and what a training program was started with.
//!
//! Programs keep a state dict under keys of their own (`model`, `ema.module`, `state_dict`) and put prefixes before its names; to a reader
//! both are parts of a name. So the tensors come as one list, under the keys that lead to them joined by dots. A whole module that was
//! pickled (`torch.save(model)`) holds its tensors in `_parameters`, `_buffers` and `_modules`, which are left out of the names.

use super::pickle::Pickle;
use super::value::{Id, TensorRef, Value};
use serde_json::{Map, Number, Value as Json};
use std::collections::VecDeque;

/// Deeper than modules lie within each other.
const MAX_DEPTH: usize = 24;
/// Longer than any tensor's name.
const MAX_NAME: usize = 300;
/// More than any detector with its optimiser has.
const MAX_TENSORS: usize = 100_000;
/// Where programs keep what they were started with; the first that has an entry counts.
const OPTIONS: [&str; 9] = ["args", "hyper_parameters", "hparams", "cfg", "config", "opt", "train_args", "model_args", "meta"];
/// More than any program has options.
const MAX_OPTIONS: usize = 10_000;

/// The tensors that have names, in the order of the file. Keys that are no texts (an optimiser's state has numbers) lead nowhere.
pub fn tensors<'p>(pickle: &'p Pickle) -> Result<Vec<(String, &'p TensorRef)>, String> {
    let mut found = Vec::new();
    // What several names lead to is walked through once: sharing can't make the list longer than the file.
    let mut seen = vec![false; pickle.values().len()];
    let mut waiting = VecDeque::from([(pickle.root, String::new(), 0)]);
    while let Some((id, prefix, depth)) = waiting.pop_front() {
        let Some(seen) = seen.get_mut(id as usize) else { continue };
        if std::mem::replace(seen, true) {
            continue;
        }
        for &(key, value) in pickle.entries(id).unwrap_or_default() {
            let Some(key) = pickle.text(key).filter(|key| prefix.len() + key.len() <= MAX_NAME) else { continue };
            let of_module = matches!(pickle.value(id), Value::Object(_)) && ["_parameters", "_buffers", "_modules"].contains(&key);
            let name = if of_module { prefix.clone() } else { format!("{prefix}{key}") };
            match pickle.value(value) {
                Value::Tensor(tensor) => found.push((name, tensor)),
                Value::Dict(_) | Value::Object(_) if depth < MAX_DEPTH => {
                    let inner = if of_module { name } else { name + "." };
                    waiting.push_back((value, inner, depth + 1));
                }
                _ => {}
            }
            if found.len() > MAX_TENSORS {
                return Err(format!("it holds more than {MAX_TENSORS} tensors"));
            }
        }
    }
    Ok(found)
}

/// The keys of the outermost dictionary, for a message about a file without tensors.
pub fn keys<'a>(pickle: &Pickle<'a>) -> Vec<&'a str> {
    pickle.entries(pickle.root).unwrap_or_default().iter().filter_map(|&(key, _)| pickle.text(key)).collect()
}

/// Those of them that lead to further names, with the dot after them.
pub fn containers(pickle: &Pickle) -> Vec<String> {
    let Value::Dict(entries) = pickle.value(pickle.root) else { return Vec::new() };
    let inner = entries.iter().filter(|&&(_, value)| matches!(pickle.value(value), Value::Dict(_) | Value::Object(_)));
    inner.filter_map(|&(key, _)| pickle.text(key).filter(|key| key.len() <= MAX_NAME)).map(|key| format!("{key}.")).collect()
}

/// What the training program was started with, as far as it is made of numbers, texts and lists of them.
pub fn options(pickle: &Pickle) -> Map<String, Json> {
    let mut found = Map::new();
    let root = pickle.entries(pickle.root).unwrap_or_default();
    let under = |name: &str| root.iter().rev().find(|&&(key, _)| pickle.text(key) == Some(name)).map(|&(_, value)| value);
    let mut waiting: VecDeque<(Id, usize)> = OPTIONS.iter().filter_map(|name| under(name)).map(|id| (id, 0)).collect();
    let mut steps = 0;
    while let Some((id, depth)) = waiting.pop_front() {
        for &(key, value) in pickle.entries(id).unwrap_or_default() {
            steps += 1;
            if steps > MAX_OPTIONS {
                return found;
            }
            let Some(key) = pickle.text(key).filter(|key| key.len() <= MAX_NAME) else { continue };
            // A program's options may lie in parts, and all of them under one more name.
            if depth < 2 && pickle.entries(value).is_some() {
                waiting.push_back((value, depth + 1));
            }
            if let Some(value) = json(pickle, value) {
                found.entry(key).or_insert(value);
            }
        }
    }
    found
}

/// A value as JSON: a scalar, a list of scalars, or a dictionary of texts (names of classes by number).
fn json(pickle: &Pickle, id: Id) -> Option<Json> {
    const MAX_ITEMS: usize = 2_000;
    if let Some(value) = scalar(pickle, id) {
        return Some(value);
    }
    if let Value::Sequence(items) = pickle.value(id) {
        return items.iter().take(MAX_ITEMS).map(|&item| scalar(pickle, item)).collect::<Option<Vec<_>>>().map(Json::Array);
    }
    let entries = pickle.entries(id)?.iter().take(MAX_ITEMS);
    let entry = |&(key, value): &(Id, Id)| {
        let key = match scalar(pickle, key)? {
            Json::String(text) => text,
            Json::Number(number) => number.to_string(),
            _ => return None,
        };
        Some((key, scalar(pickle, value)?))
    };
    entries.map(entry).collect::<Option<Map<_, _>>>().filter(|map| !map.is_empty()).map(Json::Object)
}

fn scalar(pickle: &Pickle, id: Id) -> Option<Json> {
    match pickle.value(pickle.node(id)) {
        Value::Int(number) => Some((*number).into()),
        Value::Bool(value) => Some((*value).into()),
        Value::Float(number) => Number::from_f64(*number).map(Json::Number),
        Value::Text(text) => std::str::from_utf8(text).ok().filter(|text| text.len() <= 1000).map(Json::from),
        _ => None,
    }
}
