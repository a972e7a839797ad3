//! What a run begins with: options, network and state.

use super::Arguments;
use super::classes::{Classes, choose, declared};
use crate::cli::model;
use anyhow::{Context, Result, bail, ensure};
use detrim::checkpoint::Guess;
use detrim::config::{Activation, Architecture, Attention, ClassActivation, Config, DecoderLayer, EncoderLayer, Label};
use detrim::hash::sha256;
use detrim::train::anchors::anchored;
use detrim::train::folder::Folder;
use detrim::train::fresh::fresh;
use detrim::train::options;
use detrim::train::run::State;
use detrim::train::state;
use detrim::train::step::trainable;
use indicatif::HumanCount;
use serde_json::json;
use std::path::PathBuf;

/// Options that decide what each step is given, and how its sums are rounded: a run with others is another run.
const FIXED: [&str; 9] = ["batch", "views", "seed", "calibrate", "close_ups", "repeat_rare", "unfreeze", "shards", "labels_sha256"];
/// Options of which a run makes its network when it begins.
const NETWORK: [&str; 9] = ["model", "backbone", "anchors", "state", "classes", "d_model", "encoder_layers", "decoder_layers", "queries"];
/// Options that change how a run goes on.
const CHANGEABLE: [&str; 14] = [
    "steps",
    "rate",
    "backbone_rate",
    "warmup",
    "schedule",
    "average",
    "denoising",
    "groups",
    "teacher",
    "teach_weight",
    "losses",
    "images",
    "dev",
    "device",
];

/// What the run is started with, and since which step its `--dev` is what it is (`dev_since`; nothing where that begins now). If it was
/// started before with something that can't be changed on the way, that is an error; other differences are told. A run that goes on keeps
/// what it began with: its network is in its state.
pub fn options(arguments: &Arguments, folder: &Folder) -> Result<options::Options> {
    let serde_json::Value::Object(mut now) = serde_json::to_value(arguments)? else { bail!("options are not an object") };
    let hash = |file: &PathBuf| anyhow::Ok(sha256(&std::fs::read(file).with_context(|| file.display().to_string())?));
    now.insert("labels_sha256".into(), arguments.labels.iter().map(hash).collect::<Result<Vec<_>>>()?.into());
    now.insert("dev_sha256".into(), arguments.dev.as_ref().map(hash).transpose()?.into());
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    now.insert("shards".into(), arguments.shards.unwrap_or_else(cores).min(arguments.batch).into());
    if !folder.last().exists() {
        return Ok(now);
    }
    let Some(mut before) = options::read(&folder.options())? else {
        // A run of an older version, or one whose file somebody took away, goes on with what it is given, as if it always had been.
        now.insert("dev_since".into(), json!(0));
        return Ok(now);
    };
    // What versions without these options did.
    before.entry("calibrate").or_insert(json!(false));
    before.entry("close_ups").or_insert(json!(0.0));
    before.entry("repeat_rare").or_insert(json!(0.0));
    before.entry("shards").or_insert(json!(2));
    if arguments.shards.is_none() {
        // The run's own, even where there are other cores.
        now.remove("shards");
    }
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
    // What a run begins with needn't be given again.
    for difference in options::differences(&before, &now, |name| NETWORK.contains(&name) && !now[name].is_null()) {
        eprintln!("warning: {difference}, when the run began: it keeps its network");
    }
    // Older versions didn't look into the file.
    let what = if before.contains_key("dev_sha256") { "dev_sha256" } else { "dev" };
    if before.get(what) == now.get(what) {
        before.entry("dev_since").or_insert(json!(0));
    } else {
        before.remove("dev_since");
        if arguments.dev.is_some() {
            eprintln!("from here on this --dev decides which state is the best, whatever was measured before");
        }
    }
    before.remove("dev_sha256");
    let begun = before.into_iter().filter(|(name, _)| !CHANGEABLE.contains(&name.as_str()));
    now.extend(begun);
    Ok(now)
}

/// Where the run is: in its folder, in the state of another run, or at a model. And which classes it learns, where it begins.
pub fn begin(arguments: &Arguments, folder: &Folder) -> Result<(Architecture, State, Option<Classes>)> {
    if folder.last().exists() {
        let (config, state) = state::read_any(&folder.last())?;
        let stages = state.stages().filter(|_| matches!(config, Architecture::Detr(_)));
        if let Some(stages) = stages.filter(|&stages| stages != arguments.unfreeze) {
            let file = folder.last();
            let (file, asked) = (file.display(), arguments.unfreeze);
            bail!("{file}: the run was begun with --unfreeze {stages}, not {asked}; begin one with --state {file} in another folder to change it");
        }
        eprintln!("going on at step {}", state.step);
        return Ok((config, state, None));
    }
    let (mut config, mut state) = match (&arguments.model, &arguments.backbone, &arguments.state) {
        (Some(path), ..) => {
            let model = model::open_any(path, &arguments.guess)?;
            let mut weights = trainable(&model.weights);
            if let Some(file) = &arguments.anchors {
                let (_, run) = state::read(file)?;
                weights =
                    anchored(model.config.detr("--anchors")?, &weights, &run.weights).with_context(|| format!("--anchors {}", file.display()))?;
            }
            (model.config, State { provenance: model.card.provenance, ..State::new(weights) })
        }
        (_, Some(path), _) => {
            ensure!(matches!(arguments.classes, None | Some(Classes::Labels)), "--classes: a new transformer has no classes but the labels'");
            let parent = model::open_backbone(path, &arguments.guess)?;
            let start = fresh(config(arguments, &parent.config)?, &parent.weights, arguments.seed)?;
            (Architecture::Detr(start.config), State::new(trainable(&start.weights)))
        }
        (.., Some(path)) => state::read_any(path)?,
        _ => bail!("{}: there is no run yet; begin one with --backbone, --model or --state", arguments.out.display()),
    };
    let step = HumanCount(state.step);
    ensure!(state.step < arguments.steps, "the state is at step {step} already: --steps counts all steps, those before too");
    let classes = match &arguments.backbone {
        Some(_) => Classes::Labels,
        // A teacher's maps have no classes.
        None if arguments.labels.is_empty() => Classes::Model,
        None => choose(arguments.classes, &arguments.labels, &mut config, &mut state, arguments.seed)?,
    };
    Ok((config, state, Some(classes)))
}

/// The transformer that a run from a backbone begins with.
fn config(arguments: &Arguments, parent: &Config) -> Result<Config> {
    let labels: Vec<Label> = declared(&arguments.labels)?;
    let Guess { heads, activation, class_activation, .. } = arguments.guess.guess();
    let heads = heads.unwrap_or(8);
    ensure!(heads > 0 && arguments.d_model.is_multiple_of(heads), "--heads {heads}: --d-model {} must be a multiple", arguments.d_model);
    let attention = Attention { heads, head_width: arguments.d_model / heads };
    let class_activation = class_activation.unwrap_or(ClassActivation::Sigmoid);
    let ffn = 4 * arguments.d_model;
    Ok(Config {
        backbone: parent.backbone.clone(),
        d_model: arguments.d_model,
        encoder: vec![EncoderLayer { self_attention: attention, ffn }; arguments.encoder_layers],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn }; arguments.decoder_layers],
        queries: arguments.queries,
        // Softmax has no-object as a class of its own.
        classes: labels.len() + usize::from(class_activation == ClassActivation::Softmax),
        activation: activation.unwrap_or(Activation::Relu),
        class_activation,
        query_content: true,
        box_reference: true,
        labels,
        pixels: parent.pixels.clone(),
    })
}
