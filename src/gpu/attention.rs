//! Multi-head attention: scores, softmax and mix, the host's side of `kernels/attention*.wgsl` and `softmax.wgsl`.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, expect, spread};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};

/// As in `attention.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    first: u32,
    count: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    width: u32,
    bias_batch: u32,
    bias_rows: u32,
    scale: f32,
}

/// Scores that are kept at a time, in bytes: many keys are attended to by some queries after the others.
const MOST_SCORES: usize = 32 << 20;
/// Rows and columns that a workgroup makes.
const TILE: usize = 32;

pub fn record(recorder: &Recorder, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let ([batch, queries, width], [_, keys, _]) = (three(q)?, three(k)?);
    expect("attention's keys", &k.shape, &[batch, keys, width])?;
    expect("attention's values", &v.shape, &[batch, keys, width])?;
    let [bias_batch, bias_rows, _] = bias.map_or(Ok([0, 0, keys]), three)?;
    if let Some(bias) = bias {
        let fits = (bias_batch == batch || bias_batch == 1) && (bias_rows == queries || bias_rows == 1);
        expect("attention's bias", &bias.shape, &if fits { [bias_batch, bias_rows, keys] } else { [batch, queries, keys] })?;
    }
    let (planes, head_width) = (batch * heads, width / heads);
    let y = recorder.made(&[batch, queries, width])?;
    // Workgroup memory is as good or bad here as in other matrix products.
    let direct = head_width.is_multiple_of(4) && !recorder.variants[0].is_tiled();
    let family = if direct { Family::AttentionDirect } else { Family::AttentionTiled };
    let most = (MOST_SCORES / (planes * keys * size_of::<f32>())).max(1);
    for first in (0..queries).step_by(most) {
        let count = most.min(queries - first);
        let parameters = Parameters {
            first: first as u32,
            count: count as u32,
            queries: queries as u32,
            keys: keys as u32,
            heads: heads as u32,
            width: head_width as u32,
            bias_batch: bias_batch as u32,
            bias_rows: bias_rows as u32,
            scale: (head_width as f32).sqrt().recip(),
        };
        let scores = recorder.made(&[planes, count, keys])?;
        let groups = |columns: usize| [columns.div_ceil(TILE) as u32, count.div_ceil(TILE) as u32, planes as u32];
        let bias = bias.map_or(&q.value, |bias| &bias.value);
        recorder.dispatch(family, &[("SCORES", 1)], &[parameters], &[&q.value, &k.value, bias], &scores.value, groups(keys));
        let [across, down] = spread((planes * count).div_ceil(4));
        recorder.dispatch(Family::Softmax, &[], &[(planes * count) as u32, keys as u32], &[], &scores.value, [across, down, 1]);
        recorder.dispatch(family, &[("SCORES", 0)], &[parameters], &[&scores.value, &v.value], &y.value, groups(head_width));
    }
    Ok(y)
}

fn three(tensor: &Tensor) -> Result<[usize; 3]> {
    tensor.shape[..].try_into().map_err(|_| Error::Gpu(format!("attention on shape {:?}", tensor.shape)))
}
