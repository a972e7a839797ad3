//! Progress bars of long work.

use detrim::progress::Progress;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often a log, which shows no bars, is told how far long work is.
const TOLD: Duration = Duration::from_secs(60);

/// Progress bars, one after another.
#[derive(Default)]
pub struct Bars(Mutex<Option<Shown>>);

struct Shown {
    bar: ProgressBar,
    /// When a log was last told.
    told: Instant,
}

impl Bars {
    pub fn end(&self) {
        if let Some(Shown { bar, .. }) = self.shown().take() {
            // A log is told what took long at its end, too.
            if bar.is_hidden() && bar.elapsed() > Duration::from_secs(5) {
                eprintln!("{}: {} in {}", bar.message(), bar.position(), HumanDuration(bar.elapsed()));
            }
            bar.finish_and_clear();
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, steps: usize) {
        self.end();
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps as u64).with_style(style).with_message(what.to_string());
        *self.shown() = Some(Shown { bar, told: Instant::now() });
    }

    fn step(&self) {
        if let Some(Shown { bar, told }) = &mut *self.shown() {
            bar.inc(1);
            if bar.is_hidden() && told.elapsed() > TOLD {
                *told = Instant::now();
                eprintln!("{}: {} of {}, {} left", bar.message(), bar.position(), bar.length().unwrap_or(0), HumanDuration(bar.eta()));
            }
        }
    }
}
