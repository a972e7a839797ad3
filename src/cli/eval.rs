//! `detrim eval`

use super::bars::Bars;
use super::model::{self, GuessArguments};
use super::{complain, locate, open_annotations, print, relate};
use anyhow::{Result, bail, ensure};
use comfy_table::{Table, presets};
use detrim::eval::coco::bootstrap::{self, Interval, Intervals};
use detrim::eval::coco::dataset::{Category, Dataset};
use detrim::eval::coco::detections::{Scored, read_detections};
use detrim::eval::coco::matching::threshold;
use detrim::eval::coco::metrics::{Evaluation, Metrics};
use detrim::eval::coco::operating::OperatingPoint;
use detrim::eval::coco::{plot, run};
use detrim::output::write;
use detrim::progress::Progress;
use serde::Serialize;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Measure how good a detector is: COCO's average precision on labelled pictures.
///
/// Prints COCO's twelve box metrics (equal to pycocotools'), AP of each class, and how sure AP is: the middle 95% of what
/// resampled sets of pictures give.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim eval --model model.safetensors --annotations val.json --images photos --save found.json\n  \
    detrim eval --detections trimmed.json --annotations val.json --against base.json")]
pub struct Arguments {
    /// The model to run over the pictures
    #[arg(long, value_name = "FILE", required_unless_present = "detections", requires = "images")]
    model: Option<PathBuf>,
    /// Detections to measure instead of running a model, in COCO's result format
    #[arg(long, value_name = "JSON", conflicts_with = "model")]
    detections: Option<PathBuf>,
    /// True boxes in COCO's format
    #[arg(long, value_name = "JSON")]
    annotations: PathBuf,
    /// Folder that the annotations' file names are in
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Use only the first N pictures
    #[arg(long, value_name = "N", value_parser = super::count)]
    limit: Option<usize>,
    /// Write the detections, in COCO's result format
    #[arg(long, value_name = "JSON", requires = "model")]
    save: Option<PathBuf>,
    /// Detections of another model on the same pictures: prints the difference and its interval
    #[arg(long, value_name = "JSON")]
    against: Option<PathBuf>,
    /// Write the metrics
    #[arg(long, value_name = "JSON")]
    json: Option<PathBuf>,
    /// Draw precision over recall
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Resampled sets of pictures behind the interval
    #[arg(long, default_value_t = 1000, value_parser = super::count)]
    resamples: usize,
    /// Seed of the resampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    guess: GuessArguments,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let mut dataset = open_annotations(&arguments.annotations.display().to_string(), &arguments.annotations)?;
    let open = |file: &Option<PathBuf>| file.as_deref().map(|file| read(file, &dataset)).transpose();
    let (given, other) = (open(&arguments.detections)?, open(&arguments.against)?);
    if let Some(limit) = arguments.limit {
        dataset.truncate(limit);
    }
    if dataset.images.is_empty() {
        bail!("{}: there are no pictures", arguments.annotations.display());
    }
    let detections = match given {
        Some(detections) => detections,
        None => detect(&arguments, &mut dataset)?,
    };
    if let Some(path) = &arguments.save {
        write(path, &serde_json::to_vec(&detections)?)?;
    }

    let pictures = dataset.images.len();
    let evaluation = Evaluation::new(&dataset, &detections);
    let metrics = evaluation.metrics();
    let intervals = bootstrap::interval(&evaluation, pictures, arguments.resamples, arguments.seed);
    let classes = classes(&dataset, &evaluation);
    print(&format!(
        "{pictures} pictures, {} true boxes, {} detections\n{}\n\n{}\n",
        dataset.annotations.len(),
        detections.len(),
        metrics_table(&metrics, &intervals),
        classes_table(&classes)
    ))?;
    let best = OperatingPoint::best(&evaluation);
    if let Some(OperatingPoint { threshold, precision, recall, f1 }) = best {
        let (precision, recall, f1) = (percent(precision), percent(recall), percent(f1));
        print(&format!("\nshown from a score of {threshold:.2} on: F1 {f1} (the highest), precision {precision}, recall {recall}, at IoU 0.50\n"))?;
    }
    let mut report = json!({ "pictures": pictures, "metrics": metrics, "intervals": intervals, "classes": classes, "best_threshold": best });

    if let (Some(path), Some(other)) = (&arguments.against, other) {
        let lacking = without(&dataset, &detections, &other);
        if lacking > 0 {
            eprintln!("{}: nothing is found in {lacking} pictures in which the other found something: is it of the same pictures?", path.display());
        }
        let other = Evaluation::new(&dataset, &other);
        let theirs = other.metrics();
        let difference = bootstrap::paired(&evaluation, &other, pictures, arguments.resamples, arguments.seed);
        let by = |ours: Option<f64>, theirs: Option<f64>| signed(ours.unwrap_or(0.0) - theirs.unwrap_or(0.0));
        print(&format!(
            "\nagainst {}:\n  AP   {} ({})\n  AP50 {} ({})\n",
            path.display(),
            by(metrics.ap, theirs.ap),
            between(difference.ap, signed),
            by(metrics.ap50, theirs.ap50),
            between(difference.ap50, signed)
        ))?;
        report["against"] = json!({ "file": path, "metrics": theirs, "difference": difference });
    }
    if let Some(path) = &arguments.json {
        write(path, &serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(path) = &arguments.plot {
        let lines = [0, 5, 9].into_iter().filter_map(|t| Some((format!("IoU {:.2}", threshold(t)), evaluation.mean_curve(t)?)));
        write(path, plot::precision_recall("Precision over recall", &lines.collect::<Vec<_>>())?.as_bytes())?;
    }
    Ok(())
}

/// Detections from a file. Those that go with nothing in the annotations are told; if all are so, they are of another dataset.
fn read(file: &Path, annotations: &Dataset) -> Result<Vec<Scored>> {
    let (detections, problems) = read_detections(file)?;
    let (name, strays) = (file.display(), annotations.strays(&detections));
    let told = strays.left_out();
    if let Some(first) = told.first() {
        ensure!(strays.total() < detections.len(), "{name}: all detections are of pictures or categories that the annotations don't have ({first})");
    }
    for sentence in problems.iter().chain(&told) {
        eprintln!("{name}: {sentence}");
    }
    Ok(detections)
}

/// In how many pictures only `ours` found something.
fn without(dataset: &Dataset, ours: &[Scored], theirs: &[Scored]) -> usize {
    let pictures = |found: &[Scored]| -> HashSet<usize> { found.iter().filter_map(|found| Some(dataset.places(found).ok()?.0)).collect() };
    pictures(ours).difference(&pictures(theirs)).count()
}

/// Runs the model over the pictures, with a progress bar.
fn detect(arguments: &Arguments, dataset: &mut Dataset) -> Result<Vec<Scored>> {
    let (Some(model), Some(images)) = (&arguments.model, &arguments.images) else { bail!("--model and --images go together") };
    let checkpoint = model::open(model, &arguments.guess)?;
    relate(&arguments.annotations.display().to_string(), dataset, &checkpoint.config.labels, "none of them can be found")?;
    locate(dataset, images);
    let bars = Bars::default();
    bars.begin("pictures", dataset.images.len());
    let run = run::detect_all(&checkpoint, dataset, images, || bars.step());
    bars.end();
    let run = run?;
    complain(&images.display().to_string(), "could not be used", &run.problems);
    complain(&images.display().to_string(), "labelled as if they weren't turned upright", &run.turned);
    if run.problems.len() == dataset.images.len() {
        bail!("{}: none of the pictures could be used", images.display());
    }
    Ok(run.detections)
}

/// How good the detector is at one class.
#[derive(Serialize)]
struct Class<'a> {
    name: &'a str,
    #[serde(skip)]
    boxes: usize,
    ap: Option<f64>,
    ap50: Option<f64>,
}

fn classes<'a>(dataset: &'a Dataset, evaluation: &Evaluation) -> Vec<Class<'a>> {
    let class = |(index, category): (usize, &'a Category)| {
        let boxes = dataset.annotations.iter().filter(|a| a.category == index).count();
        let (ap, ap50) = evaluation.category(index);
        Class { name: &category.name, boxes, ap, ap50 }
    };
    dataset.categories.iter().enumerate().map(class).collect()
}

fn metrics_table(metrics: &Metrics, intervals: &Intervals) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in metrics.named() {
        let interval = match name {
            "AP" if value.is_some() => between(intervals.ap, percent),
            "AP50" if value.is_some() => between(intervals.ap50, percent),
            _ => String::new(),
        };
        table.add_row([name.into(), value.map_or("–".into(), percent), interval]);
    }
    table
}

/// Without those that have no true boxes.
fn classes_table(classes: &[Class]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["class", "boxes", "AP", "AP50"]);
    for class in classes {
        if let (Some(ap), Some(ap50)) = (class.ap, class.ap50) {
            table.add_row([class.name.into(), class.boxes.to_string(), percent(ap), percent(ap50)]);
        }
    }
    table
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn signed(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

fn between(interval: Interval, show: fn(f64) -> String) -> String {
    format!("95%: {} to {}", show(interval.low), show(interval.high))
}
