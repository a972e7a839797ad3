//! Progress bars of long work.

use detrim::prune::trim::Progress;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::time::Duration;

/// Progress bars, one after another.
#[derive(Default)]
pub struct Bars(Mutex<Option<ProgressBar>>);

impl Bars {
    pub fn end(&self) {
        let mut bar = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(bar) = bar.take() {
            // A log shows no bars; it is told what took long.
            if bar.is_hidden() && bar.elapsed() > Duration::from_secs(5) {
                eprintln!("{}: {} in {}", bar.message(), bar.position(), HumanDuration(bar.elapsed()));
            }
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, steps: usize) {
        self.end();
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps as u64).with_style(style).with_message(what.to_string());
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(bar);
    }

    fn step(&self) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            bar.inc(1);
        }
    }
}
