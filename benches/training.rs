//! How many pictures a second the transformer is trained on, from features in memory; `training.py` does the same step in PyTorch.
//!
//!     cargo bench --bench training -- [seconds]

use detrim::config::*;
use detrim::train::fresh::fresh;
use detrim::train::groups;
use detrim::train::loss::Criterion;
use detrim::train::optimiser::{AdamW, Group, Moments, parameters};
use detrim::train::run::State;
use detrim::train::step::{Method, step, trainable};
use detrim::train::trained::Trained;
use detrim::train::{Example, Target};
use detrim::{HostTensor, Weights};
use std::time::Instant;

const BATCH: usize = 8;
/// Of features at stride 32 of a picture of 384×384.
const SIDE: usize = 12;
const CHANNELS: usize = 320;

fn main() -> detrim::Result<()> {
    // candle's own threads would spin while ours work.
    // SAFETY: no other thread is running yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20.0);
    for (d_model, layers, queries, groups) in [(192, 6, 60, 0), (192, 6, 60, 2), (128, 3, 50, 0)] {
        let speed = measure(&config(d_model, layers, queries), groups, seconds)?;
        let further = if groups > 0 { format!(" and {groups} groups of as many") } else { String::new() };
        println!("d_model {d_model}, {layers} + {layers} layers, {queries} queries{further}, 40 for denoising, batch {BATCH}: {speed:.1} pictures/s");
    }
    Ok(())
}

fn config(d_model: usize, layers: usize, queries: usize) -> Config {
    let attention = Attention { heads: 8, head_width: d_model / 8 };
    let ffn = 4 * d_model;
    let block = InvertedResidual { expansion: None, kernel: 3, stride: 1, channels: CHANNELS, residual: false };
    let labels: Vec<Label> = (0..80).map(|id| Label { id, name: format!("class {id}") }).collect();
    Config {
        d_model,
        encoder: vec![EncoderLayer { self_attention: attention, ffn }; layers],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn }; layers],
        queries,
        classes: labels.len(),
        class_activation: ClassActivation::Sigmoid,
        query_content: true,
        box_reference: true,
        labels,
        // Its weights are never used: training begins behind the backbone.
        ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 8, stages: vec![vec![block]] }))
    }
}

fn measure(config: &Config, groups: usize, seconds: f64) -> detrim::Result<f64> {
    let backbone: Weights = detrim::checkpoint::random(config.clone(), "backbone", 1).weights;
    let mut state = State::new(trainable(&fresh(config.clone(), &backbone, 2)?.weights));
    groups::set(config, &mut state, groups, 4)?;
    let mut weights = state.weights;
    let method = Method {
        criterion: Criterion::new(config.class_activation),
        denoising: 40,
        noise: Default::default(),
        tokens: 4,
        shards: 2,
        device: candle_core::Device::Cpu,
    };
    let mut rng = fastrand::Rng::with_seed(3);
    let examples: Vec<Example> = (0..BATCH).map(|_| example(&mut rng)).collect();
    let mut moments = Moments::default();
    let mut advance = || -> detrim::Result<()> {
        let outcome = step(config, &weights, &Trained::default(), &method, &examples, &mut rng)?;
        let parameters = parameters(&mut weights, &outcome.gradients, |_| Group { rate: 1.0, decay: true })?;
        AdamW::default().step(&mut moments, parameters, 1e-5, 1.0)
    };
    advance()?;
    let begun = Instant::now();
    let mut steps = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        advance()?;
        steps += 1;
    }
    Ok((steps * BATCH) as f64 / begun.elapsed().as_secs_f64())
}

/// Features without meaning, and five targets.
fn example(rng: &mut fastrand::Rng) -> Example {
    let features = (0..SIDE * SIDE * CHANNELS).map(|_| rng.f32()).collect();
    let mut target = || Target { class: rng.usize(..80), bounds: [0.5, 0.4, 0.1 + 0.5 * rng.f32(), 0.1 + 0.5 * rng.f32()], weight: 1.0 };
    let targets = (0..5).map(|_| target()).collect();
    Example { features: HostTensor::f32(&[SIDE, SIDE, CHANNELS], features), targets, known: vec![true; 80].into(), lesson: None }
}
