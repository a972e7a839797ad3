//! How long a device takes for layers of a shape, measured: what a limit on latency is judged by.

use crate::config::Config;
use crate::eval::cost::cost;
use serde::{Deserialize, Serialize};

/// A device's measurements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub device: String,
    /// Milliseconds of each thousand million multiply-accumulates.
    pub per_gmac: f64,
}

impl Profile {
    /// Milliseconds of one picture.
    pub fn latency(&self, config: &Config, size: [usize; 2]) -> f64 {
        self.per_gmac * cost(config, size).iter().map(|part| part.macs as f64).sum::<f64>() / 1e9
    }
}
