//! `detrim convert`

use super::bars::Bars;
use super::calibration::{self, HELD_OUT, rounded};
use super::index::{self, Metrics};
use super::model::{self, GuessArguments};
use super::{outputs, print};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use detrim::Config;
use detrim::checkpoint::{Checkpoint, ClassNames, Storage, random, write_own};
use detrim::config::{Backbone, EfficientNetLite, ResNet};
use detrim::fold::fold;
use detrim::prune::difference::{difference, look};
use detrim::prune::quantise::{nearest, quantise};
use detrim::weights::Data;
use std::path::PathBuf;

/// Convert a checkpoint to detrim's own file.
#[derive(clap::Args)]
pub struct Arguments {
    /// A DETR checkpoint (.safetensors, .pth), a directory as Hugging Face saves it, or a detrim model
    #[arg(required_unless_present = "random")]
    model: Option<PathBuf>,
    /// Instead of a checkpoint: random weights for an official architecture, to measure speed with
    #[arg(long, value_name = "BACKBONE", conflicts_with = "model", value_parser = BACKBONES)]
    random: Option<String>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How matrices and convolutions are stored; f16 unless the model is int8 already
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Folder of pictures to round to int8 by, so that the network goes on giving what it gives; without any, each number goes to the nearest
    #[arg(long, value_name = "DIR")]
    images: Vec<PathBuf>,
    /// Pictures to use of them
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = super::count, requires = "images")]
    pictures: usize,
    /// Chooses the pictures: the same seed gives the same file
    #[arg(long, default_value_t = 0, requires = "images")]
    seed: u64,
    /// Store what the first decoder layer's self-attention gives, which is the same for every picture, instead of that self-attention
    #[arg(long)]
    fold: bool,
    /// Name of the model
    #[arg(long)]
    name: Option<String>,
    /// Score from which detections are shown unless the user says otherwise
    #[arg(long, value_parser = super::detect::score)]
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
    /// A measured number for the index, as AP50=39.2; may be given several times. The page shows AP and speed (times as fast as the first model)
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = metric, requires_all = ["index", "measured_on"])]
    metrics: Vec<(String, f64)>,
    /// Which pictures the numbers were measured on
    #[arg(long, value_name = "SENTENCE", requires = "metrics")]
    measured_on: Option<String>,
    /// The same as --class-names
    #[arg(long, value_name = "FILE", value_parser = model::class_names, conflicts_with = "class_names")]
    labels: Option<ClassNames>,
    #[command(flatten)]
    guess: GuessArguments,
}

const BACKBONES: [&str; 7] = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet50-dc5", "resnet101-dc5", "efficientnet-lite0"];

/// The paper's DETR on a backbone, with random weights.
fn stand_in(backbone: &str) -> Result<Checkpoint> {
    let net = match backbone.strip_prefix("resnet") {
        Some(depth) => {
            let (depth, dilated) = depth.strip_suffix("-dc5").map_or((depth, false), |depth| (depth, true));
            Backbone::Resnet(ResNet::of_depth(depth.parse()?, dilated).with_context(|| format!("no ResNet is {depth} layers deep"))?)
        }
        None => Backbone::EfficientNetLite(EfficientNetLite::lite0()),
    };
    Ok(random(Config::detr(net), &format!("random-detr-{backbone}"), 0))
}

fn metric(text: &str) -> Result<(String, f64)> {
    let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
    Ok((name.into(), value.parse()?))
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    #[default]
    F16,
    F32,
    /// Matrices and convolutions before the heads; the rest as f16
    Int8,
}

impl Dtype {
    pub fn storage(self) -> Storage {
        match self {
            Dtype::F16 => Storage::F16,
            Dtype::F32 => Storage::F32,
            Dtype::Int8 => Storage::Int8,
        }
    }
}

pub fn run(mut arguments: Arguments) -> Result<()> {
    outputs::writable(&arguments.out)?;
    arguments.guess.name_classes(arguments.labels.take());
    ensure!(arguments.images.is_empty() || arguments.dtype == Some(Dtype::Int8), "--images: only --dtype int8 goes by pictures");
    let mut checkpoint = match (&arguments.model, &arguments.random) {
        (Some(path), _) => model::read(path, &arguments.guess)?,
        (None, Some(backbone)) => arguments.guess.resized(stand_in(backbone)?)?.into(),
        (None, None) => bail!("neither a checkpoint nor --random is given"),
    };
    if arguments.fold {
        let mut detr = checkpoint.into_detr("--fold")?;
        if !fold(&mut detr.config, &mut detr.weights)? {
            eprintln!("warning: --fold: the first decoder layer has no self-attention that could be folded");
        }
        checkpoint = detr.into();
    }
    if !arguments.images.is_empty() {
        model::affordable(&checkpoint.config, &arguments.guess)?;
        let bars = Bars::default();
        let config = &checkpoint.config;
        let (inputs, held_out) = calibration::read(&arguments.images, arguments.pictures, HELD_OUT, arguments.seed, config.pixels(), &bars)?;
        let weights = quantise(config, &checkpoint.weights, &inputs, &bars)?;
        bars.end();
        if !held_out.is_empty() {
            let before = look(config, &checkpoint.weights, &held_out)?;
            let far = |weights: &detrim::Weights| anyhow::Ok(difference(&before, &look(config, weights, &held_out)?));
            let (by_pictures, nearest) = (far(&weights)?, far(&nearest(config, &checkpoint.weights)?)?);
            print(&format!(
                "difference of the outputs on {} other pictures: {by_pictures:.4} (by the nearest numbers: {nearest:.4})\n",
                held_out.len()
            ))?;
        }
        checkpoint.weights = weights;
        checkpoint.card.provenance.push(rounded(&inputs));
    }
    let is_int8 = checkpoint.weights.tensors.values().any(|tensor| matches!(tensor.data, Data::I8(_)));
    let dtype = arguments.dtype.unwrap_or(if is_int8 { Dtype::Int8 } else { Dtype::default() });
    let card = &mut checkpoint.card;
    card.name = arguments.name.unwrap_or(std::mem::take(&mut card.name));
    card.threshold = arguments.threshold.or(card.threshold);
    card.licence = arguments.licence.unwrap_or(std::mem::take(&mut card.licence));
    card.provenance.extend(arguments.provenance);
    write_own(&arguments.out, &checkpoint, dtype.storage())?;
    let bytes = std::fs::metadata(&arguments.out)?.len();
    if let Some(index) = &arguments.index {
        let metrics = arguments.measured_on.map(|on| Metrics { on, values: arguments.metrics.into_iter().collect() });
        index::update(index, &arguments.out, &checkpoint.config, &checkpoint.card, metrics)?;
    }
    print(&format!("wrote {} ({:.1} MB)\n", arguments.out.display(), bytes as f64 / 1e6))
}
