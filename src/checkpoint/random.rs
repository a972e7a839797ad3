//! Random weights for a config: a stand-in of the right size where the real weights aren't at hand, for measuring speed and memory.
//!
//! Scaled so that activations neither vanish nor grow from layer to layer and every query says something else.

use super::{Card, Checkpoint};
use crate::config::{Architecture, Backbone, NetworkConfig};
use crate::layout::{Entry, Role, layout_of};
use crate::weights::{HostTensor, Weights};

/// A checkpoint of random weights; the same seed always gives the same ones.
pub fn random<C: NetworkConfig>(config: C, name: &str, seed: u64) -> Checkpoint<C> {
    let mut numbers = Numbers(seed);
    let mut weights = Weights::default();
    let architecture = config.architecture();
    let last_convolution = match &architecture {
        Architecture::Detr(config) => match &config.backbone {
            Backbone::Resnet(net) if net.is_bottleneck() => ".conv3",
            Backbone::Resnet(_) => ".conv2",
            Backbone::EfficientNetLite(_) => ".project",
        },
        Architecture::RtDetr(_) => ".excite",
    };
    for entry in layout_of(&architecture) {
        let (mean, deviation) = spread(&entry, last_convolution);
        let data = (0..entry.shape.iter().product()).map(|_| mean + deviation * numbers.next()).collect();
        weights.insert(entry.name, HostTensor::f32(&entry.shape, data));
    }
    let provenance = vec![format!("random weights (seed {seed}): no accuracy")];
    Checkpoint { config, weights, card: Card { name: name.into(), provenance, ..Card::default() }, guesses: Vec::new() }
}

/// Mean and deviation of a tensor's numbers.
fn spread(entry: &Entry, last_convolution: &str) -> (f32, f32) {
    let inputs = |shape: &[usize]| shape.iter().product::<usize>() as f32;
    match entry.role {
        Role::Bias => (0.0, 0.05),
        Role::NormScale => (1.0, 0.1),
        Role::NormShift => (0.0, 0.1),
        Role::Rows | Role::Reference => (0.0, 1.0),
        // Near the identity.
        Role::Affine => (0.5, 0.2),
        // "Delving Deep into Rectifiers" (He et al., 2015): the factor 2 is for the half that a rectifier lets through.
        Role::Depthwise => (0.0, (2.0 / inputs(&entry.shape[..2])).sqrt()),
        Role::Matrix | Role::Head => (0.0, gain(entry.name.trim_end_matches(".weight"), last_convolution) * (2.0 / inputs(&entry.shape[1..])).sqrt()),
    }
}

/// By how much a matrix is scaled beside He's rule.
fn gain(module: &str, last_convolution: &str) -> f32 {
    let ends = |endings: &[&str]| endings.iter().any(|ending| module.ends_with(ending));
    match module {
        // The end of a residual branch, so that the stream grows little.
        _ if module.starts_with("backbone.stage") && ends(&[last_convolution]) => 0.4,
        _ if module.starts_with("backbone.") => 1.0,
        // Attention that prefers some places, and a decoder that hears what it finds there.
        _ if ends(&[".query", ".key"]) => 1.2,
        _ if ends(&["cross_attention.output"]) => 1.5,
        _ if ends(&["self_attention.output", ".ffn2"]) => 0.3,
        _ if ends(&["class_head"]) => 2.0,
        _ => 0.7,
    }
}

/// Uniform numbers of deviation 1 (SplitMix64, Steele et al., 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_deviation_one() {
        let mut numbers = Numbers(2);
        let sample: Vec<f32> = (0..100_000).map(|_| numbers.next()).collect();
        let mean = sample.iter().sum::<f32>() / 1e5;
        let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
