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

use detrim::config::Label;
use detrim::detector::Device;
use detrim::eval::coco::dataset::Dataset;
use std::io::{ErrorKind, Write};

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

/// Tells how annotations go with a model's classes where no name is the same: others may have been meant.
fn relate(of: &str, annotations: &Dataset, labels: &[Label]) {
    if let Some(related) = annotations.by_id(labels) {
        eprintln!("warning: {of}: {}", printable(&related));
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
