//! Surgery: takes units and layers out of a network's config and weights.

use super::structure::{Layer, Structure};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::{HostTensor, Weights};

/// Keeps these units of a structure, in ascending order, and cuts every tensor that makes or uses them. What remains of the maps that use
/// them is as it was: see `repair` for better.
pub fn cut(config: &mut Config, weights: &mut Weights, structure: &Structure, keep: &[usize]) -> Result<()> {
    if keep.is_empty() || keep.windows(2).any(|pair| pair[0] >= pair[1]) || keep.last().is_some_and(|&last| last >= structure.units) {
        return Err(Error::Config(format!("{} has {} units; those kept must be some of them, in ascending order", structure.name, structure.units)));
    }
    structure.place.set(config, keep.len());
    for (name, axis) in &structure.made_by {
        take(weights, name, *axis, structure, keep)?;
    }
    for map in &structure.used_by {
        let name = format!("{map}.weight");
        let last = weights.tensors.get(&name).map_or(0, |tensor| tensor.shape.len().saturating_sub(1));
        take(weights, &name, last, structure, keep)?;
    }
    Ok(())
}

fn take(weights: &mut Weights, name: &str, axis: usize, structure: &Structure, keep: &[usize]) -> Result<()> {
    let tensor = weights.named(name)?;
    let along = structure.units * structure.width;
    if tensor.shape.get(axis) != Some(&along) {
        let mut expected = tensor.shape.clone();
        expected.resize(expected.len().max(axis + 1), 1);
        expected[axis] = along;
        return Err(Error::Shape { name: name.into(), expected, found: tensor.shape.clone() });
    }
    let kept = some(tensor, axis, structure.width, keep);
    weights.insert(name, kept);
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

/// Takes whole layers out; those that remain are numbered anew.
pub fn drop_layers(config: &mut Config, weights: &mut Weights, dropped: &[Layer]) {
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
