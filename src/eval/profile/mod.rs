//! How long a device takes for a network of any widths: what a limit on latency is judged by.
//!
//! On the processor single operations are timed (`measure.rs`), each on a grid of widths, and what lies between is interpolated. On a
//! graphics adapter an operation can't be timed by itself honestly: there, whole networks are timed and rates fitted to them
//! (`networks.rs`). The file says which was done.

mod grid;
mod measure;
mod networks;
mod shrunk;
mod verify;

pub use grid::Entry;
pub use networks::Rates;
pub use verify::{Verified, verify};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::detector::Device;
use crate::error::{Error, Result};
use crate::eval::operations::{Operation, Step, operations};
use serde::{Deserialize, Serialize};

/// A device's measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// "CPU, 2 threads", or the graphics adapter's name.
    pub device: String,
    /// Height and width of the input that was measured at.
    pub size: [usize; 2],
    /// Milliseconds of the network that was measured, as a whole.
    pub network: f64,
    pub measured: Measured,
}

/// What was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Measured {
    /// Single operations.
    Operations {
        /// What the network takes as a whole, by the sum of its operations.
        scale: f64,
        entries: Vec<Entry>,
    },
    /// So many networks, to which rates were fitted.
    Networks { networks: usize, rates: Rates },
}

/// Is told what is being done, and of how much how much is done.
pub type Tell<'a> = &'a mut dyn FnMut(&str, usize, usize);

impl Profile {
    /// Measures the operations of a network and of narrower ones. With `size` (height, width) every picture is stretched to it.
    pub async fn measure(checkpoint: &Checkpoint, device: Device, size: Option<[usize; 2]>, tell: Tell<'_>) -> Result<Self> {
        let mut profile = match device {
            Device::Cpu => measure::measure(checkpoint, super::bench::input_size(&checkpoint.config, size)?, tell)?,
            Device::Gpu => networks::measure(checkpoint, size, tell).await?,
        };
        profile.settle("the profile")?;
        Ok(profile)
    }

    /// Reads a profile; `file` names it in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let fail = |problem: String| Error::Profile { file: file.into(), problem };
        let mut profile: Self =
            serde_json::from_str(text).map_err(|error| fail(format!("not a profile that detrim bench --profile wrote: {error}")))?;
        profile.settle(file)?;
        Ok(profile)
    }

    /// Reads what `detrim bench --profile` or the page's benchmark saved. Fails, with the file's name, where it isn't one.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<Self> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { file: file.clone(), source })?;
        Self::parse(&text, &file)
    }

    /// Milliseconds of one picture at an input of height and width `size`. More channels never take less.
    pub fn latency(&self, config: &Config, size: [usize; 2]) -> f64 {
        self.sum(&operations(config, size))
    }

    /// Milliseconds of operations one after another.
    pub fn sum(&self, steps: &[Step]) -> f64 {
        let steps = steps.iter().map(|step| &step.operation);
        match &self.measured {
            Measured::Operations { scale, entries } => scale * steps.map(|operation| grid::predict(entries, operation)).sum::<f64>(),
            Measured::Networks { rates, .. } => rates.latency(steps),
        }
    }

    /// Refuses what can't be a measurement, and smooths what noise has made non-monotone.
    fn settle(&mut self, file: &str) -> Result<()> {
        let fail = |problem: String| Error::Profile { file: file.into(), problem };
        match &mut self.measured {
            Measured::Operations { scale, entries } => {
                if !(scale.is_finite() && *scale > 0.0) {
                    return Err(fail(format!("the scale must be a positive number, not {scale}")));
                }
                if entries.is_empty() {
                    return Err(fail("there are no entries".into()));
                }
                for (i, entry) in entries.iter_mut().enumerate() {
                    entry.settle().map_err(|problem| fail(format!("entry {i}: {problem}")))?;
                }
            }
            Measured::Networks { rates, .. } => rates.check().map_err(fail)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
