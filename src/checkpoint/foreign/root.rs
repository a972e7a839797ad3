//! Finds a network's tensors among a file's names: under whatever keys and prefixes they lie.
//!
//! Programs and wrappers put something before every name: DataParallel `module.`, torch.compile `_orig_mod.`, Lightning the attribute that
//! holds the network, PEFT `base_model.model.`, a checkpoint's dictionary `model.` or `ema.module.`. None of these is looked for: of all
//! beginnings that the file's names have, the one is taken after which most names are of the network.

use super::Contents;
use crate::checkpoint::tensors::RawTensor;
use std::collections::{BTreeMap, HashMap};

/// More parts than come before a tensor's own name.
const MAX_PARTS: usize = 8;
/// What wrappers of parts put into names, anywhere: torch.compile, FSDP, activation checkpointing.
const INSERTED: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A tensor and what its file calls it.
#[derive(Clone)]
pub struct Named<'a> {
    pub foreign: String,
    pub tensor: RawTensor<'a>,
}

/// A network's tensors by their names after the root, and what else lies beside them.
#[derive(Default)]
pub struct Rooted<'a> {
    pub tensors: BTreeMap<String, Named<'a>>,
    /// What comes before the names in the file.
    pub root: String,
    /// Names in the same container that don't begin with the root.
    pub beside: Vec<String>,
    /// Another root after which there is as much of the network.
    pub other: Option<String>,
}

/// The network's tensors, where `known` tells whether a name is one of the network's.
pub fn find<'a>(contents: Contents<'a>, known: impl Fn(&str) -> bool) -> Result<Rooted<'a>, String> {
    let mut plain: BTreeMap<String, (String, Result<RawTensor<'a>, String>)> = BTreeMap::new();
    for (foreign, tensor) in contents.tensors {
        let name = without_inserted(&foreign);
        if let Some((other, _)) = plain.insert(name, (foreign.clone(), tensor)) {
            return Err(format!("tensors {other} and {foreign} are the same part of the network"));
        }
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in plain.keys() {
        for root in beginnings(name).filter(|root| known(&name[root.len()..])) {
            *counts.entry(root).or_default() += 1;
        }
    }
    // Of equal ones the running mean of the weights, which is what is evaluated; then the shortest.
    let rank = |(root, count): (&&str, &usize)| (*count, is_average(root), std::cmp::Reverse((root.len(), root.to_string())));
    let best = counts.iter().max_by_key(|&entry| rank(entry));
    let (root, count) = best.map_or((String::new(), 0), |(root, count)| (root.to_string(), *count));
    let equal = |(other, found): &(&&str, &usize)| **found == count && !other.starts_with(&root) && !root.starts_with(**other);
    let other = counts.iter().filter(equal).map(|(other, _)| other.to_string()).min();
    drop(counts);
    let container = contents.containers.into_iter().find(|container| root.starts_with(container.as_str())).unwrap_or_default();
    let mut found = Rooted { root, other, ..Rooted::default() };
    for (name, (foreign, tensor)) in plain {
        match name.strip_prefix(&found.root) {
            Some(inner) => {
                let tensor = tensor.map_err(|problem| format!("tensor {foreign}: {problem}"))?;
                found.tensors.insert(inner.into(), Named { foreign, tensor });
            }
            None if name.starts_with(&container) => found.beside.push(foreign),
            None => {}
        }
    }
    Ok(found)
}

/// Whether a root is that of a running mean of the weights, as programs call it.
pub fn is_average(root: &str) -> bool {
    root.split(['.', '_']).any(|part| part == "ema" || part == "average" || part == "averaged")
}

fn without_inserted(name: &str) -> String {
    if !INSERTED.iter().any(|inserted| name.contains(inserted)) {
        return name.into();
    }
    name.split('.').filter(|part| !INSERTED.contains(part)).collect::<Vec<_>>().join(".")
}

/// `""`, `"a."`, `"a.b."` of `a.b.c`.
fn beginnings(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(name.match_indices('.').take(MAX_PARTS).map(|(at, _)| &name[..=at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::Dtype;

    fn found(names: &[&str], containers: &[&str]) -> Rooted<'static> {
        let tensor = RawTensor::contiguous(Dtype::F32, vec![0], &[]).unwrap();
        let tensors = names.iter().map(|name| (name.to_string(), Ok(tensor.clone()))).collect();
        let contents = Contents { tensors, containers: containers.iter().map(|c| c.to_string()).collect(), ..Contents::default() };
        find(contents, |name| matches!(name, "conv.weight" | "model.layer.weight" | "layer.weight" | "head.weight")).unwrap()
    }

    #[test]
    fn whatever_all_names_begin_with_is_the_root() {
        for root in ["", "module.", "_orig_mod.", "net.", "base_model.model.", "state_dict.model.module.", "a.b.c.d.", "weights."] {
            let names = ["conv.weight", "model.layer.weight", "head.weight"].map(|name| format!("{root}{name}"));
            let found = found(&names.each_ref().map(|name| &name[..]), &[]);
            assert_eq!(found.tensors.keys().collect::<Vec<_>>(), ["conv.weight", "head.weight", "model.layer.weight"], "{root}");
            assert_eq!(found.tensors["head.weight"].foreign, format!("{root}head.weight"));
        }
        let found = found(&["model._orig_mod.layer._checkpoint_wrapped_module.weight"], &[]);
        assert_eq!(found.tensors.keys().collect::<Vec<_>>(), ["model.layer.weight"]);
    }

    #[test]
    fn of_equal_roots_the_average_is_taken() {
        for average in ["ema.module.", "model_ema.", "ema_model."] {
            let names = ["model.conv.weight", "model.head.weight", &format!("{average}conv.weight"), &format!("{average}head.weight")];
            let found = found(&names, &["model.", "optimizer."]);
            assert_eq!((&found.root[..], found.other.as_deref()), (average, Some("model.")));
        }
        // Less than the whole is no network.
        let found = found(&["model.conv.weight", "model.head.weight", "ema.conv.weight"], &[]);
        assert_eq!((&found.root[..], found.other), ("model.", None));
    }

    #[test]
    fn what_lies_beside_the_network_is_told_apart_from_other_containers() {
        let found = found(&["model.detr.conv.weight", "model.detr.head.weight", "model.mask.weight", "optimizer.x"], &["model.", "optimizer."]);
        assert_eq!((&found.root[..], &found.beside[..]), ("model.detr.", &["model.mask.weight".to_string()][..]));
    }

    #[test]
    fn a_broken_tensor_counts_only_where_it_is_needed() {
        let tensor = RawTensor::contiguous(Dtype::F32, vec![0], &[]).unwrap();
        let tensors =
            |broken: &str| BTreeMap::from([("a.head.weight".to_string(), Ok(tensor.clone())), (broken.into(), Err("its storage is missing".into()))]);
        let find =
            |broken| super::find(Contents { tensors: tensors(broken), ..Contents::default() }, |name| name == "head.weight").map(|found| found.root);
        assert_eq!(find("optimizer.x"), Ok("a.".into()));
        assert_eq!(find("a.x"), Err("tensor a.x: its storage is missing".into()));
    }
}
