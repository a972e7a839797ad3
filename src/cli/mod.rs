//! One file for each command: its arguments and what it prints. The work is the library's.

mod bars;
pub mod bench;
mod budget;
mod calibration;
mod colours;
pub mod convert;
mod default_model;
pub mod detect;
mod draw;
pub mod eval;
pub mod export;
pub mod fetch;
pub mod forward;
pub mod importance;
mod index;
pub mod inspect;
pub mod model;
mod outputs;
mod photos;
mod printable;
pub mod prune;
pub mod report;
pub mod train;
pub mod trim;

pub use printable::printable;

use anyhow::Context;
use detrim::config::Label;
use detrim::detector::Device;
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::image_folder::ImageFolder;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// What to compute on.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Backend {
    #[default]
    Cpu,
    Gpu,
}

impl Backend {
    fn device(self) -> Device {
        match self {
            Backend::Cpu => Device::Cpu,
            Backend::Gpu => Device::Gpu,
        }
    }
}

/// A number of things, of which there must be one.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number above 0 is needed".into()),
        Ok(count) => Ok(count),
    }
}

/// Prints to standard output; nobody listening any more (`detrim … | head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(printable(text).as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error and its causes as one sentence. Many errors tell of their cause by themselves: what has been said is not said again.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if cause.starts_with(&text) {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Tells how annotations go with a model's classes where that isn't plain, a line each; what becomes of boxes without a class is `lost`.
fn relate(of: &str, annotations: &Dataset, labels: &[Label], lost: &str) -> anyhow::Result<()> {
    let categories = annotations.categories_of(labels).with_context(|| of.to_string())?;
    for sentence in annotations.relation(labels, &categories, lost) {
        eprintln!("warning: {of}: {}", printable(&sentence));
    }
    Ok(())
}

/// Opens annotations, and tells what of them is left out and what was assumed.
fn open_annotations(of: &str, file: &Path) -> anyhow::Result<Dataset> {
    let dataset = Dataset::open(file)?;
    for sentence in dataset.problems.iter().chain(&dataset.notes) {
        eprintln!("{of}: {}", printable(sentence));
    }
    if let Some(sentence) = dataset.all_crowds() {
        eprintln!("warning: {of}: {}", printable(&sentence));
    }
    Ok(dataset)
}

/// Finds the pictures of annotations, and tells of those that are called otherwise there.
fn locate(annotations: &mut Dataset, folder: &Path) {
    if let Some(sentence) = ImageFolder::new(folder).locate(&mut annotations.images) {
        eprintln!("{}: {}", folder.display(), printable(&sentence));
    }
}

/// Tells how many things were wrong, and names the first few.
fn complain(of: &str, what: &str, problems: &[String]) {
    const NAMED: usize = 5;
    if problems.is_empty() {
        return;
    }
    eprintln!("{}: {} {what}:", of, problems.len());
    for problem in problems.iter().take(NAMED) {
        eprintln!("  {}", printable(problem));
    }
    if problems.len() > NAMED {
        eprintln!("  and {} more", problems.len() - NAMED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};
    use detrim::Error;

    #[test]
    fn a_cause_is_told_once() {
        let missing = || std::io::Error::other("No such file");
        let io = || Error::Io { file: "a.jpg".into(), source: missing() };
        assert_eq!(sentence(&io().into()), "a.jpg: No such file");
        assert_eq!(sentence(&anyhow!(missing()).context("a.jpg")), "a.jpg: No such file");
        assert_eq!(sentence(&Err::<(), _>(io()).context("a.jpg").unwrap_err()), "a.jpg: No such file");
        assert_eq!(sentence(&anyhow!(io()).context("the model can't be read")), "the model can't be read: a.jpg: No such file");
    }
}
