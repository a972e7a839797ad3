//! Small networks of RT-DETR's family, and pictures for them: for tests.

use super::inputs::Inputs;
use crate::checkpoint::{self, Guess};
use crate::config::Architecture;
use crate::image::Picture;
use crate::weights::Weights;
use std::path::Path;

/// All fixtures.
pub const ALL: [&str; 6] = ["rt_detr", "rt_detr_v2", "rt_detr_v2-discrete", "d_fine", "deimv2-hybrid", "deimv2-lite-as-trained"];

/// A fixture's network, for an input of 64 × 96.
pub fn network(name: &str) -> (Architecture, Weights) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/family").join(name);
    let guess = Guess { resize: Some(crate::config::Resize::Stretch { height: 64, width: 96 }), ..Guess::default() };
    let checkpoint = checkpoint::open_any(&folder.join("model.safetensors"), &guess).unwrap();
    (checkpoint.config, checkpoint.weights)
}

pub fn inputs(config: &Architecture, count: usize) -> Inputs {
    let mut random = fastrand::Rng::with_seed(5);
    // Large areas of one colour with edges, as pictures have them.
    let mut picture = || {
        let colours: Vec<[u8; 4]> = (0..6).map(|_| [random.u8(..), random.u8(..), random.u8(..), 255]).collect();
        let step = random.usize(5..24);
        let pixels = (0..64 * 96).flat_map(|i| colours[(i % 96 / step + i / 96 / step) % 6]);
        Picture::new(96, 64, pixels.collect()).unwrap()
    };
    Inputs::of((0..count).map(|_| picture()).collect(), config.pixels())
}
