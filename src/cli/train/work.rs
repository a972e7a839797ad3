//! The steps of a run, with its progress, log, plot, measurements and saved states.

use super::Arguments;
use super::dev::Dev;
use crate::cli::{complain, print};
use anyhow::{Context, Result};
use detrim::config::Architecture;
use detrim::output::write;
use detrim::train::folder::Folder;
use detrim::train::log::{Log, Row};
use detrim::train::plot;
use detrim::train::run::{Report, Settings, State};
use detrim::train::state;
use detrim::train::step::{Losses, Outcome};
use fastrand::Rng;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most steps between two rows of the log, and the longest time where steps take long.
const NOTED: u64 = 50;
const MINUTE: Duration = Duration::from_secs(60);

/// The losses of a state's next step, and their gradients.
pub type Gradients<'a> = dyn Fn(&State, &mut Rng) -> detrim::Result<Outcome> + 'a;

/// Steps until the run is done or somebody interrupts it; whether it is done.
pub fn work(
    arguments: &Arguments,
    folder: &Folder,
    config: &Architecture,
    settings: &Settings,
    losses: &Gradients,
    dev: Option<&Dev>,
    mut state: State,
) -> Result<bool> {
    let stop = interruption()?;
    let mut records = Records::open(arguments, folder, config, dev, &state)?;
    while state.step < settings.steps && !stop.load(Ordering::Relaxed) {
        let report = state.advance(settings, losses).with_context(|| format!("step {}", state.step + 1))?;
        records.add(state.step, &report);
        if let Some(dev) = dev
            && records.measured.elapsed() >= minutes(arguments.measure_minutes)
        {
            records.measure(&state, dev)?;
        } else if records.saved.elapsed() >= minutes(arguments.save_minutes) {
            records.save(&state)?;
        } else if state.step.is_multiple_of(NOTED) || records.noted.elapsed() >= MINUTE {
            records.note(state.step)?;
        }
    }
    records.save(&state)?;
    // Also where a run had come to its end before, but not to this.
    if let Some(dev) = dev
        && state.step >= settings.steps
        && !records.has_measured(state.step, dev)
    {
        records.measure(&state, dev)?;
    }
    // The handler outlives the run: from here on it ends the process at once.
    stop.store(true, Ordering::Relaxed);
    records.bar.finish_and_clear();
    print(&format!("{} steps of {} are done; {} holds the state\n", state.step, settings.steps, folder.last().display()))?;
    Ok(state.step >= settings.steps)
}

/// Becomes true when somebody presses Ctrl-C; pressed when it is true, that ends the process. A process has one handler, and all its runs
/// share this.
fn interruption() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static HANDLED: AtomicBool = AtomicBool::new(false);
    if !HANDLED.swap(true, Ordering::Relaxed) {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step (again to stop at once, without saving)");
        })?;
    }
    STOP.store(false, Ordering::Relaxed);
    Ok(&STOP)
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes)
}

/// What is told and kept of a run.
struct Records<'a> {
    arguments: &'a Arguments,
    folder: &'a Folder,
    config: &'a Architecture,
    bar: ProgressBar,
    log: Log,
    /// Seconds of work before this process, and when this one began.
    before: f64,
    begun: Instant,
    /// The highest AP on `--dev`.
    best: f64,
    /// Since the last row of the log.
    stretch: Stretch,
    noted: Instant,
    /// When a line was printed last in place of a bar.
    told: Option<Instant>,
    measured: Instant,
    saved: Instant,
    /// The step of the newest state in the folder.
    kept: Option<u64>,
}

impl<'a> Records<'a> {
    fn open(arguments: &'a Arguments, folder: &'a Folder, config: &'a Architecture, dev: Option<&Dev>, state: &State) -> Result<Self> {
        let log = Log::open(&folder.log(), state.step)?;
        let before = log.rows().last().map_or(0.0, |row| row.seconds);
        // What was measured is beside the point where the state that it was measured on is gone.
        let dev = dev.filter(|_| folder.best().exists());
        let comparable = log.rows().iter().filter(|row| dev.is_some_and(|dev| row.step > dev.since));
        let best = comparable.filter_map(|row| row.ap).fold(0.0, f64::max);
        let style = ProgressStyle::with_template("{bar:20} step {pos}/{len}, {eta} left, {wide_msg}")?;
        let bar = ProgressBar::new(arguments.steps).with_style(style).with_position(state.step);
        // The time left goes by the steps of this process. Those before have to be counted to be forgotten.
        bar.tick();
        bar.reset_eta();
        let now = Instant::now();
        Ok(Self {
            arguments,
            folder,
            config,
            bar,
            log,
            before,
            begun: now,
            best,
            stretch: Stretch::default(),
            noted: now,
            told: None,
            measured: now,
            saved: now,
            kept: folder.last().exists().then_some(state.step),
        })
    }

    fn add(&mut self, step: u64, report: &Report) {
        self.stretch.add(report);
        self.bar.set_position(step);
    }

    fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    /// Logs and tells the losses since the last time.
    fn note(&mut self, step: u64) -> Result<()> {
        let stretch = std::mem::take(&mut self.stretch);
        if stretch.steps == 0 {
            return Ok(());
        }
        let row = stretch.row(step, self.seconds(), self.arguments.batch as f64 / self.noted.elapsed().as_secs_f64());
        self.noted = Instant::now();
        self.log.add(row)?;
        let text = format!("{:.1} pictures/s, {}", row.pictures_per_second.unwrap_or_default(), row.losses());
        // A file or a pipe shows no bar.
        if self.bar.is_hidden() && self.told.is_none_or(|told| told.elapsed() >= MINUTE) {
            self.told = Some(Instant::now());
            eprintln!("step {step} of {}, {} left, {text}", self.arguments.steps, HumanDuration(self.bar.eta()));
        }
        self.bar.set_message(text);
        Ok(())
    }

    /// Saves the state, if it isn't, and the log and the plot up to it.
    fn save(&mut self, state: &State) -> Result<()> {
        if self.kept == Some(state.step) {
            return Ok(());
        }
        self.note(state.step)?;
        state::write(&self.folder.last(), self.config, state)?;
        (self.kept, self.saved) = (Some(state.step), Instant::now());
        self.draw()
    }

    /// Whether the mean of the weights after this step was measured on the same pictures.
    fn has_measured(&self, step: u64, dev: &Dev) -> bool {
        step > dev.since && self.log.rows().iter().any(|row| row.step == step && row.ap.is_some())
    }

    fn draw(&self) -> Result<()> {
        Ok(write(&self.folder.plot(), plot::progress(self.log.rows())?.as_bytes())?)
    }

    /// Measures how well the mean of the weights detects, and keeps it if that is best. The state is saved before: going on from an earlier
    /// one, a run would forget how good its best was.
    fn measure(&mut self, state: &State, dev: &Dev) -> Result<()> {
        self.save(state)?;
        let (found, problems) = dev.measure(&state.detector(self.config)?)?;
        let (ap, ap50) = (found.ap.unwrap_or_default(), found.ap50.unwrap_or_default());
        self.bar.suspend(|| {
            eprintln!("step {}: AP {:.1}, AP50 {:.1} on {} pictures", state.step, 100.0 * ap, 100.0 * ap50, dev.pictures());
            complain("--dev", "pictures could not be used, as if there were nothing found in them", &problems);
        });
        // First what is best, then that it was measured: a run that is killed between measures once more.
        if ap > self.best {
            state::write_compact(&self.folder.best(), self.config, state)?;
            self.best = ap;
        }
        self.log.add(Row { step: state.step, seconds: self.seconds(), ap: Some(ap), ap50: Some(ap50), ..Row::default() })?;
        self.draw()?;
        // It is no time of the steps to come.
        (self.measured, self.noted) = (Instant::now(), Instant::now());
        Ok(())
    }
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
        let Losses { total, last, denoising, dense, teacher, features, groups } = self.losses;
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
            features: mean(features),
            groups: mean(groups),
            gradient_norm: Some(self.norm / f64::from(self.steps.max(1))),
            pictures_per_second: Some(speed * f64::from(self.steps)),
            ..Row::default()
        }
    }
}
