//! `detrim convert`

use super::index::{self, Metrics};
use super::model::ModelArguments;
use anyhow::{Context, Result};
use clap::ValueEnum;
use detrim::checkpoint::{Storage, write_own};
use std::path::PathBuf;

/// Convert a checkpoint to detrim's own file.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How matrices and convolutions are stored
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    dtype: Dtype,
    /// Name of the model
    #[arg(long)]
    name: Option<String>,
    /// Score from which detections are shown unless the user says otherwise
    #[arg(long)]
    threshold: Option<f32>,
    /// Licence of the weights
    #[arg(long)]
    licence: Option<String>,
    /// Where the weights come from; may be given several times
    #[arg(long, value_name = "SENTENCE")]
    provenance: Vec<String>,
    /// Index of models to enter the file into (by name)
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// A measured number for the index, as AP50=39.2; may be given several times
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = metric, requires_all = ["index", "measured_on"])]
    metrics: Vec<(String, f64)>,
    /// Which pictures the numbers were measured on
    #[arg(long, value_name = "SENTENCE", requires = "metrics")]
    measured_on: Option<String>,
}

fn metric(text: &str) -> Result<(String, f64)> {
    let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
    Ok((name.into(), value.parse()?))
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    F16,
    F32,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let mut checkpoint = arguments.model.open()?;
    let card = &mut checkpoint.card;
    card.name = arguments.name.unwrap_or(std::mem::take(&mut card.name));
    card.threshold = arguments.threshold.or(card.threshold);
    card.licence = arguments.licence.unwrap_or(std::mem::take(&mut card.licence));
    card.provenance.extend(arguments.provenance);
    let storage = match arguments.dtype {
        Dtype::F16 => Storage::F16,
        Dtype::F32 => Storage::F32,
    };
    write_own(&arguments.out, &checkpoint, storage)?;
    let bytes = std::fs::metadata(&arguments.out)?.len();
    if let Some(index) = &arguments.index {
        let metrics = arguments.measured_on.map(|on| Metrics { on, values: arguments.metrics.into_iter().collect() });
        index::update(index, &arguments.out, &checkpoint.config, &checkpoint.card, metrics)?;
    }
    println!("wrote {} ({:.1} MB)", arguments.out.display(), bytes as f64 / 1e6);
    Ok(())
}
