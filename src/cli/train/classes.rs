//! Which classes a run learns: the model's, or those of the label files with a new class head.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use detrim::config::{Architecture, Config, Label};
use detrim::eval::coco::categories::list;
use detrim::train::classes::{Declared, replace};
use detrim::train::rt_detr;
use detrim::train::run::State;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Classes {
    /// The label files' categories, with a new class head; those that the model has by name keep what they know
    Labels,
    /// The model's, found by name: boxes of other categories are left out
    Model,
    /// The model's, found by number in files that share no name with it
    Ids,
}

/// Of the labels, for people.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    list(names.map(|name| format!("{name:?}")).collect())
}

/// The labels' categories as classes.
pub fn declared(files: &[PathBuf]) -> Result<Vec<Label>> {
    let labels = Declared::open(files)?.labels;
    if labels.is_empty() {
        bail!("the label files declare no categories, so that there is nothing to learn");
    }
    Ok(labels)
}

/// Gives a model that a run begins with the classes that are `asked` for. Where nothing is, these are its own, but where it lacks one that has
/// boxes the labels'. What was chosen comes back.
pub fn choose(asked: Option<Classes>, files: &[PathBuf], config: &mut Architecture, state: &mut State, seed: u64) -> Result<Classes> {
    let labels = Declared::open(files)?;
    let unknown = labels.unknown(config.labels());
    let classes = asked.unwrap_or(if unknown.is_empty() { Classes::Model } else { Classes::Labels });
    if classes == Classes::Labels {
        ensure!(!labels.labels.is_empty(), "--classes labels: the label files declare no categories");
        if config.labels().iter().map(|label| &label.name).eq(labels.labels.iter().map(|label| &label.name)) {
            return Ok(classes);
        }
        let why = match asked {
            Some(_) => String::new(),
            None => format!(
                "the model has no class {}, so that it gets those of the labels (--classes model keeps its own and leaves such boxes out): ",
                names(unknown.into_iter())
            ),
        };
        let all = names(labels.labels.iter().map(|label| &*label.name));
        let count = labels.labels.len();
        let known = match config {
            Architecture::Detr(config) => replace(config, state, labels.labels, seed)?,
            Architecture::RtDetr(config) => rt_detr::classes::replace(config, state, labels.labels, seed)?,
        };
        eprintln!("{why}a new class head for {count} classes, {all}; {known} of them the model knows by name");
    }
    Ok(classes)
}

/// What a command that keeps a model's classes needs of labels: some name in common, unless numbers are to decide.
pub fn ensure_common(files: &[PathBuf], config: &Config, by_id: bool) -> Result<()> {
    let labels = Declared::open(files)?;
    let unknown = labels.unknown(&config.labels);
    if !by_id && !unknown.is_empty() && unknown.len() == labels.with_boxes.len() {
        bail!(
            "the labels' categories ({}) and the model's classes have no name in common: --classes ids goes by their numbers; for other classes, \
             fine-tune the model first with detrim train --classes labels",
            names(unknown.into_iter())
        );
    }
    Ok(())
}
