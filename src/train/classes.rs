//! Fine-tuning on other classes: a new class head for the categories of label files.
//!
//! Everything but the class head stays as it was trained. Classes that the model has by name keep their rows of it; the others begin as in a
//! new network (`fresh.rs`): a sigmoid's bias as the focal loss wants it, so that a first step doesn't unlearn what the model knows.

use super::fresh::fresh;
use super::run::State;
use crate::config::{ClassActivation, Config, Label};
use crate::error::{Error, Result};
use crate::eval::coco::categories::by_name;
use crate::eval::coco::dataset::{Category, Dataset};
use crate::eval::coco::detections::{is_list, read_detections};
use crate::weights::HostTensor;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The tensors with a row for each class. Only a network in training has all of them.
const TENSORS: [&str; 5] = ["class_head.weight", "class_head.bias", "training.dense.class.weight", "training.dense.class.bias", "training.label"];

/// What label files say that there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// All categories, each name once; in the order of their numbers.
    pub labels: Vec<Label>,
    /// The names of those that have boxes.
    pub with_boxes: BTreeSet<String>,
}

impl Declared {
    /// A category's number is its id where that is a whole number that no other has, and else a new one. A list of detections is of the
    /// categories of the file before it.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut names: Vec<(Option<u32>, String)> = Vec::new();
        let mut with_boxes = BTreeSet::new();
        let mut before = Dataset::default();
        for file in files {
            if is_list(file)? {
                let places = read_detections(file)?.0.into_iter().filter_map(|found| Some(before.places(&found).ok()?.1));
                with_boxes.extend(places.collect::<BTreeSet<usize>>().into_iter().map(|place| before.categories[place].name.clone()));
                continue;
            }
            before = Dataset::open(file)?;
            let places: BTreeSet<usize> = before.annotations.iter().map(|annotation| annotation.category).collect();
            with_boxes.extend(places.into_iter().map(|place| before.categories[place].name.clone()));
            for Category { id, name } in &before.categories {
                if names.iter().all(|(_, other)| other != name) {
                    let number = id.as_label().filter(|number| names.iter().all(|(taken, _)| *taken != Some(*number)));
                    names.push((number, name.clone()));
                }
            }
        }
        let mut next = names.iter().filter_map(|(number, _)| *number).max().unwrap_or(0);
        let mut labels = Vec::with_capacity(names.len());
        for (number, name) in names {
            let id = match number {
                Some(number) => number,
                None => {
                    next = next.checked_add(1).ok_or_else(|| Error::Config(format!("category {name:?} can't be numbered: the ids are too large")))?;
                    next
                }
            };
            labels.push(Label { id, name });
        }
        labels.sort_by_key(|label| label.id);
        Ok(Self { labels, with_boxes })
    }

    /// The categories with boxes of which a model has no class, by name.
    pub fn unknown(&self, classes: &[Label]) -> Vec<&str> {
        let known = by_name(&categories(classes), &self.labels);
        self.labels
            .iter()
            .zip(known)
            .filter(|(label, known)| known.is_none() && self.with_boxes.contains(&label.name))
            .map(|(label, _)| &*label.name)
            .collect()
    }
}

/// For each of the new classes that of the old ones which has its name.
pub(super) fn known_by_name(old: &[Label], new: &[Label]) -> Vec<Option<usize>> {
    by_name(&categories(old), new)
}

/// Classes as they are compared with other names.
fn categories(classes: &[Label]) -> Vec<Category> {
    classes.iter().map(|label| Category { id: label.id.into(), name: label.name.clone() }).collect()
}

/// Gives a network that is to be trained a class head for these classes; how many of them it knew.
pub fn replace(config: &mut Config, state: &mut State, labels: Vec<Label>, seed: u64) -> Result<usize> {
    let old = known_by_name(&config.labels, &labels);
    let no_object = usize::from(config.class_activation == ClassActivation::Softmax);
    let mut new = config.clone();
    (new.classes, new.labels) = (labels.len() + no_object, labels);
    let begun = fresh(new.clone(), &state.weights, seed)?.weights;
    for name in TENSORS {
        let (Some(before), Some(tensor)) = (state.weights.tensors.get(name), begun.tensors.get(name)) else { continue };
        let (before, mut rows) = (before.to_f32(), tensor.to_f32().into_owned());
        let width = rows.len() / new.classes;
        // What is no object still is none.
        let last = (no_object == 1).then_some((new.classes - 1, config.classes - 1));
        for (row, from) in old.iter().enumerate().filter_map(|(row, from)| Some((row, (*from)?))).chain(last) {
            rows[row * width..(row + 1) * width].copy_from_slice(&before[from * width..(from + 1) * width]);
        }
        let shape = tensor.shape.clone();
        state.weights.insert(name, HostTensor::f32(&shape, rows));
        state.moments.0.remove(name);
        state.average.values.remove(name);
    }
    let known = old.iter().flatten().count();
    state.provenance.push(format!("given a new class head for {} classes, {known} of them as they were", new.labels.len()));
    *config = new;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Attention, Backbone, DecoderLayer, EfficientNetLite, InvertedResidual};
    use crate::train::network;
    use crate::train::optimiser::Moment;
    use serde_json::{Value, json};

    fn labels(names: &[&str]) -> Vec<Label> {
        (0..).zip(names).map(|(id, name)| Label { id, name: (*name).into() }).collect()
    }

    /// A small network in training, whose class tensors are numbered.
    fn network(class_activation: ClassActivation, anchored: bool) -> (Config, State) {
        let attention = Attention { heads: 2, head_width: 4 };
        let block = InvertedResidual { expansion: None, kernel: 3, stride: 2, channels: 4, residual: false };
        let config = Config {
            d_model: 8,
            encoder: vec![],
            decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 8 }],
            queries: 3,
            classes: 3 + usize::from(class_activation == ClassActivation::Softmax),
            class_activation,
            query_content: anchored,
            box_reference: anchored,
            labels: labels(&["person", "dog", "chair"]),
            ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }))
        };
        let parent = crate::checkpoint::random(config.clone(), "parent", 1).weights;
        let mut state = State::new(fresh(config.clone(), &parent, 2).unwrap().weights);
        for name in TENSORS {
            if let Some(tensor) = state.weights.tensors.get_mut(name) {
                let shape = tensor.shape.clone();
                *tensor = HostTensor::f32(&shape, (0..shape.iter().product()).map(|i: usize| i as f32).collect());
                state.moments.0.insert(name.into(), Moment::default());
                state.average.values.insert(name.into(), vec![]);
            }
        }
        state.average.values.insert("decoder.norm.bias".into(), vec![0.5; 8]);
        (config, state)
    }

    #[test]
    fn known_classes_keep_their_rows_and_others_begin_as_new_ones() {
        for (activation, anchored) in [(ClassActivation::Sigmoid, true), (ClassActivation::Softmax, true), (ClassActivation::Sigmoid, false)] {
            let (mut config, mut state) = network(activation, anchored);
            let before = state.clone();
            let no_object = config.classes - 3;
            assert_eq!(replace(&mut config, &mut state, labels(&["dent", "Chair", "hole", "person", "scratch"]), 5).unwrap(), 2);
            assert_eq!((config.classes, config.labels[0].name.as_str()), (5 + no_object, "dent"));
            network::check(&config, &state.weights).unwrap();
            let rows =
                |state: &State, name: &str, row: usize, width: usize| state.weights.tensors[name].to_f32()[row * width..(row + 1) * width].to_vec();
            let tensors = TENSORS.iter().filter(|name| before.weights.tensors.contains_key(**name));
            assert_eq!(tensors.clone().count(), if anchored { 5 } else { 2 });
            for name in tensors {
                let width = before.weights.tensors[*name].to_f32().len() / (3 + no_object);
                for (new, old) in [(1, 2), (3, 0)].into_iter().chain((no_object > 0).then_some((5, 3))) {
                    assert_eq!(rows(&state, name, new, width), rows(&before, name, old, width), "{name}");
                }
                let new = rows(&state, name, 0, width);
                match (name.ends_with("bias"), activation) {
                    // The probability of 0.01 that the focal loss begins with.
                    (true, ClassActivation::Sigmoid) => assert!((new[0] + 99f32.ln()).abs() < 1e-5, "{new:?}"),
                    (true, ClassActivation::Softmax) => assert_eq!(new, [0.0]),
                    _ => assert!(new.iter().all(|x| x.abs() < 2.0) && new != rows(&state, name, 2, width), "{name}: {new:?}"),
                }
                assert!(!state.moments.0.contains_key(*name) && !state.average.values.contains_key(*name), "{name}");
            }
            // All else stays.
            for (name, tensor) in before.weights.tensors.iter().filter(|(name, _)| !TENSORS.contains(&name.as_str())) {
                assert_eq!(state.weights.tensors[name], *tensor, "{name}");
            }
            assert_eq!(state.average.values.len(), 1);
            assert!(state.provenance[0].contains("5 classes, 2 of them"), "{:?}", state.provenance);
        }
        let (mut config, mut state) = network(ClassActivation::Sigmoid, false);
        assert!(replace(&mut config, &mut state, vec![], 5).is_err());
    }

    fn declared(files: &[Value]) -> Declared {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..files.len()).map(|i| folder.path().join(format!("{i}.json"))).collect();
        paths.iter().zip(files).for_each(|(path, file)| std::fs::write(path, file.to_string()).unwrap());
        Declared::open(&paths).unwrap()
    }

    #[test]
    fn files_declare_each_name_once_and_numbers_that_no_other_has() {
        let file = |categories: &[(Value, &str)], boxes: &[Value]| {
            let categories: Vec<Value> = categories.iter().map(|(id, name)| json!({ "id": id, "name": name })).collect();
            let boxes: Vec<Value> = boxes.iter().map(|id| json!({ "image_id": 1, "category_id": id, "bbox": [0, 0, 5, 5] })).collect();
            json!({ "images": [{ "id": 1, "file_name": "a" }], "categories": categories, "annotations": boxes })
        };
        let people = file(&[(json!(3), "dent"), (json!(0), "scratch")], &[json!(3)]);
        let others = file(&[(json!(3), "hole"), (json!("x"), "rust"), (json!(-1), "dent")], &[]);
        let list = json!([{ "image_id": 1, "category_id": "x", "bbox": [0, 0, 5, 5], "score": 0.5 }]);
        let all = declared(&[people, others, list]);
        let numbered: Vec<(u32, &str)> = all.labels.iter().map(|label| (label.id, &*label.name)).collect();
        assert_eq!(numbered, [(0, "scratch"), (3, "dent"), (4, "hole"), (5, "rust")]);
        assert!(all.with_boxes.iter().eq(["dent", "rust"]), "{:?}", all.with_boxes);
        assert_eq!(all.unknown(&labels(&["Dent", "person"])), ["rust"]);
        assert_eq!(all.unknown(&labels(&["dent", "rust"])), [""; 0]);
        // Where no id is a number, they are counted from 1.
        let texts = declared(&[file(&[(json!("b"), "two"), (json!("a"), "one")], &[])]);
        assert_eq!(texts.labels, [Label { id: 1, name: "one".into() }, Label { id: 2, name: "two".into() }]);
    }
}
