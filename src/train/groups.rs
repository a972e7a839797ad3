//! Groups of queries that only training asks, each matched one to one with the targets: one target teaches several queries.
//!
//! One-to-one matching gives a decoder few queries to learn from. Further groups, in the same pass through the same layers, give it
//! more, and as no group sees another, none learns to leave a target to another's query: "Group DETR" (Chen et al. 2022,
//! arXiv:2207.13085). Their loss is the mean over the groups and counts once beside the network's own, as the one-to-many
//! branch of "H-DETR" (Jia et al. 2022, arXiv:2207.13080) does, so that its size doesn't depend on how many there are.
//!
//! A group has what the network's own queries have, under the same names:
//!
//! | name | shape | where |
//! |---|---|---|
//! | `training.groups.{k}.query_content` | `[queries, d_model]` | queries have contents |
//! | `training.groups.{k}.query_position` | `[queries, d_model]` | queries aren't anchored |
//! | `training.groups.{k}.box_reference` | `[queries, 4]` | queries have references |

use super::network::is_anchored;
use super::run::State;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};
use fastrand::Rng;

/// What the names of all groups' tensors begin with.
pub(super) const PREFIX: &str = "training.groups.";

/// How far a group begins from the network's own queries, in parts of these's root mean square.
const NOISE: f32 = 0.2;

/// The tensor of a group that stands for this one of the network's own queries.
pub(super) fn name(group: usize, own: &str) -> String {
    format!("{PREFIX}{group}.{own}")
}

/// The tensors of a group by their own queries' names, and how many numbers each query has in them.
fn parts(config: &Config, anchored: bool) -> impl Iterator<Item = (&'static str, usize)> {
    let content = config.query_content.then_some(("query_content", config.d_model));
    let position = (!anchored).then_some(("query_position", config.d_model));
    let reference = config.box_reference.then_some(("box_reference", 4));
    [content, position, reference].into_iter().flatten()
}

fn group_of(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// How many groups weights have.
pub fn count(weights: &Weights) -> usize {
    weights.tensors.keys().filter_map(|name| group_of(name)).max().map_or(0, |last| last.saturating_add(1))
}

/// Refuses weights with a group that isn't whole, or with what is no group's.
pub(super) fn check(config: &Config, weights: &Weights) -> Result<()> {
    let mut left = weights.tensors.keys().filter(|name| name.starts_with(PREFIX)).count();
    for group in 0..count(weights) {
        for (own, width) in parts(config, is_anchored(weights)) {
            weights.get(&name(group, own), &[config.queries, width])?;
            left -= 1;
        }
    }
    match left {
        0 => Ok(()),
        _ => Err(Error::Config(format!("{left} tensors {PREFIX}… are no part of a group of queries"))),
    }
}

/// Gives a run `wanted` groups; how many it had. What is there goes on, the last ones are dropped where there are too many, and missing ones
/// begin as the network's own queries with some noise: at once as good as these (queries drawn anew would pull a trained
/// decoder away from them), and parted by what they see.
pub fn set(config: &Config, state: &mut State, wanted: usize, seed: u64) -> Result<usize> {
    let had = count(&state.weights);
    let stays = |name: &str| group_of(name).is_none_or(|group| group < wanted);
    state.weights.tensors.retain(|name, _| stays(name));
    state.moments.0.retain(|name, _| stays(name));
    state.average.values.retain(|name, _| stays(name));
    for group in had..wanted {
        // A generator for each, so that a group's beginning doesn't depend on how many there are.
        let mut rng = Rng::with_seed(seed.wrapping_add(1 + group as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (own, width) in parts(config, is_anchored(&state.weights)) {
            let own_rows = state.weights.get(own, &[config.queries, width])?.to_f32().into_owned();
            let square = own_rows.iter().map(|x| x * x).sum::<f32>() / own_rows.len().max(1) as f32;
            let most = NOISE * (3.0 * square).sqrt();
            let rows = own_rows.iter().map(|x| x + most * (2.0 * rng.f32() - 1.0)).collect();
            state.weights.insert(name(group, own), HostTensor::f32(&[config.queries, width], rows));
        }
    }
    Ok(had)
}
