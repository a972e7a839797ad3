//! `detrim detect`

use super::model::{self, GuessArguments};
use super::photos::{Drawings, Photos, expand, format_of};
use super::{default_model, draw, print, sentence};
use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use detrim::checkpoint::Checkpoint;
use detrim::config::Label;
use detrim::detector::{Bounds, Detections, Detector, Device, Times};
use detrim::gpu::Gpu;
use detrim::image::Picture;
use detrim::{image, output};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Detect objects in photos.
#[derive(clap::Args)]
pub struct Arguments {
    /// JPEG, PNG, WebP, GIF, BMP or TIFF files, or directories of them.
    #[arg(required = true, value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// The detector: detrim's own file or a DETR checkpoint [default: the first of models/index.json].
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Show what scores at least that, from 0 to 1 [default: what the model recommends, else 0.7 (softmax) or 0.4 (sigmoid)].
    #[arg(long, value_name = "SCORE", value_parser = score)]
    threshold: Option<f32>,
    /// Only these classes.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    labels: Vec<String>,
    /// Write the detections as JSON (`-`: to standard output, instead of the tables).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the detections: a picture file, or for many photos a directory.
    #[arg(long, value_name = "FILE|DIR")]
    draw: Option<PathBuf>,
    /// What to compute on; `auto` takes a graphics processor if there is one.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    #[command(flatten)]
    guess: GuessArguments,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    #[default]
    Auto,
    Cpu,
    Gpu,
}

fn score(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|score| (0.0..=1.0).contains(score)).ok_or_else(|| "a score is a number from 0 to 1".into())
}

/// What `--json` tells of one photo.
#[derive(Serialize)]
struct Record<'a> {
    file: String,
    width: usize,
    height: usize,
    detections: Vec<Found<'a>>,
    times: Times,
}

#[derive(Serialize)]
struct Found<'a> {
    label: &'a str,
    id: u32,
    score: f32,
    #[serde(rename = "box")]
    bounds: Bounds,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Photos { files: photos, unreadable } = expand(&arguments.photos)?;
    let mut drawings = arguments.draw.as_deref().map(|path| Drawings::new(path, photos.len())).transpose()?;
    let checkpoint = model::open(&default_model::find(arguments.model.as_deref())?, &arguments.guess)?;
    let wanted = classes(&checkpoint.config.labels, &arguments.labels)?;
    let threshold = arguments.threshold.unwrap_or_else(|| checkpoint.threshold());
    let mut detector = load(&checkpoint, arguments.backend)?;
    drop(checkpoint);

    let to_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    let bar = progress_bar(photos.len());
    let mut done = Vec::new();
    let mut failed = 0;
    for photo in &photos {
        let result = detect(&mut detector, photo, threshold, wanted.as_deref(), drawings.as_mut());
        bar.suspend(|| match result {
            Ok(found) => {
                if !to_stdout {
                    print(&table(photo, &found))?;
                }
                done.push((photo, found));
                Ok(())
            }
            Err(error) => {
                failed += 1;
                eprintln!("error: {}", sentence(&error));
                anyhow::Ok(())
            }
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();

    if let Some(path) = &arguments.json {
        let records: Vec<Record> = done.iter().map(|(photo, found)| record(photo, found)).collect();
        let text = serde_json::to_string_pretty(&records)? + "\n";
        if to_stdout { print(&text)? } else { output::write(path, text.as_bytes())? }
    }
    ensure!(failed == 0, "{failed} of {} photos failed", photos.len());
    ensure!(unreadable == 0, "not all that was named could be read");
    Ok(())
}

fn load(checkpoint: &Checkpoint, backend: Backend) -> Result<Detector> {
    let load = |device| Ok(pollster::block_on(Detector::load(checkpoint, device))?);
    match backend {
        Backend::Cpu => load(Device::Cpu),
        Backend::Gpu => load(Device::Gpu),
        Backend::Auto => {
            // A graphics adapter that is a program on the processor is slower than the processor.
            let hardware = pollster::block_on(Gpu::open()).is_ok_and(|gpu| !gpu.is_software());
            let gpu = hardware.then(|| load(Device::Gpu)).transpose().unwrap_or_else(|error| {
                eprintln!("note: using the CPU, because: {}", sentence(&error));
                None
            });
            gpu.map_or_else(|| load(Device::Cpu), Ok)
        }
    }
}

fn detect(detector: &mut Detector, photo: &Path, threshold: f32, wanted: Option<&[usize]>, drawings: Option<&mut Drawings>) -> Result<Detections> {
    let picture = image::open(photo)?;
    let mut found = pollster::block_on(detector.detect(&picture, threshold)).with_context(|| photo.display().to_string())?;
    if let Some(wanted) = wanted {
        found.detections.retain(|detection| wanted.contains(&detection.class));
    }
    if let Some(drawings) = drawings {
        save_drawing(&picture, &found, &drawings.place(photo)?)?;
    }
    Ok(found)
}

fn save_drawing(picture: &Picture, found: &Detections, path: &Path) -> Result<()> {
    let name = || path.display().to_string();
    let format = format_of(path)?;
    let mut bytes = Cursor::new(Vec::new());
    draw::draw(picture, &found.detections)?.write_to(&mut bytes, format).with_context(name)?;
    Ok(output::write(path, bytes.get_ref())?)
}

/// The classes of the names asked for; none if none were.
fn classes(labels: &[Label], names: &[String]) -> Result<Option<Vec<usize>>> {
    let mut classes = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        let before = classes.len();
        classes.extend(labels.iter().enumerate().filter(|(_, label)| label.name.eq_ignore_ascii_case(name)).map(|(class, _)| class));
        if classes.len() == before {
            let mut near: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
            near.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
            near.truncate(5);
            bail!("the model has no class \"{name}\"; near are: {}", near.join(", "));
        }
    }
    Ok((!names.is_empty()).then_some(classes))
}

/// Hidden where standard error is no terminal, and for a single photo.
fn progress_bar(photos: usize) -> ProgressBar {
    if photos < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} photos, {eta} left");
    ProgressBar::new(photos as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn table(photo: &Path, found: &Detections) -> String {
    let Detections { detections, times, width, height } = found;
    let count = match detections.len() {
        0 => "nothing found".into(),
        1 => "1 object".into(),
        count => format!("{count} objects"),
    };
    let Times { pre, network, post, .. } = times;
    let head = format!("{} ({width}×{height}): {count}, {:.0} ms (network {network:.0})\n", photo.display(), pre + network + post);
    if detections.is_empty() {
        return head;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["label", "score", "xmin", "ymin", "xmax", "ymax"]);
    for detection in detections {
        let Bounds { xmin, ymin, xmax, ymax } = detection.bounds;
        let numbers = [xmin, ymin, xmax, ymax].map(|place| format!("{place:.1}"));
        table.add_row([&[detection.label.clone(), format!("{:.3}", detection.score)][..], &numbers].concat());
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let rows = table.to_string();
    head + &rows.lines().map(|row| format!("  {}\n", row.trim())).collect::<String>()
}

fn record<'a>(photo: &Path, found: &'a Detections) -> Record<'a> {
    let detections = found.detections.iter().map(|d| Found { label: &d.label, id: d.id, score: d.score, bounds: d.bounds });
    Record { file: photo.display().to_string(), width: found.width, height: found.height, detections: detections.collect(), times: found.times }
}
