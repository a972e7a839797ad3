//! The steps of a run, with its progress, log, plot, measurements and saved states.

use super::Arguments;
use crate::cli::print;
use anyhow::Result;
use detrim::config::Config;
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::metrics::{Evaluation, Metrics};
use detrim::eval::coco::run::detect_all;
use detrim::output::write;
use detrim::train::data::Data;
use detrim::train::folder::Folder;
use detrim::train::log::{Log, Row};
use detrim::train::plot;
use detrim::train::run::{Report, Settings, State};
use detrim::train::state;
use detrim::train::step::Losses;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Steps until the run is done or somebody interrupts it; whether it is done.
pub fn work(arguments: &Arguments, folder: &Folder, config: &Config, settings: &Settings, data: &Data, mut state: State) -> Result<bool> {
    let dev = arguments.dev.as_deref().map(Dataset::open).transpose()?;
    let mut log = Log::open(&folder.log(), state.step)?;
    let before = log.rows().last().map_or(0.0, |row| row.seconds);
    let mut best = log.rows().iter().filter_map(|row| row.ap).fold(0.0, f64::max);
    let stop = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let stop = stop.clone();
        move || {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step (again to stop at once, without saving)");
        }
    })?;

    let style = ProgressStyle::with_template("{bar:20} step {pos}/{len} {msg} {eta} left")?;
    let bar = ProgressBar::new(settings.steps).with_style(style).with_position(state.step);
    let begun = Instant::now();
    let (mut saved, mut measured, mut noted) = (Instant::now(), Instant::now(), Instant::now());
    let mut stretch = Stretch::default();
    while state.step < settings.steps && !stop.load(Ordering::Relaxed) {
        stretch.add(&state.advance(config, settings, data)?);
        bar.set_position(state.step);
        let seconds = before + begun.elapsed().as_secs_f64();
        let finished = state.step == settings.steps || stop.load(Ordering::Relaxed);
        if state.step.is_multiple_of(NOTED) || finished {
            let row = stretch.row(state.step, seconds, arguments.batch as f64 / noted.elapsed().as_secs_f64());
            bar.set_message(format!("loss {:.2} {:.1} pictures/s", row.loss.unwrap_or_default(), row.pictures_per_second.unwrap_or_default()));
            log.add(row)?;
            (stretch, noted) = (Stretch::default(), Instant::now());
        }
        if let Some(dev) = &dev
            && (measured.elapsed() >= minutes(arguments.measure_minutes) || state.step == settings.steps)
        {
            measured = Instant::now();
            let found = measure(config, &state, dev, &arguments.images)?;
            let (ap, ap50) = (found.ap.unwrap_or_default(), found.ap50.unwrap_or_default());
            bar.println(format!("step {}: AP {:.1}, AP50 {:.1} on {} pictures", state.step, 100.0 * ap, 100.0 * ap50, dev.images.len()));
            log.add(Row { step: state.step, seconds, ap: Some(ap), ap50: Some(ap50), ..Row::default() })?;
            if ap > best {
                best = ap;
                state::write_compact(&folder.best(), config, &state)?;
            }
            // It is no time of the steps before.
            noted += measured.elapsed();
            measured = Instant::now();
        }
        if saved.elapsed() >= minutes(arguments.save_minutes) || finished {
            state::write(&folder.last(), config, &state)?;
            write(&folder.plot(), plot::progress(log.rows())?.as_bytes())?;
            saved = Instant::now();
        }
    }
    bar.finish_and_clear();
    print(&format!("{} steps of {} are done; {} holds the state\n", state.step, settings.steps, folder.last().display()))?;
    Ok(state.step >= settings.steps)
}

/// Steps between two rows of the log.
const NOTED: u64 = 50;

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes.clamp(0.0, 1e6))
}

/// Sums over the steps since the last row of the log.
#[derive(Default)]
struct Stretch {
    steps: u32,
    losses: Losses,
    norm: f64,
    rate: f64,
}

impl Stretch {
    fn add(&mut self, report: &Report) {
        self.steps += 1;
        self.losses += report.losses;
        self.norm += report.norm;
        self.rate = report.rate;
    }

    /// `speed` is that of all steps taken as one.
    fn row(&self, step: u64, seconds: f64, speed: f64) -> Row {
        let mean = |sum: f32| Some(sum / self.steps.max(1) as f32);
        let Losses { total, last, denoising, dense, teacher, groups } = self.losses;
        Row {
            step,
            seconds,
            rate: Some(self.rate),
            loss: mean(total),
            class: mean(last.class),
            l1: mean(last.l1),
            giou: mean(last.giou),
            denoising: mean(denoising),
            dense: mean(dense),
            teacher: mean(teacher),
            groups: mean(groups),
            gradient_norm: Some(self.norm / f64::from(self.steps.max(1))),
            pictures_per_second: Some(speed * f64::from(self.steps)),
            ..Row::default()
        }
    }
}

/// How well the mean of the weights detects.
fn measure(config: &Config, state: &State, dev: &Dataset, images: &Path) -> Result<Metrics> {
    let checkpoint = state.detector(config)?;
    let run = detect_all(&checkpoint, dev, images, || {})?;
    Ok(Evaluation::new(dev, &run.detections).metrics())
}
