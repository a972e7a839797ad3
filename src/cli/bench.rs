//! `detrim bench`

use super::bars::Bars;
use super::model::{ModelArguments, height_width};
use super::{Backend, print};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use detrim::checkpoint::{self, Checkpoint, Guess};
use detrim::config::Architecture;
use detrim::detector::Device;
use detrim::eval::bench::{Report, bench, input_size};
use detrim::eval::nodes::{NodeTime, node_times};
use detrim::eval::pace::{Pace, pace};
use detrim::eval::profile::{Measured, Profile, Verified, verify};
use detrim::output::write;
use detrim::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Measure how long each stage takes, or how long networks of other widths would take.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim bench model.safetensors --threads 1\n  \
    detrim bench small.safetensors --against model.safetensors\n  \
    detrim bench model.safetensors --nodes --threads 1\n  \
    detrim bench model.safetensors --profile laptop.json\n  \
    detrim prune model.safetensors --images photos --latency 1.65x --profile laptop.json --out faster.safetensors")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What to compute on
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Input size as HEIGHTxWIDTH [default: what the model makes of a photo of 960x1280]
    #[arg(long, value_name = "SIZE", value_parser = height_width)]
    size: Option<[usize; 2]>,
    /// Runs of which the median is taken, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::count)]
    runs: usize,
    /// Time the model's operations at many widths, a minute long, and write what `detrim prune --latency` goes by
    #[arg(long, value_name = "FILE", group = "what")]
    profile: Option<PathBuf>,
    /// Compare what a profile predicts for five networks trimmed at random with what they take
    #[arg(long, value_name = "PROFILE", group = "what", conflicts_with = "size")]
    check: Option<PathBuf>,
    /// Run it in turns with this model, so that whatever else the machine does slows both, and say how their times compare
    #[arg(long, value_name = "FILE", group = "what", conflicts_with = "size")]
    against: Option<PathBuf>,
    /// Time every node of the graph on the CPU and list the N that take longest, and the sums by operator
    #[arg(long, value_name = "N", group = "what", num_args = 0..=1, default_missing_value = "15", value_parser = super::count)]
    nodes: Option<usize>,
    /// Threads of the CPU backend [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "what")]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record {
    model: String,
    threads: usize,
    #[serde(flatten)]
    report: Report,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let checkpoint = arguments.model.open_any()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.unwrap_or(0)).build().context("can't start the threads")?;
    if let Some(file) = &arguments.profile {
        return pool.install(|| measure(&arguments, &checkpoint.clone().into_detr("a profile")?, file));
    }
    if let Some(file) = &arguments.check {
        return pool.install(|| check(&arguments, &checkpoint.clone().into_detr("a profile")?, file));
    }
    if let Some(file) = &arguments.against {
        return pool.install(|| compare(&arguments, &checkpoint, file));
    }
    if let Some(most) = arguments.nodes {
        return pool.install(|| nodes(&arguments, &checkpoint, most));
    }
    let report = pool.install(|| pollster::block_on(bench(&checkpoint, arguments.backend.device(), arguments.runs, arguments.size)))?;
    let record = Record { model: arguments.model.model.display().to_string(), threads: pool.current_num_threads(), report };
    print(&if arguments.json { serde_json::to_string_pretty(&record)? + "\n" } else { table(&record) })
}

/// Networks that a profile is checked with.
const CHECKED: usize = 5;

/// What a network takes by the sum of its operations where something else slows down what runs for long.
const BUSY: f64 = 1.3;

/// Measures a profile and writes it.
fn measure(arguments: &Arguments, checkpoint: &Checkpoint, file: &Path) -> Result<()> {
    let bar = Bar::new();
    let profile =
        pollster::block_on(Profile::measure(checkpoint, arguments.backend.device(), arguments.size, &mut |what, done, of| bar.tell(what, done, of)));
    bar.0.finish_and_clear();
    let profile = profile?;
    write(file, (serde_json::to_string(&profile)? + "\n").as_bytes())?;
    if let Measured::Operations { scale, .. } = &profile.measured
        && *scale > BUSY
    {
        eprintln!(
            "warning: the network took {scale:.2} times the sum of its operations, as on a busy machine: measure on an idle one for better predictions"
        );
    }
    let what = match &profile.measured {
        Measured::Operations { entries, .. } => {
            format!("{} operations at {} widths", entries.len(), entries.iter().map(|entry| entry.ms.len()).sum::<usize>())
        }
        Measured::Networks { networks, .. } => format!("{networks} networks"),
    };
    let [height, width] = profile.size;
    print(&format!("wrote {}: {what} on {}; the network takes {:.2} ms at {height}×{width}\n", file.display(), profile.device, profile.network))
}

/// Lists what takes longest.
fn nodes(arguments: &Arguments, checkpoint: &Checkpoint<Architecture>, most: usize) -> Result<()> {
    let size = input_size(&checkpoint.config, arguments.size)?;
    let times = node_times(checkpoint, size, arguments.runs)?;
    let whole: f64 = times.iter().map(|node| node.ms).sum();
    let mut sums: BTreeMap<&str, (usize, f64, u64)> = BTreeMap::new();
    for node in &times {
        let (count, ms, macs) = sums.entry(node.op).or_default();
        (*count, *ms, *macs) = (*count + 1, *ms + node.ms, *macs + node.macs);
    }
    let mut longest: Vec<&NodeTime> = times.iter().collect();
    longest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let shown = |ms: f64, macs: u64| {
        let speed = if macs == 0 { String::new() } else { format!("{:.1}", macs as f64 / ms / 1e6) };
        [format!("{ms:.3}"), format!("{:.1}%", 100.0 * ms / whole), speed]
    };
    let mut by_node = Table::new();
    by_node.load_style(presets::NOTHING).set_header(["layer", "operator", "output", "median ms", "share", "GMAC/s"]);
    for node in longest.into_iter().take(most) {
        let shape: Vec<String> = node.shape.iter().map(usize::to_string).collect();
        let [ms, share, speed] = shown(node.ms, node.macs);
        by_node.add_row([node.layer.clone(), node.op.into(), shape.join("×"), ms, share, speed]);
    }
    let mut by_op = Table::new();
    by_op.load_style(presets::NOTHING).set_header(["operator", "nodes", "median ms", "share", "GMAC/s"]);
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (op, (count, ms, macs)) in sums {
        let [ms, share, speed] = shown(ms, macs);
        by_op.add_row([op.to_string(), count.to_string(), ms, share, speed]);
    }
    for table in [&mut by_node, &mut by_op] {
        let numbers = table.column_count() - 3;
        for column in table.column_iter_mut().skip(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let [height, width] = size;
    let model = arguments.model.model.display();
    print(&format!("{model} at {height}×{width}, {} nodes, {whole:.2} ms by the sum of their medians\n{by_node}\n\n{by_op}\n", times.len()))
}

/// Compares a profile with measurements.
fn check(arguments: &Arguments, checkpoint: &Checkpoint, file: &Path) -> Result<()> {
    let profile = Profile::open(file)?;
    let bar = Bar::new();
    let tell = &mut |what: &str, done, of| bar.tell(what, done, of);
    let found = pollster::block_on(verify(&profile, checkpoint, arguments.backend.device(), CHECKED, arguments.runs, tell));
    bar.0.finish_and_clear();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["network", "median ms", "share of the whole", "predicted", "off by"]);
    for (i, Verified { predicted, measured, ms }) in found?.into_iter().enumerate() {
        let name = if i == 0 { "whole".into() } else { format!("trimmed {i}") };
        let off = format!("{:+.1}%", 100.0 * (predicted / measured - 1.0));
        table.add_row([name, format!("{ms:.2}"), format!("{measured:.3}"), format!("{predicted:.3}"), off]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print(&format!("{} (measured on {})\n{table}\n", file.display(), profile.device))
}

/// Runs two models in turns.
fn compare(arguments: &Arguments, checkpoint: &Checkpoint<Architecture>, file: &Path) -> Result<()> {
    let other = checkpoint::open_any(file, &Guess::default())?;
    let bars = Bars::default();
    bars.begin("runs in turns", arguments.runs);
    let Pace { parent_ms, ms, ratio, runs } = pace(&other, checkpoint, arguments.backend.device(), arguments.runs, &|| bars.step())?;
    bars.end();
    let (own, other) = (arguments.model.model.display(), file.display());
    print(&format!("{own}: {ms:.2} ms; {other}: {parent_ms:.2} ms; {:.2} times as fast (the median of {runs} pairs of runs)\n", 1.0 / ratio))
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style))
    }

    fn tell(&self, what: &str, done: usize, of: usize) {
        if self.0.message() != what {
            self.0.reset();
            self.0.set_length(of as u64);
            self.0.set_message(what.to_string());
        }
        self.0.set_position(done as u64);
    }
}

fn table(Record { model, threads, report }: &Record) -> String {
    let on = match report.info.device {
        Device::Cpu => format!("CPU, {threads} thread{}", if *threads == 1 { "" } else { "s" }),
        Device::Gpu => report.info.adapter.clone(),
    };
    let [height, width] = report.size;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["stage", "median ms", "fastest ms", "GMAC/s"]);
    for stage in &report.stages {
        let speed = stage.speed().map_or(String::new(), |speed| format!("{speed:.1}"));
        table.add_row([stage.name.to_string(), format!("{:.2}", stage.median), format!("{:.2}", stage.fastest), speed]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{model} at {height}×{width} on {on}, {} runs\n{table}\n", report.runs)
}
