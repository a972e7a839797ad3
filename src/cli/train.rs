//! `detrim train`

use super::model::{self, GuessArguments};
use super::print;
use anyhow::{Context, Result, bail};
use detrim::checkpoint::Checkpoint;
use detrim::config::{Activation, Attention, ClassActivation, Config, DecoderLayer, EncoderLayer, Label};
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::metrics::{Evaluation, Metrics};
use detrim::eval::coco::run::detect_all;
use detrim::hash::sha256;
use detrim::output::write;
use detrim::train::data::{Data, Features, Pictures};
use detrim::train::denoise::Noise;
use detrim::train::ema::Ema;
use detrim::train::folder::Folder;
use detrim::train::fresh::fresh;
use detrim::train::log::{Log, Row};
use detrim::train::loss::Criterion;
use detrim::train::optimiser::AdamW;
use detrim::train::options;
use detrim::train::plot;
use detrim::train::run::{Report, Settings, State};
use detrim::train::schedule::{Schedule, Shape};
use detrim::train::state;
use detrim::train::step::{Losses, Method, trainable};
use detrim::train::teacher::Teacher;
use detrim::train::trained::Trained;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Train a detector on labelled pictures, or go on with one.
///
/// The backbone stays as it is (but for what `--unfreeze` names): its features are computed once, for several views of each picture, and the
/// transformer is trained on them.
/// Press Ctrl-C to stop; the same command goes on exactly where it stopped.
#[derive(clap::Args, serde::Serialize)]
#[command(after_help = "Examples:\n  \
    detrim train --out run --backbone lite0.safetensors --labels people.json --labels teacher.json --images photos --cache features --dev dev.json\n  \
    detrim train --out finer --model trimmed.safetensors --labels people.json --images photos --cache features --rate 1e-5 --steps 5000\n  \
    detrim eval --model run/best.safetensors --annotations dev.json --images photos")]
pub struct Arguments {
    /// Folder of the run: its state, log and plot. A run that is there goes on
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    out: PathBuf,
    /// Begin with this model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Begin with a new transformer on the backbone of this model
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    backbone: Option<PathBuf>,
    /// Begin with the state of another run, whole or compact
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "backbone"])]
    state: Option<PathBuf>,
    /// Boxes in COCO's format; of several files an earlier one decides for the classes it lists
    #[arg(long, value_name = "JSON", required = true)]
    labels: Vec<PathBuf>,
    /// Folder that the labels' file names are in
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Folder for the backbone's features (0.1 MB for each picture and view)
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    cache: PathBuf,
    /// Views of each picture: the plain one, and random crops, flips and colours
    #[arg(long, default_value_t = 4, value_parser = count)]
    views: usize,
    /// Minutes between two saved states
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0)]
    save_minutes: f64,
    /// Chooses the first weights, the views, their order and the noise: the same seed gives the same run
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Steps in all
    #[arg(long, default_value_t = 100_000, help_heading = "Steps")]
    steps: u64,
    /// Pictures in a step
    #[arg(long, default_value_t = 8, value_parser = count, help_heading = "Steps")]
    batch: usize,
    /// The learning rate at its highest
    #[arg(long, default_value_t = 2e-4, value_parser = positive, help_heading = "Steps")]
    rate: f64,
    /// Train this many of the backbone's last stages too. The kept features are then what the first of them is given
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Steps")]
    unfreeze: usize,
    /// Factor on the rate of the backbone's stages
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, value_parser = positive, help_heading = "Steps")]
    backbone_rate: f64,
    /// Steps over which the rate rises at the beginning
    #[arg(long, default_value_t = 500, help_heading = "Steps")]
    warmup: u64,
    /// How the rate falls: constant, cosine, cosine:F (over the last F of the run) or step:F,... (a tenth from F on)
    #[arg(long, default_value = "cosine:0.4", help_heading = "Steps")]
    schedule: Shape,
    /// How much of the mean of the weights, which is what detects, a step keeps
    #[arg(long, value_name = "SHARE", default_value_t = 0.9995, value_parser = share, help_heading = "Steps")]
    average: f64,
    /// The most denoising queries of a picture
    #[arg(long, default_value_t = 40, help_heading = "Steps")]
    denoising: usize,

    /// A detector to learn from beside the labels, even of pictures without any: its scores and boxes, and, where they have the student's
    /// width, its encoder's tokens and its queries. For a trimmed model: the model that it was made from
    #[arg(long, value_name = "FILE", help_heading = "A teacher")]
    teacher: Option<PathBuf>,
    /// How much it counts beside the labels. Its parts count 1 (scores), 5 (box coordinates), 2 (overlap) and 1 (tokens, queries) times this
    #[arg(long, value_name = "W", default_value_t = 1.0, value_parser = amount, requires = "teacher", help_heading = "A teacher")]
    teach_weight: f32,

    /// Held-out boxes in COCO's format, for choosing the best state
    #[arg(long, value_name = "JSON", help_heading = "Measuring")]
    dev: Option<PathBuf>,
    /// Minutes between two measurements
    #[arg(long, value_name = "MINUTES", default_value_t = 20.0, help_heading = "Measuring")]
    measure_minutes: f64,

    /// Width of the tokens: a multiple of 8
    #[arg(long, default_value_t = 192, value_parser = width, help_heading = "A new transformer")]
    d_model: usize,
    /// Layers between the backbone and the decoder
    #[arg(long, default_value_t = 6, value_parser = count, help_heading = "A new transformer")]
    encoder_layers: usize,
    /// Layers in which the queries look at the picture
    #[arg(long, default_value_t = 6, value_parser = count, help_heading = "A new transformer")]
    decoder_layers: usize,
    /// The most boxes that one picture can give
    #[arg(long, default_value_t = 60, value_parser = count, help_heading = "A new transformer")]
    queries: usize,
    #[command(flatten)]
    #[serde(skip)]
    guess: GuessArguments,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let folder = Folder::open(&arguments.out)?;
    let options = options(&arguments, &folder)?;
    let (config, mut state) = begin(&arguments, &folder)?;
    let trained = Trained::with_stages(&config.backbone, arguments.unfreeze)?;
    state.freeze(&trained);
    let pictures = Pictures::open(&arguments.labels, &arguments.images, &config.labels)?;
    eprintln!("{}", pictures.counts);
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template("features {bar:40} {pos}/{len} views, {per_sec}, {eta} left")?);
    let build = |checkpoint: &Checkpoint, stage: usize, pictures: &Pictures| {
        Features::open_or_build(&arguments.cache, checkpoint, stage, pictures, arguments.views, arguments.seed, &|done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })
    };
    let features = build(&state.detector(&config)?, trained.first_stage(&config.backbone), &pictures)?;
    let teacher = match &arguments.teacher {
        Some(path) => {
            let checkpoint = model::open(path, &arguments.guess)?;
            let teacher = Teacher::new(&checkpoint, &config, &state.weights, arguments.teach_weight)
                .with_context(|| format!("--teacher {}", path.display()))?;
            let how = if teacher.teaching().same { "query by query" } else { "by matched queries" };
            eprintln!("the teacher knows {} of {} classes and teaches {how}", teacher.known(), config.labels.len());
            let frozen = Trained::default().first_stage(&checkpoint.config.backbone);
            Some((teacher, build(&checkpoint, frozen, &pictures)?))
        }
        None => None,
    };
    bar.finish_and_clear();
    let mut data = Data::new(pictures, features, arguments.batch, arguments.seed)?;
    if let Some((teacher, features)) = teacher {
        data = data.taught(teacher, features);
    }
    let problems: Vec<&str> = data.problems().collect();
    if !problems.is_empty() {
        eprintln!("left out: {}", problems.len());
        problems.iter().take(5).for_each(|problem| eprintln!("  {problem}"));
    }
    let settings = Settings {
        method: Method {
            criterion: Criterion::new(config.class_activation),
            denoising: arguments.denoising,
            noise: Noise::default(),
            tokens: 4,
            shards: 2,
        },
        optimiser: AdamW::default(),
        ema: Ema { decay: arguments.average },
        schedule: Schedule { warmup: arguments.warmup, shape: arguments.schedule.clone() },
        rate: arguments.rate,
        trained,
        backbone_rate: arguments.backbone_rate,
        clip: 0.1,
        steps: arguments.steps,
        seed: arguments.seed,
    };
    options::write(&folder.options(), &options)?;
    work(&arguments, &folder, &config, &settings, &data, state)
}

/// Options that decide what each step is given: a run with others is another run.
const FIXED: [&str; 5] = ["batch", "views", "seed", "unfreeze", "labels_sha256"];
/// Options that change how a run goes on.
const CHANGEABLE: [&str; 11] =
    ["steps", "rate", "backbone_rate", "warmup", "schedule", "average", "denoising", "teacher", "teach_weight", "images", "dev"];

/// What the run is started with. If it was started before with something that can't be changed on the way, that is an error; other
/// differences are told. A run that goes on keeps what it began with: its network is in its state.
fn options(arguments: &Arguments, folder: &Folder) -> Result<options::Options> {
    let serde_json::Value::Object(mut now) = serde_json::to_value(arguments)? else { bail!("options are not an object") };
    let hash = |file: &PathBuf| anyhow::Ok(sha256(&std::fs::read(file).with_context(|| file.display().to_string())?));
    now.insert("labels_sha256".into(), arguments.labels.iter().map(hash).collect::<Result<Vec<_>>>()?.into());
    if !folder.last().exists() {
        return Ok(now);
    }
    // A run of an older version, or one whose file somebody took away, goes on with what it is given.
    let Some(before) = options::read(&folder.options())? else { return Ok(now) };
    let mut problems = options::differences(&before, &now, |name| FIXED.contains(&name) && name != "labels_sha256");
    if before.get("labels_sha256").is_some_and(|was| now.get("labels_sha256") != Some(was)) {
        problems.push("the files given by --labels are not what they were".into());
    }
    if !problems.is_empty() {
        let (run, last) = (arguments.out.display(), folder.last());
        bail!("{run}: {}; to change this, begin a run in another folder with --state {}", problems.join(", "), last.display());
    }
    for difference in options::differences(&before, &now, |name| CHANGEABLE.contains(&name)) {
        eprintln!("warning: {difference}, when the run was last started");
    }
    let begun = before.into_iter().filter(|(name, _)| !CHANGEABLE.contains(&name.as_str()));
    now.extend(begun);
    Ok(now)
}

/// Steps until the run is done or somebody interrupts it.
fn work(arguments: &Arguments, folder: &Folder, config: &Config, settings: &Settings, data: &Data, mut state: State) -> Result<()> {
    let dev = arguments.dev.as_deref().map(Dataset::open).transpose()?;
    let mut log = Log::open(&folder.log(), state.step)?;
    let before = log.rows().last().map_or(0.0, |row| row.seconds);
    let mut best = log.rows().iter().filter_map(|row| row.ap).fold(0.0, f64::max);
    let stop = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let stop = stop.clone();
        move || {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step (again to stop at once, without saving)");
        }
    })?;

    let style = ProgressStyle::with_template("{bar:20} step {pos}/{len} {msg} {eta} left")?;
    let bar = ProgressBar::new(settings.steps).with_style(style).with_position(state.step);
    let begun = Instant::now();
    let (mut saved, mut measured, mut noted) = (Instant::now(), Instant::now(), Instant::now());
    let mut stretch = Stretch::default();
    while state.step < settings.steps && !stop.load(Ordering::Relaxed) {
        stretch.add(&state.advance(config, settings, data)?);
        bar.set_position(state.step);
        let seconds = before + begun.elapsed().as_secs_f64();
        let finished = state.step == settings.steps || stop.load(Ordering::Relaxed);
        if state.step.is_multiple_of(NOTED) || finished {
            let row = stretch.row(state.step, seconds, arguments.batch as f64 / noted.elapsed().as_secs_f64());
            bar.set_message(format!("loss {:.2} {:.1} pictures/s", row.loss.unwrap_or_default(), row.pictures_per_second.unwrap_or_default()));
            log.add(row)?;
            (stretch, noted) = (Stretch::default(), Instant::now());
        }
        if let Some(dev) = &dev
            && (measured.elapsed() >= minutes(arguments.measure_minutes) || state.step == settings.steps)
        {
            let found = measure(config, &state, dev, &arguments.images)?;
            let (ap, ap50) = (found.ap.unwrap_or_default(), found.ap50.unwrap_or_default());
            bar.println(format!("step {}: AP {:.1}, AP50 {:.1} on {} pictures", state.step, 100.0 * ap, 100.0 * ap50, dev.images.len()));
            log.add(Row { step: state.step, seconds, ap: Some(ap), ap50: Some(ap50), ..Row::default() })?;
            if ap > best {
                best = ap;
                state::write_compact(&folder.best(), config, &state)?;
            }
            (measured, noted) = (Instant::now(), Instant::now());
        }
        if saved.elapsed() >= minutes(arguments.save_minutes) || finished {
            state::write(&folder.last(), config, &state)?;
            write(&folder.plot(), plot::progress(log.rows())?.as_bytes())?;
            saved = Instant::now();
        }
    }
    bar.finish_and_clear();
    print(&format!("{} steps of {} are done; {} holds the state\n", state.step, settings.steps, folder.last().display()))
}

/// Steps between two rows of the log.
const NOTED: u64 = 50;

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes.clamp(0.0, 1e6))
}

/// Sums over the steps since the last row of the log.
#[derive(Default)]
struct Stretch {
    steps: u32,
    losses: Losses,
    norm: f64,
    rate: f64,
}

impl Stretch {
    fn add(&mut self, report: &Report) {
        self.steps += 1;
        self.losses += report.losses;
        self.norm += report.norm;
        self.rate = report.rate;
    }

    /// `speed` is that of all steps taken as one.
    fn row(&self, step: u64, seconds: f64, speed: f64) -> Row {
        let mean = |sum: f32| Some(sum / self.steps.max(1) as f32);
        let Losses { total, last, denoising, dense, teacher } = self.losses;
        Row {
            step,
            seconds,
            rate: Some(self.rate),
            loss: mean(total),
            class: mean(last.class),
            l1: mean(last.l1),
            giou: mean(last.giou),
            denoising: mean(denoising),
            dense: mean(dense),
            teacher: mean(teacher),
            gradient_norm: Some(self.norm / f64::from(self.steps.max(1))),
            pictures_per_second: Some(speed * f64::from(self.steps)),
            ..Row::default()
        }
    }
}

/// How well the mean of the weights detects.
fn measure(config: &Config, state: &State, dev: &Dataset, images: &Path) -> Result<Metrics> {
    let checkpoint = state.detector(config)?;
    let run = detect_all(&checkpoint, dev, images, || {})?;
    Ok(Evaluation::new(dev, &run.detections).metrics())
}

/// Where the run is: in its folder, in the state of another run, or at a model.
fn begin(arguments: &Arguments, folder: &Folder) -> Result<(Config, State)> {
    if folder.last().exists() {
        let (config, state) = state::read(&folder.last())?;
        if let Some(stages) = state.stages().filter(|&stages| stages != arguments.unfreeze) {
            let file = folder.last();
            let (file, asked) = (file.display(), arguments.unfreeze);
            bail!("{file}: the run was begun with --unfreeze {stages}, not {asked}; begin one with --state {file} in another folder to change it");
        }
        eprintln!("going on at step {}", state.step);
        return Ok((config, state));
    }
    match (&arguments.model, &arguments.backbone, &arguments.state) {
        (Some(path), ..) => {
            let model = model::open(path, &arguments.guess)?;
            Ok((model.config, State::new(trainable(&model.weights))))
        }
        (_, Some(path), _) => {
            let parent = model::open(path, &arguments.guess)?;
            let start = fresh(config(arguments, &parent.config)?, &parent.weights, arguments.seed)?;
            Ok((start.config, State::new(trainable(&start.weights))))
        }
        (.., Some(path)) => Ok(state::read(path)?),
        _ => bail!("{}: there is no run yet; begin one with --backbone, --model or --state", arguments.out.display()),
    }
}

/// The transformer that a run from a backbone begins with.
fn config(arguments: &Arguments, parent: &Config) -> Result<Config> {
    let mut categories = BTreeMap::new();
    for file in &arguments.labels {
        for category in Dataset::open(file)?.categories {
            // Boxes go by the classes' names; the first file's ids are the model's.
            if categories.values().any(|name| *name == category.name) {
                continue;
            }
            if let Some(other) = categories.insert(category.id, category.name.clone()) {
                bail!("{}: category {} is {:?} here and {other:?} in an earlier label file", file.display(), category.id, category.name);
            }
        }
    }
    if categories.is_empty() {
        bail!("the label files declare no categories, so that there is nothing to learn");
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

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number above 0 is needed".into()),
        Ok(count) => Ok(count),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or_else(|| "a number above 0 is needed".into())
}

fn amount(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|amount: &f32| amount.is_finite() && *amount > 0.0).ok_or_else(|| "a number above 0 is needed".into())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..1.0).contains(share)).ok_or_else(|| "a number from 0 to below 1 is needed".into())
}

/// Eight heads, and positions of four coordinates by sine and cosine.
fn width(text: &str) -> Result<usize, String> {
    count(text).ok().filter(|width| width.is_multiple_of(8)).ok_or_else(|| "a multiple of 8 is needed".into())
}
