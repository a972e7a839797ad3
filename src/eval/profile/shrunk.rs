//! Narrower networks than a given one: what there is to measure beside its own widths.

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::structure::{Place, of_detr};
use crate::weights::Data;
use fastrand::Rng;

/// Kept neurons and channels are multiples of this, as in trimming.
const MULTIPLE: usize = 8;

/// A config in which a share of each structure's units stays.
pub fn shrunk(config: &Config, mut share: impl FnMut(&Place) -> f64) -> Config {
    let mut smaller = config.clone();
    for structure in of_detr(config) {
        let multiple = if structure.is_heads() || structure.place == Place::Queries { 1 } else { MULTIPLE };
        let units = (share(&structure.place) * structure.units as f64).round().max(1.0) as usize;
        structure.place.set_in_detr(&mut smaller, units.next_multiple_of(multiple).min(structure.units));
    }
    smaller
}

/// A network trimmed at random: each structure to anything from a quarter up, and some layers less.
pub fn random(config: &Config, rng: &mut Rng) -> Config {
    let mut smaller = shrunk(config, |place| match place {
        Place::Queries => 0.5 + 0.5 * rng.f64(),
        _ => 0.25 + 0.75 * rng.f64(),
    });
    let mut layers = |count: usize| if count == 0 { 0 } else { rng.usize(count.div_ceil(2)..=count) };
    let (encoder, decoder) = (layers(smaller.encoder.len()), layers(smaller.decoder.len()));
    smaller.encoder.truncate(encoder);
    smaller.decoder.truncate(decoder);
    smaller
}

/// Random weights for a config, stored as those of its parent are: on a graphics adapter that tells in the time.
pub fn stand_in(parent: &Checkpoint, config: Config, seed: u64) -> Checkpoint {
    let mut checkpoint = checkpoint::random(config, "", seed);
    for (name, tensor) in &mut checkpoint.weights.tensors {
        match parent.weights.tensors.get(name).map(|tensor| &tensor.data) {
            Some(Data::F16(_)) => *tensor = tensor.to_f16(),
            Some(Data::I8(data)) => *tensor = tensor.to_i8(data.channels),
            _ => {}
        }
    }
    checkpoint
}
