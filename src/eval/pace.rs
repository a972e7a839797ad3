//! How long one network takes beside another: in turns, so that whatever else the machine does slows both.
//!
//! In each turn a network runs once before it is timed, as after another frame.

use super::bench::{input_size, median, photo_for};
use crate::checkpoint::Checkpoint;
use crate::config::NetworkConfig;
use crate::detector::{Detector, Device};
use crate::error::Result;
use serde::Serialize;

/// How long the network takes, in milliseconds, by runs that alternate with the parent's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pace {
    pub parent_ms: f64,
    pub ms: f64,
    /// The median of its time over the parent's, run by run.
    pub ratio: f64,
    pub runs: usize,
}

/// Times a network in turns with its parent, `runs` times after once to warm up, so that whatever else the machine does slows both.
pub fn pace<C: NetworkConfig>(parent: &Checkpoint<C>, other: &Checkpoint<C>, device: Device, runs: usize, done: &dyn Fn()) -> Result<Pace> {
    let photo = photo_for(input_size(&parent.config, None)?)?;
    let load = |checkpoint| pollster::block_on(Detector::load(checkpoint, device));
    let (mut parent, mut other) = (load(parent)?, load(other)?);
    let mut times: [Vec<f64>; 3] = Default::default();
    for run in 0..=runs {
        let time = |detector: &mut Detector| -> Result<f64> {
            pollster::block_on(detector.detect(&photo, 0.5))?;
            Ok(pollster::block_on(detector.detect(&photo, 0.5))?.times.network)
        };
        let (theirs, ours) = (time(&mut parent)?, time(&mut other)?);
        if run > 0 {
            times.iter_mut().zip([theirs, ours, ours / theirs]).for_each(|(all, time)| all.push(time));
            done();
        }
    }
    let [parent_ms, ms, ratio] = times.map(|mut all| {
        all.sort_by(f64::total_cmp);
        median(&all).unwrap_or(f64::NAN)
    });
    Ok(Pace { parent_ms, ms, ratio, runs })
}
