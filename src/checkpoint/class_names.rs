//! What the classes of a checkpoint of another project are called: by `config.json`, by a training program's options, or by a file that the
//! caller gives.

use crate::config::{Config, Label};
use crate::labels::COCO;
use serde_json::Value;
use std::collections::BTreeMap;

/// A longer name isn't shown whole anywhere.
const MAX_LENGTH: usize = 100;

/// Names by the number of the logit, and what says so.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassNames {
    names: BTreeMap<usize, String>,
    source: String,
    /// The numbers are ids that may have gaps at the end, too.
    sparse: bool,
}

impl ClassNames {
    /// Of a text that a person gives, `source` being its name: a name a line (an empty line is a number without a class), or JSON: a list
    /// of names, an object of names by number or of numbers by name, a `config.json` with `id2label`, or annotations with COCO's `categories`.
    pub fn parse(text: &str, source: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        if text.trim_start().starts_with(['{', '[']) {
            let value: Value = serde_json::from_str(text).map_err(|error| format!("{source}: {error}"))?;
            let inner = value.get("id2label").filter(|value| !value.is_null());
            let found = match (inner, value.get("categories").and_then(Value::as_array)) {
                (Some(id2label), _) => Self::from_json(id2label, source)?,
                (None, Some(categories)) => Self::of_categories(categories, source)?,
                (None, None) => Self::from_json(&value, source)?,
            };
            return Ok(Self { sparse: true, ..found });
        }
        let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
        while lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        let names = lines.iter().enumerate().filter(|(_, line)| !line.is_empty()).map(|(i, line)| (i, clean_name(line))).collect();
        Self { names, source: source.into(), sparse: false }.not_empty()
    }

    /// Of `id2label`, in whatever of its forms; `source` is what to call it.
    pub fn from_json(value: &Value, source: &str) -> Result<Self, String> {
        let mut names = BTreeMap::new();
        match value {
            Value::Array(list) => {
                for (number, name) in list.iter().enumerate().filter(|(_, name)| !name.is_null()) {
                    names.insert(number, text(name).ok_or_else(|| format!("{source}: entry {number} is no name"))?);
                }
            }
            // `label2id`: names lead to numbers. (An `id2label` whose names are numbers has numbers for keys.)
            Value::Object(map) if map.keys().any(|key| key.trim().parse::<usize>().is_err()) && map.values().all(Value::is_u64) => {
                for (name, number) in map {
                    names.insert(number.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX), clean_name(name));
                }
            }
            Value::Object(map) => {
                for (key, name) in map.iter().filter(|(_, name)| !name.is_null()) {
                    let number = key.trim().parse().map_err(|_| format!("{source}: the key {key:?} is no number of a class"))?;
                    names.insert(number, text(name).ok_or_else(|| format!("{source}: entry {key} is no name"))?);
                }
            }
            _ => return Err(format!("{source}: a list of names was expected, or an object of names by number")),
        }
        Self { names, source: source.into(), sparse: false }.not_empty()
    }

    /// DETR numbers its logits by the categories' ids.
    fn of_categories(categories: &[Value], source: &str) -> Result<Self, String> {
        let pair = |category: &Value| Some((usize::try_from(category.get("id")?.as_u64()?).ok()?, text(category.get("name")?)?));
        let names = categories.iter().map(|category| pair(category).ok_or_else(|| format!("{source}: a category has no id or no name")));
        Self { names: names.collect::<Result<_, _>>()?, source: source.into(), sparse: true }.not_empty()
    }

    fn not_empty(self) -> Result<Self, String> {
        if self.names.is_empty() { Err(format!("{}: it names no class", self.source)) } else { Ok(self) }
    }

    /// Whether these are the names that a config gets when nobody named its classes, or only their numbers again.
    pub fn are_placeholders(&self) -> bool {
        let placeholder = |(number, name): (&usize, &String)| *name == format!("LABEL_{number}") || *name == number.to_string();
        self.names.iter().all(placeholder)
    }

    /// Whether each of so many classes has a name, and nothing else has.
    pub fn fit(&self, classes: usize) -> bool {
        self.names.len() == classes && self.names.keys().all(|number| *number < classes)
    }

    /// Labels for the logits of so many classes. A number without a name is no class ([`Label::GAP`]); `notes` is told of it, and of names
    /// that have no logit.
    pub fn labels(&self, classes: usize, notes: &mut Vec<String>) -> Result<Vec<Label>, String> {
        let (count, source) = (self.names.len(), &self.source);
        let last = self.names.keys().next_back().copied().unwrap_or(0);
        let fits = count == classes || last.checked_add(1) == Some(classes) || (self.sparse && last < classes);
        if !fits {
            return Err(format!("{source} names {count} classes, but the class head has {classes}"));
        }
        let list = |numbers: &mut dyn Iterator<Item = String>| numbers.take(5).collect::<Vec<_>>().join(", ");
        if self.names.keys().any(|number| *number >= classes) {
            let beyond = list(&mut self.names.range(classes..).map(|(number, name)| format!("{name} ({number})")));
            notes.push(format!("{source} names {beyond}, but the class head ends with number {}: it can't be found", classes - 1));
        }
        let unnamed: Vec<usize> = (0..classes).filter(|number| !self.names.contains_key(number)).collect();
        // COCO's own numbers have gaps, which is nothing to be told.
        if !unnamed.is_empty() && !self.are_cocos() {
            let numbers = list(&mut unnamed.iter().map(usize::to_string));
            let more = if unnamed.len() > 5 { ", …" } else { "" };
            notes.push(format!("{source} has no name for class {numbers}{more}: it is never reported"));
        }
        Ok(from_names((0..classes).map(|number| self.names.get(&number).cloned().unwrap_or_else(|| Label::GAP.into())).collect()))
    }

    fn are_cocos(&self) -> bool {
        self.names.iter().all(|(number, name)| COCO.iter().any(|(id, coco)| *id as usize == *number && coco == name))
    }
}

/// Labels of these names. Where all of them are COCO's they get COCO's ids, else each its position.
pub fn from_names(names: Vec<String>) -> Vec<Label> {
    let id = |name: &str| COCO.iter().find(|(_, coco)| *coco == name).map(|(id, _)| *id);
    let positions = 0..names.len() as u32;
    let coco: Option<Vec<u32>> =
        names.iter().zip(positions.clone()).map(|(name, place)| if name == Label::GAP { Some(place) } else { id(name) }).collect();
    let ids = coco.unwrap_or_else(|| positions.collect());
    ids.into_iter().zip(names).map(|(id, name)| Label { id, name }).collect()
}

/// A name as it can be shown in a line of text: without control characters and those that turn the direction of what follows, and not too long.
pub fn clean_name(name: &str) -> String {
    clean(name, MAX_LENGTH)
}

/// The same of a line of so many characters at most.
pub fn clean(name: &str, most: usize) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let is_clean = !name.contains(hidden) && name.trim().len() == name.len() && name.chars().nth(most).is_none();
    if is_clean {
        return name.into();
    }
    let visible: String = name.chars().map(|c| if hidden(c) { ' ' } else { c }).collect();
    let words = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(most).collect()
}

/// Gives a config labels that can be shown.
pub fn clean_labels(config: &mut Config) {
    for label in &mut config.labels {
        label.name = clean_name(&label.name);
    }
}

/// A name, which may be a number or a truth value in JSON.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(clean_name(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(value: Value, classes: usize) -> Result<(Vec<String>, usize), String> {
        let mut notes = Vec::new();
        let labels = ClassNames::from_json(&value, "id2label")?.labels(classes, &mut notes)?;
        Ok((labels.into_iter().map(|label| label.name).collect(), notes.len()))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn ids_are_cocos_only_where_all_names_are() {
        let ids = |list: &[&str]| from_names(names(list)).iter().map(|l| l.id).collect::<Vec<_>>();
        assert_eq!(ids(&["dog", "cat"]), [18, 17]);
        assert_eq!(ids(&["N/A", "cat"]), [0, 17]);
        assert_eq!(ids(&["dog", "unicorn"]), [0, 1]);
    }

    #[test]
    fn id2label_may_begin_at_one_have_gaps_and_name_by_numbers() {
        assert_eq!(labels(json!({"0": "a", "1": "b"}), 2), Ok((names(&["a", "b"]), 0)));
        // From 1: the last has no logit (it is where no-object is), the first logit no name.
        assert_eq!(labels(json!({"1": "a", "2": "b", "3": "c"}), 3), Ok((names(&["N/A", "a", "b"]), 2)));
        assert_eq!(labels(json!({"0": "a", "3": "b"}), 4), Ok((names(&["a", "N/A", "N/A", "b"]), 1)));
        assert_eq!(labels(json!({"0": 7, "1": true, "2": "x"}), 3), Ok((names(&["7", "true", "x"]), 0)));
        assert_eq!(labels(json!(["a", null, "b"]), 3), Ok((names(&["a", "N/A", "b"]), 1)));
        assert_eq!(labels(json!({"cat": 1, "dog": 0}), 2), Ok((names(&["dog", "cat"]), 0)));
        for (value, problem) in [
            (json!({"0": "a", "1": "b"}), "names 2 classes, but the class head has 3"),
            (json!({"0": "a", "b": "b", "2": "c"}), "\"b\" is no number"),
            (json!({"0": ["a"], "1": "b", "2": "c"}), "entry 0 is no name"),
            (json!({}), "names no class"),
            (json!("cat"), "a list of names"),
            (json!({"0": "a", "1": "b", "2": "c", "18446744073709551615": "d"}), "names 4 classes"),
        ] {
            let found = labels(value, 3).unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
    }

    #[test]
    fn a_file_names_the_classes_by_line_or_as_json() {
        let read = |text: &str, classes: usize| {
            let labels = ClassNames::parse(text, "names.txt")?.labels(classes, &mut Vec::new())?;
            Ok::<_, String>(labels.into_iter().map(|label| label.name).collect::<Vec<_>>())
        };
        assert_eq!(read("\u{feff}bolt\r\nnut\r\n\r\n", 2), Ok(names(&["bolt", "nut"])));
        assert_eq!(read("bolt\n\npin\n", 3), Ok(names(&["bolt", "N/A", "pin"])));
        assert_eq!(read(r#"["bolt", "nut"]"#, 2), Ok(names(&["bolt", "nut"])));
        assert_eq!(read(r#"{"model_type": "detr", "id2label": {"0": "bolt", "1": "nut"}}"#, 2), Ok(names(&["bolt", "nut"])));
        assert_eq!(
            read(r#"{"images": [], "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]}"#, 4),
            Ok(names(&["N/A", "bolt", "nut", "N/A"]))
        );
        assert!(read("bolt\nnut\n", 3).unwrap_err().contains("names.txt names 2 classes, but the class head has 3"));
        assert!(read("", 3).unwrap_err().contains("names no class"));
        assert!(read("{", 3).unwrap_err().contains("names.txt"));
    }

    #[test]
    fn names_are_shown_in_one_line() {
        assert_eq!(clean_name("traffic light"), "traffic light");
        assert_eq!(clean_name(" a\u{1b}[31m\nb\u{202e}c "), "a [31m b c");
        assert_eq!(clean_name(&"x".repeat(1000)).len(), MAX_LENGTH);
    }
}
