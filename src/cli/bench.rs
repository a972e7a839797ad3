//! `detrim bench`

use super::model::{ModelArguments, height_width};
use super::{Backend, print};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use detrim::detector::Device;
use detrim::eval::bench::{Report, bench};
use serde::Serialize;

/// Measure how long each stage takes.
#[derive(clap::Args)]
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
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: usize,
    /// Threads of the CPU backend [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
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
    let checkpoint = arguments.model.open()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.unwrap_or(0)).build().context("can't start the threads")?;
    let report = pool.install(|| pollster::block_on(bench(&checkpoint, arguments.backend.device(), arguments.runs, arguments.size)))?;
    let record = Record { model: arguments.model.model.display().to_string(), threads: pool.current_num_threads(), report };
    print(&if arguments.json { serde_json::to_string_pretty(&record)? + "\n" } else { table(&record) })
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
