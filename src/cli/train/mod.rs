//! `detrim train`

mod begin;
pub mod classes;
mod defaults;
mod dev;
mod family;
mod work;

use super::bars::Bars;
use super::model::{self, GuessArguments};
use super::{complain, count, printable};
use anyhow::{Context, Result, bail, ensure};
use begin::{begin, options};
use candle_core::Device;
use classes::Classes;
use detrim::checkpoint::Checkpoint;
use detrim::config::{Architecture, Config, Label};
use detrim::train::data::{Data, Features, Pictures, Views};
use detrim::train::denoise::Noise;
use detrim::train::ema::Ema;
use detrim::train::folder::Folder;
use detrim::train::loss::Criterion;
use detrim::train::optimiser::AdamW;
use detrim::train::options::{Options, write};
use detrim::train::run::{Settings, State};
use detrim::train::schedule::{Schedule, Shape};
use detrim::train::step::{Method, step};
use detrim::train::teacher::Teacher;
use detrim::train::trained::Trained;
use detrim::train::{groups, hints};
use dev::Dev;
use fastrand::Rng;
use serde_json::Value;
use std::path::PathBuf;
use work::work;

/// Train a detector on labelled pictures, by a teacher, or both; or go on with one.
///
/// RT-DETR, RT-DETRv2, D-FINE and DEIMv2 are trained whole, from pixels on. Of a DETR, the backbone stays as it is (but for what `--unfreeze` names): its features are computed once, for several views of each picture, and the
/// transformer is trained on them.
/// Press Ctrl-C to stop; the same command goes on exactly where it stopped.
#[derive(clap::Args, serde::Serialize)]
#[command(after_help = "Examples:\n  \
    detrim train --out run --backbone lite0.safetensors --labels people.json --labels teacher.json --images photos --cache features --dev dev.json\n  \
    detrim train --out finer --model trimmed.safetensors --labels people.json --images photos --cache features --rate 1e-5 --steps 5000\n  \
    detrim train --out own --model model.safetensors --labels own.json --images photos --cache features --classes labels --rate 1e-4 --steps 5000\n  \
    detrim train --out healed --model trimmed.safetensors --anchors run/last.safetensors --teacher parent.safetensors --labels people.json \
--images photos --cache features --rate 1e-4 --steps 5000\n  \
    detrim train --out healed --model trimmed.safetensors --teacher deimv2-femto.safetensors --images photos\n  \
    detrim eval --model run/best.safetensors --annotations dev.json --images photos")]
pub struct Arguments {
    /// Folder of the run: its state, log and plot. A run that is there goes on
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    out: PathBuf,
    /// Begin with this model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Begin with a new transformer on the backbone of this model, or on this backbone: as timm or torchvision save what ImageNet taught it
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    backbone: Option<PathBuf>,
    /// The state of the run that the model, or what it was trimmed from, came of, whole or compact: gives back what only training needs
    /// (positions that are made of the queries' boxes, denoising, heads on the encoder's tokens), to learn faster
    #[arg(long, value_name = "STATE", requires = "model")]
    anchors: Option<PathBuf>,
    /// Begin with the state of another run, whole or compact
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "backbone"])]
    state: Option<PathBuf>,
    /// Boxes in COCO's format; of several files an earlier one decides for the classes it lists. A list of detections, as detrim eval --save
    /// writes it, is of the pictures and categories of the file before it. Where a teacher alone is learnt from (RT-DETR's family), all
    /// pictures of --images will do
    #[arg(long, value_name = "JSON")]
    labels: Vec<PathBuf>,
    /// The classes to learn [default: model where the model has a class of the name of every category that has boxes, else labels]
    #[arg(long, value_enum)]
    classes: Option<Classes>,
    /// Take a teacher's box for as sure as boxes with its score are right, instead of as its score: measured where an earlier file of people's
    /// labels has the same classes of the same pictures
    #[arg(long)]
    calibrate: bool,
    /// Folder that the labels' file names are in
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Folder for the backbone's features (0.1 MB for each picture and view); needed for a DETR, of others nothing is kept
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    cache: Option<PathBuf>,
    /// Views of each picture: the plain one, and random crops, flips and colours [default: 4; 64 for RT-DETR's family]
    #[arg(long, value_parser = count)]
    views: Option<usize>,
    /// Of the views beside the plain one, the share that show one object close up, a rare class's rather than a common one's: for classes of
    /// which the pictures have only small objects
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    close_ups: f64,
    /// Show a picture of a class that less than this share of all pictures show more often: √(SHARE / the class's share) times in an epoch.
    /// A teacher's box shows its class from a score of 0.5 on
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    repeat_rare: f64,
    /// Minutes between two saved states
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0, value_parser = minutes)]
    save_minutes: f64,
    /// Chooses the first weights, the views, their order and the noise: the same seed gives the same run
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Steps in all
    #[arg(long, default_value_t = 100_000, help_heading = "Steps")]
    steps: u64,
    /// Pictures in a step
    #[arg(long, default_value_t = 8, value_parser = few_at_least_one, help_heading = "Steps")]
    batch: usize,
    /// Pieces that a step's pictures are dealt out in, a core for each. It decides how sums are rounded, so that a run keeps what it began
    /// with [default: as many as there are cores, at most the batch]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Steps")]
    shards: Option<usize>,
    /// Compute the network on this. (Matching, losses and the optimiser stay on the CPU.)
    #[arg(long, value_enum, default_value_t, help_heading = "Steps")]
    device: Computer,
    /// The learning rate at its highest [default: 2e-4; 1e-5 for RT-DETR's family]
    #[arg(long, value_parser = positive, help_heading = "Steps")]
    rate: Option<f64>,
    /// Train this many of a DETR's backbone's last stages too. The kept features are then what the first of them is given
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Steps")]
    unfreeze: usize,
    /// Factor on the rate of the backbone's stages [default: 0.1; 1 for RT-DETR's family]
    #[arg(long, value_name = "FACTOR", value_parser = positive, help_heading = "Steps")]
    backbone_rate: Option<f64>,
    /// Steps over which the rate rises at the beginning [default: 500; 50 for RT-DETR's family]
    #[arg(long, help_heading = "Steps")]
    warmup: Option<u64>,
    /// How the rate falls: constant, cosine, cosine:F (over the last F of the run), cosine:F:L (the same, down to the factor L) or step:F,...
    /// (a tenth from F on)
    #[arg(long, default_value = "cosine:0.4", help_heading = "Steps")]
    schedule: Shape,
    /// How much of the mean of the weights, which is what detects, a step keeps
    #[arg(long, value_name = "SHARE", default_value_t = 0.9995, value_parser = share, help_heading = "Steps")]
    average: f64,
    /// The most denoising queries of a picture [default: 40; 100 for RT-DETR's family, and as many that have to find nothing]
    #[arg(long, value_parser = few, help_heading = "Steps")]
    denoising: Option<usize>,
    /// Further groups of a DETR's queries, each as many as the network's own and matched for itself: more to learn from in each step, which takes
    /// longer. They are left out of the model
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = few, help_heading = "Steps")]
    groups: usize,

    /// A detector to learn from beside the labels, even of pictures without any: its scores and boxes, its encoder's tokens where it has as
    /// many of a picture, and its queries where they are the student's. For a trimmed model: the model that it was made from
    #[arg(long, value_name = "FILE", help_heading = "A teacher")]
    teacher: Option<PathBuf>,
    /// How much it counts beside the labels. Its parts count 1 (scores), 5 (box coordinates), 2 (overlap) and 1 (tokens, queries) times this
    #[arg(long, value_name = "W", default_value_t = 1.0, value_parser = amount, requires = "teacher", help_heading = "A teacher")]
    teach_weight: f32,

    /// What an RT-DETR, RT-DETRv2, D-FINE or DEIMv2 learns from [default: features where there is a teacher, else labels]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS", help_heading = "A teacher")]
    losses: Vec<Losses>,

    /// Held-out boxes in COCO's format, for choosing the best state
    #[arg(long, value_name = "JSON", help_heading = "Measuring")]
    dev: Option<PathBuf>,
    /// Minutes between two measurements
    #[arg(long, value_name = "MINUTES", default_value_t = 20.0, value_parser = minutes, help_heading = "Measuring")]
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

/// Whether all steps are done.
pub fn run(arguments: Arguments) -> Result<bool> {
    let device = arguments.device.device()?;
    let folder = Folder::open(&arguments.out)?;
    let arguments = arguments.with_defaults(&folder)?;
    let mut options = options(&arguments, &folder)?;
    let (config, state, classes) = begin(&arguments, &folder)?;
    if let Some(classes) = classes {
        options.insert("classes".into(), serde_json::to_value(classes)?);
    }
    let since = options.entry("dev_since").or_insert(state.step.into()).as_u64().unwrap_or_default();
    let dev = arguments.dev.as_deref().map(|file| Dev::open(file, &arguments.images, config.labels(), since)).transpose()?;
    let run = Run { arguments: &arguments, folder: &folder, options, device, dev };
    match config {
        Architecture::Detr(config) => run.detr(config, state),
        Architecture::RtDetr(config) => run.family(*config, state),
    }
}

/// What a run is, whatever is trained.
struct Run<'a> {
    arguments: &'a Arguments,
    folder: &'a Folder,
    options: Options,
    device: Device,
    dev: Option<Dev<'a>>,
}

impl Run<'_> {
    /// How many pieces a batch is dealt out in.
    fn shards(&self) -> Result<usize> {
        let shards = self.options.get("shards").and_then(Value::as_u64);
        Ok(shards.with_context(|| format!("{}: no number of shards", self.folder.options().display()))? as usize)
    }

    /// Opens the labelled pictures, and tells of them.
    fn pictures(&self, labels: &[Label]) -> Result<Pictures> {
        let Arguments { labels: files, images, calibrate, .. } = self.arguments;
        let by_id = self.options.get("classes") == Some(&serde_json::to_value(Classes::Ids)?);
        let pictures = Pictures::open(files, images, labels, *calibrate, by_id)?;
        eprintln!("{}", pictures.counts);
        for surety in &pictures.sureties {
            eprintln!("{surety}");
        }
        for note in pictures.notes.iter().chain(&pictures.problems) {
            eprintln!("{}", printable(note));
        }
        Ok(pictures)
    }

    fn settings(&self, trained: Trained) -> Settings {
        let arguments = self.arguments;
        Settings {
            optimiser: AdamW::default(),
            ema: Ema { decay: arguments.average },
            schedule: Schedule { warmup: arguments.warmup(), shape: arguments.schedule.clone() },
            rate: arguments.rate(),
            trained,
            backbone_rate: arguments.backbone_rate(),
            clip: 0.1,
            steps: arguments.steps,
            seed: arguments.seed,
        }
    }

    fn detr(self, config: Config, mut state: State) -> Result<bool> {
        let arguments = self.arguments;
        let Some(cache) = &arguments.cache else { bail!("--cache: a DETR's training needs a folder for its backbone's features") };
        ensure!(!arguments.labels.is_empty(), "--labels: a DETR's training needs labels, or at least lists of images, in COCO's format");
        ensure!(arguments.losses.is_empty(), "--losses: a DETR learns from the labels, and from a teacher where there is one");
        let trained = Trained::with_stages(&config.backbone, arguments.unfreeze)?;
        state.freeze(&trained);
        match groups::set(&config, &mut state, arguments.groups, arguments.seed)? {
            had if had < arguments.groups => eprintln!("groups of queries that begin: {}", arguments.groups - had),
            had if had > arguments.groups => eprintln!("groups of queries that are dropped: {}", had - arguments.groups),
            _ => {}
        }
        let pictures = self.pictures(&config.labels)?;
        let bars = Bars::default();
        let views = Views::new(arguments.views(), arguments.seed, arguments.close_ups, &pictures);
        let build = |checkpoint: &Checkpoint, stage: usize, pictures: &Pictures| {
            let features = Features::open_or_build(cache, checkpoint, stage, pictures, &views, &bars);
            bars.end();
            features
        };
        let features = build(&state.detector(&config)?, trained.first_stage(&config.backbone), &pictures)?;
        let mut hint = None;
        let teacher = match &arguments.teacher {
            Some(path) => {
                let checkpoint = model::open(path, &arguments.guess)?;
                let teacher = Teacher::new(&checkpoint, &config, &state.weights, arguments.teach_weight)
                    .with_context(|| format!("--teacher {}", path.display()))?;
                let how = if teacher.teaching().same { "query by query" } else { "by matched queries" };
                eprintln!("the teacher knows {} of {} classes and teaches {how}", teacher.known(), config.labels.len());
                let frozen = Trained::default().first_stage(&checkpoint.config.backbone);
                let teachers = build(&checkpoint, frozen, &pictures)?;
                let (theirs, ours) = (teachers.size(), config.backbone.reduced(trained.first_stage(&config.backbone), features.size()));
                if theirs != ours {
                    let [theirs, ours] = [theirs, ours].map(|[rows, columns]| format!("{rows}×{columns}"));
                    eprintln!("its encoder's tokens are no hint: it has {theirs} of a picture, the student {ours}");
                } else if teacher.width() != config.d_model {
                    eprintln!("its encoder's tokens are a hint through a map from {} to {} numbers", config.d_model, teacher.width());
                    hint = Some(teacher.width());
                }
                Some((teacher, teachers))
            }
            None => None,
        };
        complain(&arguments.images.display().to_string(), "labelled as if they weren't turned upright", &features.turned);
        hints::set(&config, &mut state, hint, arguments.seed);
        let mut data = Data::new(pictures, features, arguments.repeat_rare, arguments.batch, arguments.seed)?;
        if let Some((teacher, features)) = teacher {
            data = data.taught(teacher, features);
        }
        eprintln!("every picture is seen once in {:.0} steps", data.steps_per_epoch().ceil());
        complain("--images", "could not be decoded and are left out", data.undecoded());
        let method = Method {
            criterion: Criterion::new(config.class_activation),
            denoising: arguments.denoising(),
            noise: Noise::default(),
            tokens: 4,
            shards: self.shards()?,
            device: self.device.clone(),
        };
        let settings = self.settings(trained);
        write(&self.folder.options(), &self.options)?;
        let losses = |state: &State, rng: &mut Rng| {
            let examples = data.batch(state.step as usize)?;
            step(&config, &state.weights, &settings.trained, &method, &examples, rng)
        };
        work(arguments, self.folder, &Architecture::Detr(config.clone()), &settings, &losses, self.dev.as_ref(), state)
    }
}

/// What a network of RT-DETR's family learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Losses {
    /// The teacher's feature maps, as the neck makes them: what heals a trimmed model. Needs no labels
    Features,
    /// The teacher's scores, boxes and box distributions. Needs no labels
    Outputs,
    /// The losses that the architecture was trained with
    Labels,
}

/// What a step of training is computed on.
#[derive(Clone, Copy, Default, clap::ValueEnum, serde::Serialize)]
enum Computer {
    #[default]
    Cpu,
    /// An NVIDIA card: needs a detrim that was built with --features cuda
    Cuda,
    /// A Mac's: needs a detrim that was built with --features metal
    Metal,
}

impl Computer {
    fn device(self) -> Result<Device> {
        match self {
            Computer::Cpu => Ok(Device::Cpu),
            Computer::Cuda => Device::new_cuda(0).context("--device cuda"),
            Computer::Metal => Device::new_metal(0).context("--device metal"),
        }
    }
}

/// What a step holds in memory so many times.
fn few(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number <= 4096).ok_or_else(|| "a whole number is needed, at most 4096".into())
}

fn few_at_least_one(text: &str) -> Result<usize, String> {
    count(text).and_then(|_| few(text))
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or_else(|| "a number above 0 is needed".into())
}

/// Up to some two years.
fn minutes(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|minutes| (0.0..=1e6).contains(minutes)).ok_or_else(|| "a number of minutes is needed, at most a million".into())
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
