//! `detrim train`

use super::model::{self, GuessArguments};
use super::print;
use anyhow::{Result, bail};
use detrim::config::{Activation, Attention, ClassActivation, Config, DecoderLayer, EncoderLayer, Label};
use detrim::eval::coco::dataset::Dataset;
use detrim::train::data::{Data, Features, Pictures};
use detrim::train::denoise::Noise;
use detrim::train::ema::Ema;
use detrim::train::fresh::fresh;
use detrim::train::loss::Criterion;
use detrim::train::optimiser::AdamW;
use detrim::train::run::{Settings, State};
use detrim::train::schedule::{Schedule, Shape};
use detrim::train::step::{Method, trainable};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Train a detector, or go on with one, on labelled pictures.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model to train further
    #[arg(long, value_name = "FILE", required_unless_present = "backbone")]
    model: Option<PathBuf>,
    /// Begin a new transformer on the backbone of this model
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    backbone: Option<PathBuf>,
    /// Boxes in COCO's format; of several files an earlier one decides for the classes it lists
    #[arg(long, value_name = "JSON", required = true)]
    labels: Vec<PathBuf>,
    /// Folder that the labels' file names are in
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Folder for the backbone's features (0.1 MB for each picture and view)
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Views of each picture: the plain one, and random crops, flips and colours
    #[arg(long, default_value_t = 4)]
    views: usize,
    #[arg(long, default_value_t = 192)]
    d_model: usize,
    #[arg(long, default_value_t = 6)]
    encoder_layers: usize,
    #[arg(long, default_value_t = 6)]
    decoder_layers: usize,
    #[arg(long, default_value_t = 60)]
    queries: usize,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[arg(long, default_value_t = 40)]
    denoising: usize,
    #[arg(long, default_value_t = 3e-4)]
    rate: f64,
    #[arg(long, default_value_t = 100_000)]
    steps: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    guess: GuessArguments,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let start = match (&arguments.model, &arguments.backbone) {
        (Some(path), _) => model::open(path, &arguments.guess)?,
        (None, Some(path)) => {
            let parent = model::open(path, &arguments.guess)?;
            fresh(config(&arguments, &parent.config)?, &parent.weights, arguments.seed)?
        }
        (None, None) => bail!("--model or --backbone is needed"),
    };
    let pictures = Pictures::open(&arguments.labels, &arguments.images, &start.config.labels)?;
    eprintln!("{}", pictures.counts);
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template("features {bar:40} {pos}/{len} views, {per_sec}, {eta} left")?);
    let features = Features::open_or_build(&arguments.cache, &start, &pictures, arguments.views, arguments.seed, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let data = Data::new(pictures, features, arguments.batch, arguments.seed)?;
    for problem in data.problems().take(5) {
        eprintln!("  {problem}");
    }
    let settings = Settings {
        method: Method {
            criterion: Criterion::new(start.config.class_activation),
            denoising: arguments.denoising,
            noise: Noise::default(),
            tokens: 4,
            shards: 2,
        },
        optimiser: AdamW::default(),
        ema: Ema { decay: 0.9995 },
        schedule: Schedule { warmup: 500, shape: Shape::Cosine { last: 0.4, floor: 0.01 } },
        rate: arguments.rate,
        clip: 0.1,
        steps: arguments.steps,
        seed: arguments.seed,
    };
    let mut state = State::new(trainable(&start.weights));
    let begun = Instant::now();
    let first = state.step;
    while state.step < settings.steps {
        let report = state.advance(&start.config, &settings, &data)?;
        if state.step % 20 == 0 {
            let speed = ((state.step - first) as usize * arguments.batch) as f64 / begun.elapsed().as_secs_f64();
            let l = report.losses;
            print(&format!(
                "{} total {:.3} class {:.3} l1 {:.3} giou {:.3} dn {:.3} dense {:.3} norm {:.2} {speed:.1}/s\n",
                state.step, l.total, l.last.class, l.last.l1, l.last.giou, l.denoising, l.dense, report.norm
            ))?;
        }
    }
    Ok(())
}

/// The transformer that a run from a backbone begins with.
fn config(arguments: &Arguments, parent: &Config) -> Result<Config> {
    let mut categories = BTreeMap::new();
    for file in &arguments.labels {
        categories.extend(Dataset::open(file)?.categories.into_iter().map(|category| (category.id, category.name)));
    }
    let labels: Vec<Label> = categories.into_iter().map(|(id, name)| Ok(Label { id: u32::try_from(id)?, name })).collect::<Result<_>>()?;
    let attention = Attention { heads: 8, head_width: arguments.d_model / 8 };
    let ffn = 4 * arguments.d_model;
    Ok(Config {
        backbone: parent.backbone.clone(),
        d_model: arguments.d_model,
        encoder: vec![EncoderLayer { self_attention: attention, ffn }; arguments.encoder_layers],
        decoder: vec![DecoderLayer { self_attention: attention, cross_attention: attention, ffn }; arguments.decoder_layers],
        queries: arguments.queries,
        classes: labels.len(),
        activation: Activation::Relu,
        class_activation: ClassActivation::Sigmoid,
        query_content: true,
        box_reference: true,
        labels,
        pixels: parent.pixels.clone(),
    })
}
