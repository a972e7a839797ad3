//! `detrim inspect`

use super::model::{ModelArguments, class_names, height_width};
use super::print;
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use detrim::checkpoint::{Checkpoint, ClassNames};
use detrim::config::{Backbone, ClassActivation};
use detrim::eval::cost::{Part, cost, part};
use detrim::image::typical_size;
use detrim::weights::Data;
use serde_json::json;

/// Show what a checkpoint holds: parts, shapes, parameters, bytes, multiply-accumulates.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The same as --class-names
    #[arg(long, value_name = "FILE", value_parser = class_names, conflicts_with = "class_names")]
    labels: Option<ClassNames>,
    /// Input size that multiply-accumulates are counted for [default: the model's own, for a picture of 4:3]
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = height_width)]
    size: Option<[usize; 2]>,
    /// List all tensors
    #[arg(long)]
    tensors: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub fn run(mut arguments: Arguments) -> Result<()> {
    arguments.model.guess.name_classes(arguments.labels.take());
    let checkpoint = arguments.model.read()?;
    let size = match arguments.size {
        Some(size) => size,
        None => typical_size(checkpoint.config.pixels.resize)?,
    };
    let parts: Vec<(Part, usize)> = cost(&checkpoint.config, size).into_iter().map(|part| (part.clone(), bytes(&checkpoint, &part.name))).collect();
    print(&if arguments.json { json(&checkpoint, size, &parts, arguments.tensors)? } else { tables(&checkpoint, size, &parts, arguments.tensors) })
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> usize {
    let tensors = &checkpoint.weights.tensors;
    tensors.iter().filter(|(tensor, _)| part(tensor) == name).map(|(_, tensor)| tensor.bytes()).sum()
}

fn json(checkpoint: &Checkpoint, size: [usize; 2], parts: &[(Part, usize)], tensors: bool) -> Result<String> {
    let parts_json: Vec<_> = parts
        .iter()
        .map(|(part, bytes)| json!({ "name": part.name, "shape": part.shape, "parameters": part.parameters, "bytes": bytes, "macs": part.macs }))
        .collect();
    let (parameters, bytes, macs) = total(parts);
    let mut out = json!({
        "card": checkpoint.card,
        "config": checkpoint.config,
        "guesses": checkpoint.guesses,
        "size": size,
        "parts": parts_json,
        "total": { "parameters": parameters, "bytes": bytes, "macs": macs },
    });
    if tensors {
        let list = checkpoint.weights.tensors.iter().map(|(name, tensor)| json!({ "name": name, "shape": tensor.shape, "type": kind(&tensor.data) }));
        out["tensors"] = list.collect();
    }
    Ok(serde_json::to_string_pretty(&out)? + "\n")
}

fn tables(checkpoint: &Checkpoint, size: [usize; 2], parts: &[(Part, usize)], tensors: bool) -> String {
    let mut text = summary(checkpoint);
    let (parameters, bytes, macs) = total(parts);
    let mut table = new_table(&["part", "", "parameters", "bytes", "MACs", "of all"]);
    for (part, bytes) in parts {
        let share = if macs == 0 { 0.0 } else { 100.0 * part.macs as f64 / macs as f64 };
        let numbers = [grouped(part.parameters as u64), grouped(*bytes as u64), giga(part.macs), format!("{share:.1}%")];
        table.add_row([part.name.clone(), part.shape.clone()].into_iter().chain(numbers));
    }
    table.add_row([
        "total".into(),
        format!("at {} × {}", size[0], size[1]),
        grouped(parameters as u64),
        grouped(bytes as u64),
        giga(macs),
        String::new(),
    ]);
    align_right(&mut table, 2..6);
    text += &format!("{table}\n");
    text += &format!(
        "{:.2} M parameters, {:.2} MB in memory, {:.2} GMAC at {} × {}\n",
        parameters as f64 / 1e6,
        bytes as f64 / 1e6,
        macs as f64 / 1e9,
        size[0],
        size[1]
    );
    if tensors {
        let mut table = new_table(&["tensor", "shape", "type", "numbers"]);
        for (name, tensor) in &checkpoint.weights.tensors {
            table.add_row([name.clone(), format!("{:?}", tensor.shape), kind(&tensor.data).into(), grouped(tensor.len() as u64)]);
        }
        align_right(&mut table, 3..4);
        text += &format!("{table}\n");
    }
    text
}

/// A few lines about the model.
fn summary(checkpoint: &Checkpoint) -> String {
    let Checkpoint { config, card, .. } = checkpoint;
    let backbone = match &config.backbone {
        Backbone::Resnet(net) => format!("ResNet of {:?} blocks", net.stages.iter().map(|s| s.blocks.len()).collect::<Vec<_>>()),
        Backbone::EfficientNetLite(net) => format!("EfficientNet-Lite of {:?} blocks", net.stages.iter().map(Vec::len).collect::<Vec<_>>()),
    };
    let named = config.labels.iter().filter(|label| !label.is_gap()).count();
    let mut lines = vec![if card.name.is_empty() { "unnamed".into() } else { card.name.clone() }];
    lines.push(format!(
        "  {backbone}, d_model {}, {} + {} layers, {} queries",
        config.d_model,
        config.encoder.len(),
        config.decoder.len(),
        config.queries
    ));
    let scores = match config.class_activation {
        ClassActivation::Softmax => "softmax with no-object",
        ClassActivation::Sigmoid => "sigmoid",
    };
    let activation = format!("{:?}", config.activation).to_lowercase();
    lines.push(format!("  {named} classes ({scores}), feed-forward {activation}, input {}", config.pixels.resize));
    if let Some(threshold) = card.threshold {
        lines.push(format!("  threshold {threshold}"));
    }
    for line in card.provenance.iter().chain((!card.licence.is_empty()).then_some(&card.licence)) {
        lines.push(format!("  {line}"));
    }
    lines.join("\n") + "\n"
}

fn total(parts: &[(Part, usize)]) -> (usize, usize, u64) {
    let parameters = parts.iter().map(|(part, _)| part.parameters).sum();
    (parameters, parts.iter().map(|(_, bytes)| bytes).sum(), parts.iter().fold(0, |sum: u64, (part, _)| sum.saturating_add(part.macs)))
}

fn kind(data: &Data) -> &'static str {
    match data {
        Data::F32(_) => "f32",
        Data::F16(_) => "f16",
        Data::I8(_) => "i8",
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `1234567` → `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Multiply-accumulates in thousand millions.
fn giga(macs: u64) -> String {
    format!("{:.3} G", macs as f64 / 1e9)
}
