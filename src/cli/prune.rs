//! `detrim prune`

use super::bars::Bars;
use super::budget::BudgetArguments;
use super::calibration::{self, HELD_OUT, open_recipe, rounded};
use super::convert::Dtype;
use super::model::{self, ModelArguments};
use super::outputs::plan_beside;
use super::print;
use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use detrim::checkpoint::{Checkpoint, write_own};
use detrim::config::Architecture;
use detrim::eval::profile::Profile;
use detrim::output::write;
use detrim::prune::budget::{Costs, Meter};
use detrim::prune::calibrate::Relevance;
use detrim::prune::difference::{difference, look_on};
use detrim::prune::importance::Importance;
use detrim::prune::inputs::Inputs;
use detrim::prune::layers::runs;
use detrim::prune::plan::{Keep, Origin, Plan};
use detrim::prune::quantise::quantise;
use detrim::prune::recipe::Recipe;
use detrim::prune::repair::Side;
use detrim::prune::search::Found;
use detrim::prune::structure::structures;
use detrim::prune::survey::Surveyor;
use detrim::prune::trial::{Trial, Tried};
use detrim::prune::trim::{Done, Method, carry_out};
use std::path::{Path, PathBuf};

/// Take layers, heads, neurons and channels out of a detector, where they are missed least, and repair what is left.
///
/// Needs pictures, but no labels and no training: minutes on a laptop. `detrim train --teacher PARENT` makes the result better still.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim prune base.safetensors --images photos --recipe layers --out smaller.safetensors\n  \
    detrim prune base.safetensors --images photos --params -55% --macs -40% --dry-run\n  \
    detrim prune base.safetensors --images photos --latency 1.65x --profile laptop.json --out faster.safetensors\n  \
    detrim prune smaller.safetensors --of base.safetensors --images photos --recipe combined --out smallest.safetensors\n  \
    detrim prune base.safetensors --images photos --plan smaller.toml --out again.safetensors")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder of pictures like those that the detector is for
    #[arg(long, value_name = "DIR", required = true)]
    images: Vec<PathBuf>,
    /// Pictures to use of them
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::count)]
    pictures: usize,
    /// Trimmed model to write; the plan that was carried out is written beside it
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// What to take out: layers, heads, channels, article, combined, speed, or a recipe's TOML file
    #[arg(long, visible_alias = "preset", value_name = "NAME", group = "what")]
    recipe: Option<String>,
    /// A plan to carry out. One that was carried out before says by how many pictures, which method and seed; one that you write goes by the
    /// options here
    #[arg(long, value_name = "TOML", group = "what")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    budget: BudgetArguments,
    /// Count the budget's shares and speed-ups (-55%, 1.65x) from this model, where MODEL was made of it by an earlier round of trimming and
    /// fine-tuning
    #[arg(long, value_name = "WHOLE", conflicts_with = "plan")]
    of: Option<PathBuf>,
    /// What `detrim bench --profile` measured on the device that the network is for
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Leave the input its size, which a budget may otherwise make smaller
    #[arg(long)]
    keep_size: bool,
    /// What decides which units go
    #[arg(long, value_enum, default_value_t)]
    importance: Importance,
    /// Leave what remains as it is instead of re-solving it
    #[arg(long)]
    no_repair: bool,
    /// Leave the first decoder layer its self-attention, which sees nothing of the picture, instead of folding it into the queries'
    /// contents as the last act. (A plan says itself whether it folds.)
    #[arg(long)]
    no_fold: bool,
    /// Kept neurons and channels are multiples of this [default: the recipe's, or 8]
    #[arg(long, value_name = "N")]
    multiple: Option<usize>,
    /// Chooses the pictures: the same seed gives the same result
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How matrices and convolutions are stored
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Show the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Where the model is a copy: of the file that it is a copy of
    #[arg(skip)]
    pub parent_sha256: Option<String>,
    /// Where the result is stored otherwise in the end: what a limit on bytes goes by
    #[arg(skip)]
    pub metered: Option<Dtype>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let path = &arguments.model.model;
    // Before anything that takes long.
    let profile = arguments.profile.as_deref().map(Profile::open).transpose()?;
    let budget = arguments.budget.budget()?;
    let file = arguments.recipe.as_deref().map(Path::new);
    let given = [Some(&**path), file, arguments.plan.as_deref(), arguments.of.as_deref(), arguments.profile.as_deref()];
    let given: Vec<&Path> = given.into_iter().flatten().collect();
    let beside = arguments.out.as_ref().map(|out| plan_beside(out, &given)).transpose()?;
    let checkpoint = arguments.model.open_any()?;
    let config = &checkpoint.config;
    let (repair, fold) = (!arguments.no_repair, !arguments.no_fold && config.as_detr().is_some());
    let mut method = Method { importance: arguments.importance, repair, seed: arguments.seed, fold };
    let parent_sha256 = arguments.parent_sha256.map_or_else(|| model::sha256(path), Ok)?;
    let replay = arguments.plan.as_deref().map(|file| open_plan(file, config, path, &parent_sha256)).transpose()?;
    let (mut pictures, mut seed) = (arguments.pictures, arguments.seed);
    let origin = replay.as_ref().and_then(|plan| plan.origin.clone());
    if let Some(origin) = &origin {
        (pictures, seed) = (origin.pictures, origin.seed);
        method = Method { importance: origin.importance, repair: origin.repair, seed, ..method };
    }

    let mut meter = Meter::new(config, &checkpoint.card, arguments.metered.unwrap_or(arguments.dtype).storage(), profile.as_ref())?;
    let whole = arguments.of.as_deref().map(|file| model::open_any(file, &arguments.model.guess)).transpose()?;
    if let Some(whole) = &whole {
        meter = meter.counted_from(&whole.config)?;
    }
    let recipe = match (&replay, &arguments.recipe) {
        (Some(_), _) => None,
        (None, Some(name)) => Some(open_recipe(name, profile.is_some())?),
        (None, None) if budget.is_empty() => {
            bail!("nothing is asked for: give --recipe, --plan, or a budget (--params, --macs, --bytes, --latency)")
        }
        (None, None) => Some(Recipe { budget: budget.clone(), ..Recipe::default() }),
    };
    let recipe = recipe.map(|recipe| Recipe {
        multiple: arguments.multiple.or(recipe.multiple),
        keep_size: arguments.keep_size || recipe.keep_size,
        ..recipe
    });
    if let Some(recipe) = &recipe {
        ensure!(whole.is_none() || !recipe.budget.is_empty(), "--of is what a budget is counted from, and this recipe has none");
        recipe.check(config, &meter, fold).with_context(|| arguments.recipe.clone().unwrap_or_else(|| budget.options()))?;
    }

    let bars = Bars::default();
    let (inputs, held_out) = calibration::read(&arguments.images, pictures, HELD_OUT, seed, config.pixels(), &bars)?;
    if let Some(origin) = origin.filter(|origin| origin.calibration != inputs.hash) {
        eprintln!("warning: the plan was carried out with {} other pictures, so that its repair will differ", origin.pictures);
    }

    let predictions = look_on(config, &checkpoint.weights, &inputs, &bars)?;
    let (relevance, inputs) = (Relevance::of(&predictions), inputs.selected_by(&predictions));
    let parent = Side { config, weights: &checkpoint.weights, inputs: &inputs, relevance: &relevance };
    let (plan, predicted, trials) = match (replay, recipe) {
        (None, Some(recipe)) => {
            let Tried { found: Found { plan, predicted }, trials } = recipe.plan(&Surveyor::new(&parent, method, &bars), &meter)?;
            bars.end();
            (plan, predicted, trials)
        }
        (plan, _) => (plan.unwrap_or_default(), f64::NAN, vec![]),
    };
    let (before, after) = (meter.costs(config)?, meter.costs(&plan.config(config))?);
    print(&(table(&checkpoint, &plan) + &summary(&before, &after)))?;
    if let Some(file) = &arguments.of {
        print(&format!("of {}: {}", file.display(), summary(&meter.whole(config)?, &after)))?;
    }
    print(&forecast(predicted, &trials))?;
    let Some((out, beside)) = arguments.out.as_ref().zip(beside).filter(|_| !arguments.dry_run) else { return Ok(()) };

    let mut done = carry_out(&parent, &plan, method, &bars)?;
    if arguments.dtype == Dtype::Int8 {
        done.weights = quantise(&done.config, &done.weights, &inputs, &bars)?;
    }
    bars.end();
    print(&(whose_neurons(config, &done.plan) + &seen(&checkpoint, &done, &inputs, &held_out, &bars)?))?;
    let mut plan = done.plan;
    plan.origin = Some(Origin::new(&checkpoint.card, config, &parent_sha256, &inputs, method));
    let mut card = checkpoint.card.clone();
    card.name = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let what = match (&arguments.recipe, &arguments.plan) {
        (Some(recipe), _) => format!("--recipe {recipe}"),
        (_, Some(plan)) => format!("--plan {}", plan.display()),
        _ => budget.options(),
    };
    card.provenance.extend(provenance(&checkpoint.card.name, &parent_sha256, &what, method, &inputs));
    if arguments.dtype == Dtype::Int8 {
        card.provenance.push(rounded(&inputs));
    }
    let trimmed = Checkpoint { config: done.config, weights: done.weights, card, guesses: Vec::new() };
    // The model last: where it is, its plan is.
    write(&beside, plan.to_toml()?.as_bytes())?;
    write_own(out, &trimmed, arguments.dtype.storage())?;
    print(&format!("wrote {} ({:.1} MB) and {}\n", out.display(), std::fs::metadata(out)?.len() as f64 / 1e6, beside.display()))
}

/// Whose neurons layers have that stand for others.
fn whose_neurons(parent: &Architecture, plan: &Plan) -> String {
    let mut text = String::new();
    for (own, last) in runs(parent, &plan.dropped()) {
        let Some(own) = own.filter(|own| *own != last) else { continue };
        let Architecture::Detr(parent) = parent else { continue };
        let name = format!("{}.ffn", own.prefix());
        if let Some(Keep::Units(units)) = plan.keep.get(&name) {
            let own_units = units.iter().filter(|&&unit| unit < own.ffn(parent)).count();
            text += &format!("{name} has {own_units} of its own neurons and {} of layers that it stands for\n", units.len() - own_units);
        }
    }
    text
}

/// How differently the trimmed network sees pictures that took no part.
fn seen(parent: &Checkpoint<Architecture>, done: &Done, inputs: &Inputs, held_out: &Inputs, bars: &Bars) -> Result<String> {
    // (Queries that are selected are compared by their tokens.)
    if done.config.queries() < parent.config.queries() && parent.config.as_detr().is_some() {
        return Ok("with fewer queries the outputs can't be compared one by one: detrim eval measures what was lost\n".into());
    }
    if held_out.is_empty() {
        return Ok(format!("all {} pictures took part, so that there are none to measure the difference of the outputs on\n", inputs.len()));
    }
    let [theirs, ours] =
        [(&parent.config, &parent.weights), (&done.config, &done.weights)].map(|(config, weights)| look_on(config, weights, held_out, bars));
    let (theirs, ours) = (theirs?, ours?);
    bars.end();
    Ok(format!("difference of the outputs on {} other pictures: {:.3}\n", held_out.len(), difference(&theirs, &ours)))
}

/// Of what, by what and on which pictures a network was made.
fn provenance(parent: &str, sha256: &str, what: &str, method: Method, inputs: &Inputs) -> [String; 2] {
    let how = if method.repair { "chosen and repaired" } else { "chosen, not repaired," };
    [
        format!("trimmed from {parent} (sha256 {sha256}) by detrim {}: {what}", env!("CARGO_PKG_VERSION")),
        format!("{how} on {} pictures ({})", inputs.len(), inputs.hash),
    ]
}

/// A plan for this very parent: the configuration, the file and the hash of its bytes.
fn open_plan(file: &Path, config: &Architecture, parent: &Path, parent_sha256: &str) -> Result<Plan> {
    let name = file.display().to_string();
    let plan = Plan::parse(&std::fs::read_to_string(file).with_context(|| name.clone())?, &name)?;
    if let Some(origin) = plan.origin.as_ref().filter(|origin| !["", parent_sha256].contains(&&*origin.parent_sha256)) {
        bail!("{name}: this plan is for {} (sha256 {}), not for {}", origin.parent, origin.parent_sha256, parent.display());
    }
    if let Some(Origin { input, pictures, .. }) = &plan.origin {
        let is = config.pixels().resize.to_string();
        ensure!(["", &is].contains(&&**input), "{name}: this plan was carried out with an input of {input}, not {is}: give --resize as then");
        ensure!(*pictures > 0, "{name}: [origin] says that no pictures took part; without [origin] a plan goes by the options");
    }
    plan.check(config).context(name)?;
    Ok(plan)
}

/// What goes, structure by structure.
fn table(checkpoint: &Checkpoint<Architecture>, plan: &Plan) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["", "kept", "of"]);
    if let Some(resize) = plan.resize {
        table.add_row(["input".into(), resize.to_string(), checkpoint.config.pixels().resize.to_string()]);
    }
    let [encoder, decoder] = checkpoint.config.layers();
    let layers = [("encoder layers", &plan.drop_encoder, encoder), ("decoder layers", &plan.drop_decoder, decoder)];
    for (name, dropped, count) in layers.into_iter().filter(|(_, dropped, _)| !dropped.is_empty()) {
        let left: Vec<String> = (0..count).filter(|i| !dropped.contains(i)).map(|i| i.to_string()).collect();
        table.add_row([name.to_string(), left.join(" "), count.to_string()]);
    }
    let dropped = plan.dropped();
    for structure in structures(&checkpoint.config) {
        if structure.is_heads() && structure.stays(&dropped, false) && !structure.stays(&dropped, plan.fold) {
            table.add_row([structure.name.clone(), "folded".into(), structure.units.to_string()]);
        } else if let Some(keep) = plan.keep.get(&structure.name).filter(|keep| keep.count() < structure.units) {
            let kept = match keep {
                Keep::Units(units) if structure.is_heads() => units.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
                keep => keep.count().to_string(),
            };
            table.add_row([structure.name.clone(), kept, structure.units.to_string()]);
        }
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

fn summary(before: &Costs, after: &Costs) -> String {
    let less = |before: f64, after: f64| format!("{:+.1}%", 100.0 * (after / before - 1.0));
    let mut text = format!(
        "parameters {:.2} M → {:.2} M ({}), MACs {:.3} G → {:.3} G ({}), file {:.2} MB → {:.2} MB ({})\n",
        before.params / 1e6,
        after.params / 1e6,
        less(before.params, after.params),
        before.macs / 1e9,
        after.macs / 1e9,
        less(before.macs, after.macs),
        before.bytes / 1e6,
        after.bytes / 1e6,
        less(before.bytes, after.bytes)
    );
    if let (Some(before), Some(after)) = (before.latency, after.latency) {
        text += &format!("milliseconds by the profile {before:.1} → {after:.1} ({:.2}x)\n", before / after);
    }
    text
}

/// What the plan is thought to cost, and what it was chosen among.
fn forecast(predicted: f64, trials: &[Trial]) -> String {
    let mut text = String::new();
    if predicted.is_finite() {
        text += &format!("predicted difference of the outputs: {predicted:.3} (0: none, 1: as if nothing were found)\n");
    }
    let trials = trials.iter().map(|Trial { layers: [encoder, decoder], difference }| format!("{encoder} + {decoder}: {difference:.3}"));
    let trials: Vec<String> = trials.collect();
    if !trials.is_empty() {
        text += &format!("carried out on some of the pictures, the difference by encoder + decoder layers: {}\n", trials.join(", "));
    }
    text
}
