//! How much computing and memory a network may take for one picture. A small file can describe a network that takes hours, or more memory than
//! there is: such a one is refused before it is run, unless whoever runs it says that it may.

use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::eval::operations::{Kind, Operation, operations};
use std::sync::OnceLock;

/// What a network may take for one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of the largest activation. (Several of its size exist at once.)
    pub bytes: u64,
}

impl Default for Limits {
    /// Ten times what the largest official DETR (R101-DC5 at 800×1333) takes.
    fn default() -> Self {
        Self { macs: 3_000_000_000_000, bytes: 2 << 30 }
    }
}

/// What whoever started this process allows: of it rather than of a model, since it is their memory and time.
static ALLOWED: OnceLock<Limits> = OnceLock::new();

/// Allows networks to take so much from now on. The first that is said counts.
pub fn allow(limits: Limits) {
    ALLOWED.get_or_init(|| limits);
}

/// Refuses a network that takes more than is allowed for a picture that is resized to `size` (height and width).
pub fn check(config: &impl NetworkConfig, size: [usize; 2]) -> Result<()> {
    within(config, size, ALLOWED.get().copied().unwrap_or_default())
}

/// What a network takes for one picture that is resized to `size` (height and width).
pub fn takes(config: &impl NetworkConfig, size: [usize; 2]) -> Limits {
    let steps = operations(config, size);
    let macs = steps.iter().fold(0, |sum: u64, step| sum.saturating_add(step.operation.macs()));
    let input = bytes(size, 3);
    Limits { macs, bytes: steps.iter().map(|step| output(&step.operation)).fold(input, u64::max) }
}

fn within(config: &impl NetworkConfig, size: [usize; 2], allowed: Limits) -> Result<()> {
    let Limits { macs, bytes } = takes(config, size);
    let at = format!("at {} × {}", size[0], size[1]);
    if macs > allowed.macs {
        let (needed, most) = ((macs as f64 / 1e9).ceil(), allowed.macs as f64 / 1e9);
        return Err(Error::Config(format!(
            "the network takes {needed:.0} GMAC for a picture {at}, and {most:.0} are allowed (--max-gmac {needed:.0} allows it, --resize makes pictures smaller)"
        )));
    }
    if bytes > allowed.bytes {
        let (needed, most) = (bytes.div_ceil(1 << 20), allowed.bytes >> 20);
        return Err(Error::Config(format!(
            "the network's largest activation takes {needed} MiB for a picture {at}, and {most} are allowed (--max-activation {needed} allows it, --resize makes pictures smaller)"
        )));
    }
    Ok(())
}

fn output(operation: &Operation) -> u64 {
    match operation.kind {
        Kind::Conv { .. } | Kind::Linear { .. } => bytes(operation.map, operation.outputs),
        Kind::Deformable { head_width, .. } => bytes(operation.map, operation.inputs.saturating_mul(head_width)),
        Kind::Attention { head_width } => bytes([1, operation.map[0]], operation.inputs.saturating_mul(head_width)),
        Kind::Depthwise { .. } | Kind::Pool { .. } | Kind::Norm | Kind::Add => bytes(operation.map, operation.inputs),
    }
}

/// Of a map in f32.
fn bytes(map: [usize; 2], channels: usize) -> u64 {
    [map[0], map[1], channels].iter().fold(4, |product: u64, &factor| product.saturating_mul(factor as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Config, ResNet};

    #[test]
    fn official_networks_are_allowed_and_absurd_ones_are_not() {
        let largest = Config::detr(Backbone::Resnet(ResNet::of_depth(101, true).unwrap()));
        within(&largest, [800, 1333], Limits::default()).unwrap();
        let found = takes(&largest, [800, 1333]);
        assert!(found.macs * 5 < Limits::default().macs && found.macs * 30 > Limits::default().macs, "{found:?}");
        // The stem's output: 64 channels at half the size.
        assert_eq!(takes(&Config::detr(Backbone::Resnet(ResNet::of_depth(18, false).unwrap())), [640, 960]).bytes, 320 * 480 * 64 * 4);
        let problem = within(&largest, [8192, 8192], Limits::default()).unwrap_err().to_string();
        assert!(problem.contains("GMAC") && problem.contains("--max-gmac") && problem.contains("8192 × 8192"), "{problem}");
        let allowed = Limits { macs: u64::MAX, ..Limits::default() };
        let problem = within(&largest, [8192, 8192], allowed).unwrap_err().to_string();
        assert!(problem.contains("MiB") && problem.contains("--max-activation"), "{problem}");
        within(&largest, [8192, 8192], Limits { bytes: u64::MAX, ..allowed }).unwrap();
    }
}
