//! The operations made of candle's own, each of which has a gradient.
//!
//! candle's `softmax_last_dim` and `LayerNorm` have no gradient, its pooling no padding and its grouped convolution runs
//! one convolution a channel, so none of these is used.

use crate::backend::{Placement, Window};
use crate::config::Activation;
use candle_core::{D, Result, Tensor};

/// What never wins a maximum, and is still safe to compute with.
const LOWEST: f32 = f32::MIN;

/// What every place of a convolution sees, tap by tap: `[batch, out height, out width, taps * channels]`.
pub fn unfold(x: &Tensor, window: Window) -> Result<Tensor> {
    Tensor::cat(&taps(x, window, 0.0)?.collect::<Result<Vec<_>>>()?, 3)
}

pub fn depthwise(x: &Tensor, weight: &Tensor, bias: &Tensor, window: Window, activation: Activation) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (tap, x) in taps(x, window, 0.0)?.enumerate() {
        let product = x?.broadcast_mul(&weight.get(tap)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + product)?,
            None => product,
        });
    }
    finish(sum, bias, activation, None)
}

pub fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    let mut largest: Option<Tensor> = None;
    for x in taps(x, window, LOWEST)? {
        largest = Some(match largest {
            Some(largest) => largest.maximum(&x?)?,
            None => x?,
        });
    }
    largest.ok_or_else(|| candle_core::Error::Msg("a window without places".into()))
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
    finish(Some(map(x, weight)?), bias, activation, residual)
}

pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    // [batch, tokens, width] → [batch, heads, tokens, head width]
    let split = |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, ()))?.transpose(1, 2)?.contiguous();
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let mut scores = (split(q)? * scale)?.matmul(&split(k)?.t()?)?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(&bias.unsqueeze(1)?)?;
    }
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&split(v)?)?.transpose(1, 2)?.reshape((batch, queries, v.dim(2)?))
}

pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(epsilon))?.sqrt()?;
    x.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
}

pub fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(x),
        Activation::Relu => x.relu(),
        Activation::Relu6 => x.clamp(0f32, 6f32),
        Activation::Gelu => x.gelu_erf(),
        Activation::Silu => x.silu(),
        // By tanh, whose gradient stays finite where exp(-x) overflows.
        Activation::Sigmoid => ((x * 0.5)?.tanh()? * 0.5)? + 0.5,
    }
}

/// `x` `[…, in]` times the transpose of `weight` `[out, in]`.
fn map(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, input) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    x.reshape(((), input))?.matmul(&weight.t()?)?.reshape(shape)
}

fn finish(x: Option<Tensor>, bias: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
    let mut x = x.ok_or_else(|| candle_core::Error::Msg("a kernel without taps".into()))?.broadcast_add(bias)?;
    if let Some(residual) = residual {
        x = (x + residual)?;
    }
    activate(x, activation)
}

/// For each tap of the window, row by row, what it sees at every place: `[batch, out height, out width, channels]`.
fn taps(x: &Tensor, window: Window, padding: f32) -> Result<impl Iterator<Item = Result<Tensor>>> {
    let (_, height, width, _) = x.dims4()?;
    let Placement { top, left, out_height, out_width } = window.place(height, width);
    if out_height * out_width == 0 {
        candle_core::bail!("a window of {:?} doesn't fit into {height}×{width}", window.kernel)
    }
    let reach = |places: usize, kernel: usize| (places - 1) * window.stride + (kernel - 1) * window.dilation + 1;
    let x = pad(x, 1, top, reach(out_height, window.kernel[0]).saturating_sub(top + height), padding)?;
    let x = pad(&x, 2, left, reach(out_width, window.kernel[1]).saturating_sub(left + width), padding)?;
    let columns = window.kernel[1];
    Ok((0..window.kernel[0] * columns).map(move |tap| {
        let rows = every(&x, 1, tap / columns * window.dilation, window.stride, out_height)?;
        every(&rows, 2, tap % columns * window.dilation, window.stride, out_width)
    }))
}

fn pad(x: &Tensor, dimension: usize, before: usize, after: usize, value: f32) -> Result<Tensor> {
    let filled = |length| {
        let mut shape = x.dims().to_vec();
        shape[dimension] = length;
        Tensor::full(value, shape, x.device())
    };
    match (before, after) {
        (0, 0) => Ok(x.clone()),
        _ => Tensor::cat(&[&filled(before)?, x, &filled(after)?], dimension),
    }
}

/// `count` entries of a dimension, from `start` on, `step` apart.
fn every(x: &Tensor, dimension: usize, start: usize, step: usize, count: usize) -> Result<Tensor> {
    if step == 1 {
        return x.narrow(dimension, start, count)?.contiguous();
    }
    let places = Tensor::from_iter((0..count).map(|i| (start + i * step) as u32), x.device())?;
    x.contiguous()?.index_select(&places, dimension)
}
