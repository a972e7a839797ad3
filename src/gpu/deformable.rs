//! Multi-scale deformable attention in one kernel: the host's side of `kernels/deformable.wgsl`.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, expect, lanes, vectors};
use crate::backend::{Deformable, SamplingMethod};
use crate::error::{Error, Result};

/// More levels wouldn't fit into a kernel's parameters; networks have three or four.
const MOST_LEVELS: usize = 8;

pub fn record(recorder: &Recorder, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
    let Deformable { heads, levels, points, offset_scale, method } = deformable;
    let (&[batch, _, channels], &[_, queries, _]) = (&value.shape[..], &offsets.shape[..]) else {
        return Err(Error::Gpu(format!("deformable attention on shapes {:?} and {:?}", value.shape, offsets.shape)));
    };
    let all = deformable.all_points();
    let heads_fit = *heads > 0 && channels.is_multiple_of(*heads);
    let levels_fit = levels.len() == points.len() && levels.len() <= MOST_LEVELS && levels.as_flattened().iter().all(|side| *side > 0);
    if !heads_fit || !levels_fit || all == 0 {
        let message = format!("deformable attention with {heads} heads on {channels} channels, levels {levels:?} and points {points:?}");
        return Err(Error::Gpu(message));
    }
    expect("deformable attention's values", &value.shape, &[batch, deformable.tokens(), channels])?;
    expect("deformable attention's offsets", &offsets.shape, &[batch, queries, heads * all * 2])?;
    expect("deformable attention's weights", &weights.shape, &[batch, queries, heads * all])?;
    expect("deformable attention's boxes", &boxes.shape, &[batch, queries, 4])?;
    let y = recorder.made(&[batch, queries, channels])?;
    let width = channels / heads;
    let vector = vectors(width);
    let count = y.size() / lanes(vector);
    // In the order of `deformable.wgsl`.
    let parameters = [count, width / lanes(vector), *heads, queries, deformable.tokens(), all];
    let mut parameters = parameters.map(|number| number as u32).to_vec();
    parameters.push(offset_scale.to_bits());
    for ([height, width], points) in levels.iter().zip(points) {
        let share = (*points as f32).recip();
        parameters.extend([*height as u32, *width as u32, *points as u32, share.to_bits()]);
    }
    let discrete = u32::from(*method == SamplingMethod::Discrete);
    let constants = [("VECTOR", vector), ("DISCRETE", discrete), ("LEVELS", levels.len() as u32)];
    let reads = [&value.value, &offsets.value, &weights.value, &boxes.value];
    recorder.dispatch_each(Family::Deformable, &constants, &parameters, &reads, &y.value, count);
    Ok(y)
}
