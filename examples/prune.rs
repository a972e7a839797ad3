//! Prune a detector by a preset, reconstruct what remains on images, and round it to int8:
//!
//! ```sh
//! cargo run --release --example prune -- models/f16/detr-lite0-accuracy.safetensors photos layers smaller.safetensors
//! ```
//!
//! No labels are needed. `detrim prune` does the same with more options.

use anyhow::{Result, bail};
use detrim::checkpoint::{Checkpoint, Guess, Storage, open_any, write_own};
use detrim::progress::Silent;
use detrim::prune::budget::{Costs, Meter};
use detrim::prune::calibrate::Relevance;
use detrim::prune::difference::look;
use detrim::prune::importance::Importance;
use detrim::prune::inputs::Inputs;
use detrim::prune::quantise::quantise;
use detrim::prune::recipe::Recipe;
use detrim::prune::repair::Side;
use detrim::prune::survey::Surveyor;
use detrim::prune::trim::{Method, carry_out};
use std::path::{Path, PathBuf};

/// Prunes `model` by `recipe` (a preset's name or a TOML file) on up to 64 of a folder's images and writes it to `out`; the costs before and after.
pub fn prune(model: &Path, images: &Path, recipe: &str, out: &Path) -> Result<[Costs; 2]> {
    let Checkpoint { config, weights, mut card, .. } = open_any(model, &Guess::default())?;

    // Calibration: images as the network receives them, and how much each query counts on each of them.
    let mut files = std::fs::read_dir(images)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    let inputs = Inputs::open(&files, 64, 0, config.pixels(), &|| {}, &mut |file, error| eprintln!("left out: {}: {error}", file.display()))?;
    let predictions = look(&config, &weights, &inputs)?;
    let (relevance, inputs) = (Relevance::of(&predictions), inputs.selected_by(&predictions));
    let unpruned = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };

    // The plan: which layers, heads, neurons and channels stay.
    let method = Method { importance: Importance::Obs, repair: true, seed: 0, fold: config.as_detr().is_some() };
    let meter = Meter::new(&config, &card, Storage::Int8, None)?;
    let mut recipe = Recipe::open(recipe)?;
    recipe.leave_out_latency("the preset")?;
    let plan = recipe.plan(&Surveyor::new(&unpruned, method, &Silent), &meter)?.found.plan;

    // Surgery, reconstruction by least squares, GPTQ.
    let pruned = carry_out(&unpruned, &plan, method, &Silent)?;
    let weights = quantise(&pruned.config, &pruned.weights, &inputs, &Silent)?;
    card.provenance.push(format!("pruned on {} images", inputs.len()));
    let costs = [meter.costs(&config)?, meter.costs(&pruned.config)?];
    write_own(out, &Checkpoint { config: pruned.config, weights, card, guesses: vec![] }, Storage::Int8)?;
    Ok(costs)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, images, recipe, out] = &arguments[..] else { bail!("usage: prune MODEL IMAGES RECIPE OUT") };
    let [before, after] = prune(model.as_ref(), images.as_ref(), recipe, out.as_ref())?;
    println!("parameters {:.2} M → {:.2} M, MACs {:.2} G → {:.2} G", before.params / 1e6, after.params / 1e6, before.macs / 1e9, after.macs / 1e9);
    Ok(())
}
