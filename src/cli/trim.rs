//! `detrim trim`: the commands of a whole trimming, one after another.

use super::bars::Bars;
use super::budget::BudgetArguments;
use super::calibration::{self, open_recipe, rounded};
use super::convert::Dtype;
use super::model::{self, GuessArguments};
use super::outputs::plan_beside;
use super::{eval, print, prune, train};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use detrim::checkpoint::{self, Guess, write_own};
use detrim::eval::profile::Profile;
use detrim::output::write;
use detrim::prune::importance::Importance;
use detrim::prune::quantise::quantise;
use detrim::prune::recipe::Recipe;
use detrim::train::data::one_size;
use detrim::train::network::is_anchored;
use detrim::train::state;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Trim a detector from start to finish: take out, repair, fine-tune with the whole one as the teacher, quantise, measure.
///
/// What is half done lies in a folder beside the result: after Ctrl-C the same command goes on there. Every step is a command of its own,
/// which is printed before it runs. Several recipes are several rounds: each is repaired and fine-tuned before the next chooses, which
/// keeps more of the accuracy where much is to go.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim trim base.safetensors --images photos --labels people.json --out small.safetensors --dtype int8\n  \
    detrim trim base.safetensors --params -55% --macs -40% --images photos --labels people.json --out small.safetensors\n  \
    detrim trim base.safetensors --recipe layers --images photos --labels people.json --dev dev.json --steps 3000 --out small.safetensors\n  \
    detrim trim base.safetensors --recipe channels --recipe layers --recipe speed --images photos --labels people.json --out small.safetensors")]
pub struct Arguments {
    /// The detector to trim. Where it is the state of a training run, its denoising and dense supervision take part in the fine-tuning
    model: PathBuf,
    /// What to take out: layers, heads, channels, article, combined, speed, or a recipe's TOML file. May be given several times, for as many
    /// rounds; a budget in a later one is counted from MODEL, too. Limits may take its place
    #[arg(long, visible_alias = "preset", value_name = "NAME", default_value = "combined", group = "what")]
    recipe: Vec<String>,
    #[command(flatten)]
    budget: BudgetArguments,
    /// What `detrim bench --profile` measured on the device that the detector is for: a recipe's limit on latency goes by it
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Folder of pictures, which the labels' file names are in
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Pictures to choose and repair by
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::count)]
    pictures: usize,
    /// What decides which units go; see detrim importance
    #[arg(long, value_enum, default_value_t)]
    importance: Importance,
    /// Boxes in COCO's format to fine-tune on; see detrim train. Not needed with --steps 0
    #[arg(long, value_name = "JSON", required_unless_present = "steps")]
    labels: Vec<PathBuf>,
    /// Find the model's classes among the labels' categories by name (model), or by number in files that share no name with it (ids)
    #[arg(long, value_parser = ["model", "ids"], default_value = "model")]
    classes: String,
    /// Measure how often a list of detections among the labels is right; see detrim train
    #[arg(long)]
    calibrate: bool,
    /// Held-out boxes in COCO's format: choose the best state, and measure the result
    #[arg(long, value_name = "JSON")]
    dev: Option<PathBuf>,
    /// Steps of fine-tuning, in each round; 0 leaves the networks as they were re-solved
    #[arg(long, default_value_t = 4000)]
    steps: u64,
    /// The learning rate at its highest
    #[arg(long, default_value_t = 1e-4)]
    rate: f64,
    /// Views of each picture; see detrim train
    #[arg(long, default_value_t = 2)]
    views: usize,
    /// Of the views beside the plain one, the share that show one object close up; see detrim train
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    close_ups: f64,
    /// Show pictures of rare classes more often; see detrim train
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    repeat_rare: f64,
    /// Fine-tune this many of the backbone's last stages too
    #[arg(long, value_name = "N", default_value_t = 0)]
    unfreeze: usize,
    #[arg(long, default_value_t = 0, help = "Chooses the pictures and their order: the same seed gives the same result")]
    seed: u64,
    /// How matrices and convolutions are stored
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Trimmed model to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder for what is half done [default: the result's name with .work]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    guess: GuessArguments,
}

/// What is taken out at once, and where what comes of it lies.
struct Round {
    recipe: Recipe,
    /// The options of `detrim prune` that ask for it.
    options: Vec<String>,
    trimmed: PathBuf,
    healing: PathBuf,
    /// The plan's place beside the result.
    plan: PathBuf,
    /// What the user is shown before the steps' numbers.
    title: String,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { model: file, images, out, dev, .. } = &arguments;
    let work = arguments.work.clone().unwrap_or_else(|| out.with_extension("work"));
    let parent = work.join("parent.safetensors");
    // Whatever is wrong with what was asked for, before anything that takes long.
    let profile = arguments.profile.as_deref().map(Profile::open).transpose()?;
    let rounds = rounds(&arguments, &work, asked_for(&arguments, profile.is_some())?)?;
    let recipes: Vec<&Recipe> = rounds.iter().map(|round| &round.recipe).collect();
    let Some(last) = rounds.last() else { bail!("there is no --recipe") };
    // (Rounds differ in their folders alone.)
    let whole = model::open_any(file, &arguments.guess)?;
    let heals = arguments.steps > 0;
    if heals {
        ensure!(!arguments.labels.is_empty(), "fine-tuning needs --labels; --steps 0 leaves it out");
        heal(&arguments, &work, last, &parent).parse::<train::Arguments>()?;
        let detr = whole.config.detr("fine-tuning (with --steps 0, detrim trim does without)")?;
        one_size(detr.pixels.resize)?;
        train::classes::ensure_common(&arguments.labels, detr, arguments.classes == "ids")?;
    }
    let sha256 = model::sha256(file)?;
    let Arguments { pictures, importance, seed, .. } = &arguments;
    let asked = serde_json::json!({
        "model": sha256, "reading of the model (as by --resize)": whole.config, "recipe": recipes, "profile": profile,
        "folder of pictures": images, "number of pictures": pictures, "importance": importance, "seed": seed,
    });
    begin(&asked, &work, &rounds)?;
    // Whatever kind of file the parent is, from here on it is ours: the steps need no guesses about it.
    let bytes = checkpoint::to_bytes(&whole, checkpoint::Storage::F32)?;
    if std::fs::read(&parent).ok().as_ref() != Some(&bytes) {
        write(&parent, &bytes)?;
    }

    // A round that a later one was trimmed from is over.
    let begun = rounds.iter().rposition(|round| round.trimmed.exists()).unwrap_or(0);
    for (i, round) in rounds.iter().enumerate().skip(begun) {
        let before = i.checked_sub(1).map(|i| if heals { healed(&rounds[i], dev.is_some()) } else { rounds[i].trimmed.clone() });
        let from = before.as_deref().unwrap_or(&parent);
        if !round.trimmed.exists() {
            let mut line = Line::new("prune");
            line.put(from);
            for option in &round.options {
                line.put(option);
            }
            line.option("--images", images);
            line.option("--pictures", pictures.to_string()).option("--seed", seed.to_string());
            if let Some(importance) = importance.to_possible_value() {
                line.option("--importance", importance.get_name());
            }
            if let Some(profile) = &arguments.profile {
                line.option("--profile", profile);
            }
            if before.is_some() && !round.recipe.budget.is_empty() {
                line.option("--of", &parent);
            }
            line.option("--dtype", "f32").option("--out", &round.trimmed).show(&format!("{}1/4", round.title))?;
            let mut prune: prune::Arguments = line.parse()?;
            // The first round's plan is for the user's own file.
            prune.parent_sha256 = before.is_none().then(|| sha256.clone());
            prune.metered = Some(arguments.dtype);
            prune::run(prune)?;
        }
        if !heals {
            print(&format!("{}2/4 no fine-tuning is asked for\n", round.title))?;
            continue;
        }
        let mut heal = heal(&arguments, &work, round, &parent);
        // What the network before learnt with takes part. (What isn't the state of a run is opened as another kind of model.)
        let before = before.as_deref().unwrap_or(file);
        if state::read(before).is_ok_and(|(_, run)| is_anchored(&run.weights)) {
            heal.option("--anchors", before);
        }
        heal.show(&format!("{}2/4", round.title))?;
        if !train::run(heal.parse()?)? {
            bail!("{} isn't written, since fine-tuning isn't finished: the same command goes on with it", out.display());
        }
    }

    let healed = if heals { healed(last, dev.is_some()) } else { last.trimmed.clone() };
    print(&format!("3/4 {} becomes {}\n", healed.display(), out.display()))?;
    let card = checkpoint::open_any(&last.trimmed, &Guess::default())?.card;
    let mut result = checkpoint::open_any(&healed, &Guess::default())?;
    result.card = card;
    result.card.name = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if heals {
        result.card.provenance.push(format!("fine-tuned with {} as the teacher for {} steps of 8 pictures", whole.card.name, arguments.steps));
    }
    if arguments.dtype == Dtype::Int8 {
        let bars = Bars::default();
        let (inputs, _) = calibration::read(std::slice::from_ref(images), *pictures, 0, *seed, result.config.pixels(), &bars)?;
        result.weights = quantise(&result.config, &result.weights, &inputs, &bars)?;
        result.card.provenance.push(rounded(&inputs));
        bars.end();
    }
    for round in &rounds {
        let plan = round.trimmed.with_extension("toml");
        if plan.exists() {
            write(&round.plan, &std::fs::read(&plan)?)?;
        }
    }
    write_own(out, &result, arguments.dtype.storage())?;
    let Some(dev) = dev else {
        return print("4/4 without --dev there is nothing to measure on\n");
    };
    let found = work.join("parent.json");
    let mut line = Line::new("eval");
    line.option("--model", &parent).option("--annotations", dev).option("--images", images).option("--save", &found).show("4/4")?;
    eval::run(line.parse()?)?;
    let mut line = Line::new("eval");
    line.option("--model", out).option("--annotations", dev).option("--images", images).option("--against", &found).show("4/4")?;
    eval::run(line.parse()?)
}

/// What is to be taken out, round by round: as options of `detrim prune`, and what they mean.
fn asked_for(arguments: &Arguments, profiled: bool) -> Result<Vec<(Vec<String>, Recipe)>> {
    let budget = arguments.budget.budget()?;
    if !budget.is_empty() {
        let options = budget.named().into_iter().filter_map(|(name, limit)| Some(format!("--{name}={}", String::from(limit?)))).collect();
        return Ok(vec![(options, Recipe { budget, ..Recipe::default() })]);
    }
    arguments.recipe.iter().map(|name| Ok((vec!["--recipe".into(), name.clone()], open_recipe(name, profiled)?))).collect()
}

/// One round for each recipe. The only one's plan is called as the result; of several, each with its number.
fn rounds(arguments: &Arguments, work: &Path, asked_for: Vec<(Vec<String>, Recipe)>) -> Result<Vec<Round>> {
    let Arguments { out, .. } = arguments;
    let mut given = vec![&*arguments.model];
    given.extend(arguments.recipe.iter().map(Path::new));
    given.extend([&arguments.profile, &arguments.dev].into_iter().flatten().chain(&arguments.labels).map(|path| &**path));
    let (count, plan) = (asked_for.len(), plan_beside(out, &given)?);
    let round = |(i, (options, recipe)): (usize, (Vec<String>, Recipe))| {
        let number = if i == 0 { String::new() } else { (i + 1).to_string() };
        Ok(Round {
            recipe,
            options,
            trimmed: work.join(format!("trimmed{number}.safetensors")),
            healing: work.join(format!("healing{number}")),
            plan: if count == 1 { plan.clone() } else { plan_beside(&plan.with_extension(format!("{}.safetensors", i + 1)), &given)? },
            title: if count == 1 { String::new() } else { format!("round {} of {count}, ", i + 1) },
        })
    };
    asked_for.into_iter().enumerate().map(round).collect()
}

/// What a round's fine-tuning has made. (An earlier run may have had a --dev by which it chose.)
fn healed(round: &Round, chosen: bool) -> PathBuf {
    let best = Some(round.healing.join("best.safetensors")).filter(|best| chosen && best.exists());
    best.unwrap_or_else(|| round.healing.join("last.safetensors"))
}

/// Opens the folder of what is half done, and refuses to go on there with what was begun by asking for something else.
fn begin(asked: &Value, work: &Path, rounds: &[Round]) -> Result<()> {
    std::fs::create_dir_all(work).with_context(|| work.display().to_string())?;
    let file = work.join("asked.json");
    let begun = rounds.iter().filter(|round| round.trimmed.exists()).count();
    if begun > 0 {
        let before: Value = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        for (what, is) in asked.as_object().into_iter().flatten() {
            // Rounds that haven't begun may be others.
            let same = match (before.get(what), is) {
                (Some(Value::Array(before)), Value::Array(is)) => before.get(..begun).is_some_and(|before| is.starts_with(before)),
                (before, is) => before == Some(is),
            };
            ensure!(same, "{}: what is half done there was begun with another {what}; give another --work, or remove it", work.display());
        }
    }
    write(&file, &serde_json::to_vec_pretty(asked)?)?;
    Ok(())
}

/// The fine-tuning of what a round trimmed, with the whole as the teacher.
fn heal(arguments: &Arguments, work: &Path, Round { trimmed, healing, .. }: &Round, parent: &Path) -> Line {
    let mut line = Line::new("train");
    line.option("--out", healing).option("--model", trimmed).option("--teacher", parent).option("--images", &arguments.images);
    for labels in &arguments.labels {
        line.option("--labels", labels);
    }
    line.option("--classes", &arguments.classes);
    if arguments.calibrate {
        line.put("--calibrate");
    }
    if let Some(dev) = &arguments.dev {
        line.option("--dev", dev);
    }
    line.option("--close-ups", arguments.close_ups.to_string()).option("--repeat-rare", arguments.repeat_rare.to_string());
    line.option("--cache", work.join("features")).option("--views", arguments.views.to_string()).option("--seed", arguments.seed.to_string());
    line.option("--steps", arguments.steps.to_string()).option("--rate", arguments.rate.to_string());
    line.option("--unfreeze", arguments.unfreeze.to_string()).option("--schedule", "cosine").option("--average", "0.999");
    line
}

/// A command line.
struct Line(Vec<OsString>);

impl Line {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn put(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(word.as_ref().into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.put(name).put(value)
    }

    /// Shows the command to the user as they would type it.
    fn show(&self, step: &str) -> Result<()> {
        let words: Vec<_> = self.0.iter().map(|word| word.to_string_lossy()).collect();
        print(&format!("{step} detrim {}\n", words.join(" ")))
    }

    /// What the command is given.
    fn parse<A: clap::Args>(&self) -> Result<A> {
        Ok(Whole::try_parse_from(&self.0)?.arguments)
    }
}

#[derive(Parser)]
struct Whole<A: clap::Args> {
    #[command(flatten)]
    arguments: A,
}
