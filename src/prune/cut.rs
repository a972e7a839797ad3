//! Surgery: takes units and layers out of a network's config and weights.

use super::structure::{Layer, Made, Place, Structure, Used, decoder_layer};
use crate::config::{Architecture, RtDetr};
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};
use std::collections::BTreeMap;

/// Keeps these units of each structure, in ascending order, and cuts every tensor that makes or uses them; all at once, for several structures
/// may lie along one axis. What remains of the maps that use them is as it was: see `repair` for better.
pub fn cut(config: &mut Architecture, weights: &mut Weights, cuts: &[(&Structure, &[usize])]) -> Result<()> {
    for (structure, keep) in cuts {
        if keep.is_empty() || keep.windows(2).any(|pair| pair[0] >= pair[1]) || keep.last().is_some_and(|&last| last >= structure.units) {
            return Err(Error::Config(format!(
                "{} has {} units; those kept must be some of them, in ascending order",
                structure.name, structure.units
            )));
        }
        structure.place.set(config, keep.len());
        if let Place::Points(_) = structure.place {
            spread(weights, structure, keep.len() as f32 / structure.units as f32)?;
        }
    }
    for ((name, axis), kept) in kept(weights, cuts)? {
        let tensor = some(weights.named(&name)?, axis, 1, &kept);
        weights.insert(name, tensor);
    }
    Ok(())
}

/// What stays along an axis of a tensor: by its name and the axis.
type Kept = BTreeMap<(String, usize), Vec<usize>>;

/// What stays along each axis that is cut.
pub fn kept(weights: &Weights, cuts: &[(&Structure, &[usize])]) -> Result<Kept> {
    let mut stays: BTreeMap<(String, usize), Vec<bool>> = BTreeMap::new();
    for (structure, keep) in cuts {
        let gone: Vec<usize> = (0..structure.units).filter(|unit| !keep.contains(unit)).collect();
        let made_by = structure.made_by.iter().map(|Made { tensor, axis, span }| (tensor.clone(), Some(*axis), span));
        let used_by = structure.used_by.iter().map(|Used { layer, span }| (format!("{layer}.weight"), None, span));
        for (name, axis, span) in made_by.chain(used_by) {
            let shape = &weights.named(&name)?.shape;
            let axis = axis.unwrap_or(shape.len().saturating_sub(1));
            let length = shape.get(axis).copied().unwrap_or(0);
            let whole = span.offsets.iter().max().copied().unwrap_or(0) + structure.units * span.width;
            // What nothing else lies beside fills its axis.
            if whole > length || (matches!(structure.place, Place::Queries) && whole < length) {
                let mut expected = shape.clone();
                expected.resize(expected.len().max(axis + 1), 1);
                expected[axis] = whole;
                return Err(Error::Shape { name, expected, found: shape.clone() });
            }
            let stays = stays.entry((name, axis)).or_insert_with(|| vec![true; length]);
            gone.iter().flat_map(|&unit| span.of(unit)).for_each(|index| stays[index] = false);
        }
    }
    let places = |stays: Vec<bool>| (0..stays.len()).filter(|&i| stays[i]).collect();
    Ok(stays.into_iter().map(|(axis, stays)| (axis, places(stays))).collect())
}

/// A sampling point lies at its offset over the number of its level's points: with fewer of them the offsets must be smaller.
fn spread(weights: &mut Weights, points: &Structure, factor: f32) -> Result<()> {
    // Those of offsets have two rows for each point, x and y.
    for Made { tensor: name, span, .. } in points.made_by.iter().filter(|made| made.span.width == 2) {
        let tensor = weights.named(name)?;
        let inner = tensor.len() / tensor.shape[0].max(1);
        let mut numbers = tensor.to_f32().into_owned();
        for row in (0..points.units).flat_map(|unit| span.of(unit)) {
            numbers.iter_mut().skip(row * inner).take(inner).for_each(|x| *x *= factor);
        }
        let tensor = HostTensor::f32(&tensor.shape.clone(), numbers);
        weights.insert(name, tensor);
    }
    Ok(())
}

/// Some of the units of this width that lie along an axis of a tensor.
pub fn some(tensor: &HostTensor, axis: usize, width: usize, keep: &[usize]) -> HostTensor {
    let inner: usize = tensor.shape[axis + 1..].iter().product();
    let (row, run) = (tensor.shape[axis] * inner, width * inner);
    let numbers = tensor.to_f32();
    let kept = numbers.chunks_exact(row).flat_map(|row| keep.iter().flat_map(|unit| &row[unit * run..][..run])).copied().collect();
    let mut shape = tensor.shape.clone();
    shape[axis] = keep.len() * width;
    HostTensor::f32(&shape, kept)
}

/// Takes whole layers out; those that remain are numbered anew. Of RT-DETR's family only the last ones can go: the last layer that stays gets
/// the heads of the last one that goes, whose output it is to give.
pub fn drop_layers(config: &mut Architecture, weights: &mut Weights, dropped: &[Layer]) {
    let config = match config {
        Architecture::Detr(config) => config,
        Architecture::RtDetr(config) => {
            let (all, left) = (config.decoder.layers, drop_last(config, dropped.iter().filter(|layer| matches!(layer, Layer::Decoder(_))).count()));
            let renamed = std::mem::take(&mut weights.tensors).into_iter().filter_map(|(name, tensor)| Some((renamed(&name, all, left)?, tensor)));
            weights.tensors = renamed.collect();
            return;
        }
    };
    let kept = |count: usize, layer: fn(usize) -> Layer| (0..count).filter(|&i| !dropped.contains(&layer(i))).collect::<Vec<_>>();
    let (encoder, decoder) = (kept(config.encoder.len(), Layer::Encoder), kept(config.decoder.len(), Layer::Decoder));
    config.encoder = encoder.iter().map(|&i| config.encoder[i].clone()).collect();
    config.decoder = decoder.iter().map(|&i| config.decoder[i].clone()).collect();
    let renamed = std::mem::take(&mut weights.tensors).into_iter().filter_map(|(name, tensor)| {
        let mut parts = name.splitn(3, '.');
        let (kept, number, rest) = match (parts.next(), parts.next().and_then(|n| n.parse::<usize>().ok()), parts.next()) {
            (Some("encoder"), Some(number), Some(rest)) => (&encoder, number, rest),
            (Some("decoder"), Some(number), Some(rest)) => (&decoder, number, rest),
            _ => return Some((name, tensor)),
        };
        let new = kept.iter().position(|&i| i == number)?;
        Some((format!("{}.{new}.{rest}", &name[..7]), tensor))
    });
    weights.tensors = renamed.collect();
}

/// Drops so many of the last decoder layers of a config; how many are left.
pub fn drop_last(config: &mut RtDetr, count: usize) -> usize {
    let all = config.decoder.layers;
    let left = all.saturating_sub(count).max(1);
    config.decoder.layers = left;
    config.sizes = std::mem::take(&mut config.sizes).into_iter().filter_map(|(name, size)| Some((renamed(&name, all, left)?, size))).collect();
    left
}

/// What becomes of a name where `left` of `all` decoder layers are left; none if it goes.
fn renamed(name: &str, all: usize, left: usize) -> Option<String> {
    match decoder_layer(name) {
        Some(layer) if name.starts_with("decoder.") => (layer < left).then(|| name.into()),
        Some(layer) if layer + 1 == all => {
            let mut parts: Vec<&str> = name.split('.').collect();
            let number = (left - 1).to_string();
            *parts.get_mut(1)? = &number;
            Some(parts.join("."))
        }
        Some(layer) => (layer + 1 < left).then(|| name.into()),
        None => Some(name.into()),
    }
}
