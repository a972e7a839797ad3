//! A network as small as can be, and pictures for it: for tests.

use super::inputs::Inputs;
use super::structure::Structure;
use crate::config::*;
use crate::image::Picture;
use crate::weights::{HostTensor, Weights};

/// Random weights; two heads everywhere, two encoder and two decoder layers.
pub fn network() -> (Architecture, Weights) {
    let attention = Attention { heads: 2, head_width: 4 };
    let block = |stride| ResNetBlock { inner: vec![6], stride, dilation: 1, second_dilation: None, projection: true };
    let stage = || ResNetStage { channels: 6, blocks: vec![block(2)] };
    let config = Config {
        backbone: Backbone::Resnet(ResNet { stem: 4, stages: vec![stage(), stage()] }),
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 6 }; 2],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 6 }; 2],
        queries: 4,
        classes: 3,
        class_activation: ClassActivation::Softmax,
        query_content: true,
        labels: (1..3).map(|id| Label { id, name: format!("thing {id}") }).collect(),
        pixels: Pixels { resize: Resize::ShortestSide { short: 48, long: 96 }, ..Pixels::detr() },
        ..Config::detr(Backbone::Resnet(ResNet { stem: 4, stages: vec![] }))
    };
    let weights = crate::checkpoint::random(config.clone(), "tiny", 3).weights;
    (config.into(), weights)
}

pub fn inputs(config: &Architecture, count: usize) -> Inputs {
    let mut random = fastrand::Rng::with_seed(5);
    let mut picture = || Picture::new(60, 48, (0..60 * 48 * 4).map(|_| random.u8(..)).collect()).unwrap();
    Inputs::of((0..count).map(|_| picture()).collect(), config.pixels())
}

/// With the columns of the maps that use a unit multiplied.
pub fn scaled(weights: &Weights, structure: &Structure, unit: usize, factor: f32) -> Weights {
    let mut weights = weights.clone();
    for used in &structure.used_by {
        let name = format!("{}.weight", used.layer);
        let tensor = &weights.tensors[&name];
        let inputs = *tensor.shape.last().unwrap();
        let columns: Vec<usize> = used.span.of(unit).collect();
        let numbers = tensor.to_f32().iter().enumerate().map(|(i, x)| if columns.contains(&(i % inputs)) { x * factor } else { *x }).collect();
        let tensor = HostTensor::f32(&tensor.shape, numbers);
        weights.insert(&name, tensor);
    }
    weights
}
