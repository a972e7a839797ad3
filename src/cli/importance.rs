//! `detrim importance`

use super::bars::Bars;
use super::calibration;
use super::model::ModelArguments;
use super::print;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use detrim::output::write;
use detrim::prune::calibrate::Relevance;
use detrim::prune::difference::look_on;
use detrim::prune::importance::Importance;
use detrim::prune::overview::{Overview, overview};
use detrim::prune::plot;
use detrim::prune::repair::Side;
use detrim::prune::trim::Method;
use std::path::PathBuf;

/// Show what each head, neuron, channel and layer of a detector is good for, before anything is taken out.
///
/// Needs pictures like those that the detector is for, but no labels. Heads: how much each is missed if it goes alone. Widths: how many
/// neurons or channels can go, the least missed first, before the error passes 1%, 5% and 20%. Layers: how differently the network
/// detects without each, after what is left has been re-solved (0: the same, 1: as if nothing were found). What is low can go:
/// `detrim prune` takes it out.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim importance base.safetensors --images photos\n  \
    detrim importance base.safetensors --images photos --plot importance.svg --json importance.json\n  \
    detrim importance base.safetensors --images photos --pictures 64 --importance attention")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder of pictures like those that the detector is for
    #[arg(long, value_name = "DIR", required = true)]
    images: Vec<PathBuf>,
    /// Pictures to use of them
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = super::count)]
    pictures: usize,
    /// How importance is measured
    #[arg(long, value_enum, default_value_t)]
    importance: Importance,
    /// Draw heads as a heat map, and errors over what is kept
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Write all numbers
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Chooses the pictures: the same seed gives the same result
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let importance = arguments.importance;
    // What a head's number is, and what a width's error is.
    let (head, error) = match importance {
        Importance::Obs => ("output variance lost without it, after re-solving", "output variance lost, after re-solving"),
        Importance::Taylor => ("squared change of all outputs, first order, over squared scores", "share of all first-order changes"),
        Importance::Magnitude => ("share of the layer's squared weights", "share of squared weights"),
        Importance::Attention => ("confidence: mean largest attention weight", "share of squared weights"),
        Importance::Random => bail!("--importance random measures nothing; choose obs, taylor, magnitude or attention"),
    };
    let checkpoint = arguments.model.open_any()?;
    let (config, weights) = (&checkpoint.config, &checkpoint.weights);
    let bars = Bars::default();
    let (inputs, _) = calibration::read(&arguments.images, arguments.pictures, 0, arguments.seed, config.pixels(), &bars)?;
    let predictions = look_on(config, weights, &inputs, &bars)?;
    let (relevance, inputs) = (Relevance::of(&predictions), inputs.selected_by(&predictions));
    let parent = Side { config, weights, inputs: &inputs, relevance: &relevance };
    let found = overview(&parent, Method { importance, repair: true, seed: arguments.seed, fold: false }, &bars)?;
    bars.end();
    print(&tables(&found, head, error, inputs.len()))?;
    if let Some(file) = &arguments.plot {
        write(file, plot::importance(&found, head)?.as_bytes())?;
    }
    if let Some(file) = &arguments.json {
        let all = serde_json::json!({ "model": checkpoint.card.name, "importance": importance, "pictures": inputs.len(), "calibration": inputs.hash,
            "heads": found.heads, "widths": found.widths, "layers": found.layers });
        write(file, serde_json::to_string_pretty(&all)?.as_bytes())?;
    }
    Ok(())
}

fn tables(found: &Overview, head: &str, error: &str, pictures: usize) -> String {
    let mut text = format!("on {pictures} pictures\n\nheads, in %: {head}\n");
    let columns = found.heads.iter().map(|heads| heads.importance.len()).max().unwrap_or(0);
    text += &table(
        std::iter::once(String::new()).chain((0..columns).map(|i| i.to_string())).collect(),
        found.heads.iter().map(|heads| {
            let numbers = heads.importance.iter().map(|x| format!("{:.2}", 100.0 * x));
            std::iter::once(heads.name.clone()).chain(numbers).collect()
        }),
    );
    text += &format!("\nneurons and channels that can go within an error: {error}\n");
    let levels = [0.01, 0.05, 0.2];
    text += &table(
        ["", "of", "at 1%", "at 5%", "at 20%"].map(String::from).into(),
        found.widths.iter().map(|width| {
            let counts = levels.map(|level| width.removable(level).to_string());
            [width.name.clone(), width.units.to_string()].into_iter().chain(counts).collect()
        }),
    );
    if !found.layers.is_empty() {
        text += "\nlayers: difference of the outputs without each (0: none, 1: as if nothing were found)\n";
        let row = |layer: &detrim::prune::overview::Absent| vec![layer.name.clone(), format!("{:.3}", layer.difference)];
        text += &table(["", "difference"].map(String::from).into(), found.layers.iter().map(row));
    }
    text
}

/// Names left, numbers right.
fn table(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.clone());
    rows.for_each(|row| {
        table.add_row(row);
    });
    for column in 1..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}
