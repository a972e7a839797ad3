//! Times whole networks on a graphics adapter and fits rates to them: a GPU overlaps what doesn't depend on each other and browsers
//! don't let one look inside, so that an operation's own time would be a guess.

use super::measure::rounded;
use super::shrunk::{random, stand_in};
use super::{Measured, Operation, Profile, Tell};
use crate::checkpoint::Checkpoint;
use crate::detector::Device;
use crate::error::{Error, Result};
use crate::eval::bench::{bench, input_size, network};
use crate::eval::operations::{Kind, operations};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use web_time::Instant;

/// Milliseconds; none is negative, so that more work never takes less time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of every picture.
    pub picture: f64,
    /// Of every operation.
    pub operation: f64,
    /// Of a thousand million multiply-accumulates in convolutions.
    pub convolutions: f64,
    pub depthwise: f64,
    pub linear: f64,
    pub attention: f64,
    /// Of a thousand million numbers that operations read and write.
    pub numbers: f64,
}

const RATES: usize = 7;
/// Networks that are timed, if there is time.
const NETWORKS: usize = 24;
const FEWEST: usize = 8;
const RUNS: usize = 5;
/// No further network is begun after this long.
const PATIENCE: Duration = Duration::from_secs(60);

impl Rates {
    fn new([picture, operation, convolutions, depthwise, linear, attention, numbers]: [f64; RATES]) -> Self {
        Self { picture, operation, convolutions, depthwise, linear, attention, numbers }
    }

    fn all(&self) -> [f64; RATES] {
        [self.picture, self.operation, self.convolutions, self.depthwise, self.linear, self.attention, self.numbers]
    }

    pub fn check(&self) -> Result<(), String> {
        let rates = self.all();
        if rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0) && rates.iter().any(|&rate| rate > 0.0) {
            return Ok(());
        }
        Err(format!("rates must be numbers, none negative and not all zero: {rates:?}"))
    }

    pub fn latency<'a>(&self, operations: impl Iterator<Item = &'a Operation>) -> f64 {
        self.all().iter().zip(amounts(operations)).map(|(rate, amount)| rate * amount).sum()
    }
}

/// How much there is of what each rate is for.
fn amounts<'a>(operations: impl Iterator<Item = &'a Operation>) -> [f64; RATES] {
    let mut sum = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for operation in operations {
        let place = match operation.kind {
            Kind::Conv { .. } => Some(2),
            Kind::Depthwise { .. } => Some(3),
            Kind::Linear { .. } => Some(4),
            Kind::Attention { .. } | Kind::Deformable { .. } => Some(5),
            Kind::Pool { .. } | Kind::Norm | Kind::Add => None,
        };
        if let Some(place) = place {
            sum[place] += operation.macs() as f64 / 1e9;
        }
        sum[1] += 1.0;
        let width = match operation.kind {
            Kind::Attention { head_width } | Kind::Deformable { head_width, .. } => operation.inputs * head_width,
            Kind::Conv { .. } | Kind::Linear { .. } => operation.inputs + operation.outputs,
            _ => 2 * operation.inputs,
        };
        sum[6] += operation.rows() as f64 * width as f64 / 1e9;
    }
    sum
}

pub async fn measure(parent: &Checkpoint, size: Option<[usize; 2]>, tell: Tell<'_>) -> Result<Profile> {
    let config = &parent.config;
    let input = input_size(config, size)?;
    let mut rng = Rng::with_seed(1);
    let (mut samples, mut device) = (Vec::new(), String::new());
    let begun = Instant::now();
    for i in 0..NETWORKS {
        if i >= FEWEST && begun.elapsed() > PATIENCE {
            break;
        }
        tell("timing networks", i, NETWORKS);
        let config = if i == 0 { config.clone() } else { random(config, &mut rng) };
        let amounts = amounts(operations(&config, input).iter().map(|step| &step.operation));
        let report = bench(&stand_in(parent, config, i as u64), Device::Gpu, RUNS, size).await?;
        device = report.info.adapter.clone();
        samples.push((amounts, network(&report)));
    }
    let whole = samples.first().map_or(0.0, |(_, ms)| *ms);
    if samples.iter().any(|(_, ms)| !(ms.is_finite() && *ms > 0.0)) {
        return Err(Error::Config("a measurement failed: a network took no time".into()));
    }
    let measured = Measured::Networks { networks: samples.len(), rates: Rates::new(fit(&samples).map(rounded)) };
    Ok(Profile { device, size: input, network: rounded(whole), measured })
}

/// The rates, none negative, that come closest to the times in proportion to these, by coordinate descent (Franc, Hlaváč, Navara,
/// "Sequential coordinate-wise algorithm for the non-negative least squares problem", 2005).
fn fit(samples: &[([f64; RATES], f64)]) -> [f64; RATES] {
    const SWEEPS: usize = 20_000;
    // Each row by its time, each column by its largest number.
    let largest: [f64; RATES] = std::array::from_fn(|j| samples.iter().map(|(amounts, ms)| amounts[j] / ms).fold(0.0, f64::max).max(1e-300));
    let rows: Vec<[f64; RATES]> = samples.iter().map(|(amounts, ms)| std::array::from_fn(|j| amounts[j] / ms / largest[j])).collect();
    let mut rates = [0.0; RATES];
    let mut left = vec![1.0; rows.len()];
    for _ in 0..SWEEPS {
        for j in 0..RATES {
            let square: f64 = rows.iter().map(|row| row[j] * row[j]).sum();
            if square == 0.0 {
                continue;
            }
            let slope: f64 = rows.iter().zip(&left).map(|(row, left)| row[j] * left).sum();
            let next = (rates[j] + slope / square).max(0.0);
            rows.iter().zip(&mut left).for_each(|(row, left)| *left -= row[j] * (next - rates[j]));
            rates[j] = next;
        }
    }
    std::array::from_fn(|j| rates[j] / largest[j])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Config, EfficientNetLite};

    #[test]
    fn rates_are_found_again_and_none_is_negative() {
        let parent = Config::detr(Backbone::EfficientNetLite(EfficientNetLite::lite0()));
        let rates = Rates::new([3.0, 0.02, 10.0, 40.0, 5.0, 0.0, 60.0]);
        let mut rng = Rng::with_seed(3);
        let samples: Vec<_> = (0..NETWORKS)
            .map(|_| {
                let steps = operations(&random(&parent, &mut rng), [384, 384]);
                let steps: Vec<Operation> = steps.into_iter().map(|step| step.operation).collect();
                (amounts(steps.iter()), rates.latency(steps.iter()) * (1.0 + 0.02 * (rng.f64() - 0.5)))
            })
            .collect();
        let found = Rates::new(fit(&samples));
        found.check().unwrap();
        for _ in 0..10 {
            let steps = operations(&random(&parent, &mut rng), [384, 384]);
            let ratio = found.latency(steps.iter().map(|step| &step.operation)) / rates.latency(steps.iter().map(|step| &step.operation));
            assert!((ratio - 1.0).abs() < 0.03, "{ratio} {found:?}");
        }
    }
}
