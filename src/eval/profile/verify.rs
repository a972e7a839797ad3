//! How well a profile predicts: randomly trimmed networks, predicted and measured.

use super::shrunk::{random, stand_in};
use super::{Profile, Tell};
use crate::checkpoint::Checkpoint;
use crate::detector::{Detector, Device};
use crate::error::Result;
use crate::eval::bench::{median, photo_for};
use fastrand::Rng;

/// A network's time by its parent's, and its milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verified {
    pub predicted: f64,
    pub measured: f64,
    pub ms: f64,
}

/// The parent and `count` networks trimmed from it at random, with random weights, which take turns.
pub async fn verify(profile: &Profile, checkpoint: &Checkpoint, device: Device, count: usize, runs: usize, tell: Tell<'_>) -> Result<Vec<Verified>> {
    let mut parent = checkpoint.config.clone();
    let [height, width] = profile.size;
    parent.pixels.resize = crate::config::Resize::Stretch { height, width };
    // Others than those that rates are fitted to.
    let mut rng = Rng::with_seed(2026);
    let mut configs = vec![parent.clone()];
    configs.extend((0..count).map(|_| random(&parent, &mut rng)));
    let mut detectors = Vec::new();
    for (i, config) in configs.iter().enumerate() {
        detectors.push(Detector::load(&stand_in(checkpoint, config.clone(), i as u64), device).await?);
    }
    let photo = photo_for(profile.size)?;
    let mut times = vec![Vec::new(); configs.len()];
    for run in 0..runs {
        tell("timing trimmed networks", run, runs);
        for (detector, times) in detectors.iter_mut().zip(&mut times) {
            // The first finds its weights pushed out of the caches by the other networks.
            detector.detect(&photo, 0.5).await?;
            times.push(detector.detect(&photo, 0.5).await?.times.network);
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            median(times).unwrap_or_default()
        })
        .collect();
    let whole = profile.latency(&parent, profile.size);
    let one = |(config, ms): (_, &f64)| Verified { predicted: profile.latency(config, profile.size) / whole, measured: ms / medians[0], ms: *ms };
    Ok(configs.iter().zip(&medians).map(one).collect())
}
