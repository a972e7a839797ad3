//! Class and quality heads of the decoder's earlier layers, which no detector runs: a deployed file may have lost them and hold noise in their
//! place (DEIMv2-Femto's does). Training with losses on every layer then begins with the last layer's.
//!
//! A layer's own heads, as they were trained, say of its queries what the last layer says better than heads of another layer would. So both are
//! tried on some images, and whichever comes nearer to the last layer's scores is kept.

use crate::backend::Backend;
use crate::config::RtDetr as Config;
use crate::cpu::{self, Cpu};
use crate::error::Result;
use crate::model::RtDetr;
use crate::weights::{HostTensor, Weights};

/// Gives earlier layers the last layer's class and quality heads where these serve them better than their own, on images `[height, width, 3]`.
/// Which layers, counted from 0, come back.
pub fn replace_lost(config: &Config, weights: &mut Weights, images: &[HostTensor]) -> Result<Vec<usize>> {
    let last = config.decoder.layers - 1;
    let mut copied = weights.clone();
    for layer in 0..last {
        copy(&mut copied, last, layer);
    }
    let [own, others] = [distances(config, weights, images)?, distances(config, &copied, images)?];
    let lost: Vec<usize> = (0..last).filter(|&layer| others[layer] < own[layer]).collect();
    for &layer in &lost {
        copy(weights, last, layer);
    }
    Ok(lost)
}

/// The heads of one layer become another's.
fn copy(weights: &mut Weights, from: usize, to: usize) {
    for head in ["class_head", "quality_head"] {
        let (prefix, other) = (format!("{head}.{from}."), format!("{head}.{to}."));
        let tensors: Vec<(String, HostTensor)> =
            weights.tensors.iter().filter_map(|(name, tensor)| Some((format!("{other}{}", name.strip_prefix(&prefix)?), tensor.clone()))).collect();
        tensors.into_iter().for_each(|(name, tensor)| weights.insert(name, tensor));
    }
}

/// Of each layer's scores from the last layer's, summed over all queries and classes.
fn distances(config: &Config, weights: &Weights, images: &[HostTensor]) -> Result<Vec<f64>> {
    let network = RtDetr::load(&Cpu, config, weights)?;
    let mut sums = vec![0.0; config.decoder.layers];
    for image in images {
        let shape: Vec<usize> = std::iter::once(1).chain(image.shape.iter().copied()).collect();
        let maps = network.features(&Cpu, &Cpu.constant(&HostTensor::f32(&shape, image.to_f32().into_owned()))?)?;
        let levels = network.encode(&Cpu, maps)?;
        let selected = network.select(&Cpu, &levels)?;
        let decoded = network.decode_each(&Cpu, selected, &levels, None)?;
        let scores = decoded.layers.iter().map(|layer| -> Result<Vec<f32>> {
            let logits = cpu::to_host(&layer.output.logits)?;
            Ok(logits.to_f32().iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect())
        });
        let scores = scores.collect::<Result<Vec<_>>>()?;
        let Some(last) = scores.last() else { continue };
        for (sum, own) in sums.iter_mut().zip(&scores) {
            *sum += own.iter().zip(last).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
        }
    }
    Ok(sums)
}
