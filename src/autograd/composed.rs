//! The operations made of candle's own, each of which has a gradient.
//!
//! candle's `softmax_last_dim` and `LayerNorm` have no gradient, its pooling no padding and its grouped convolution runs
//! one convolution a channel, so none of these is used.

use crate::backend::{Deformable, Placement, Pool, SamplingMethod, Window};
use crate::config::Activation;
use candle_core::{D, DType, Result, Tensor};

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

pub fn pool(x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let place = window.place(height, width);
    let whole = Placement { top: 0, left: 0, out_height: 1, out_width: 1 };
    if matches!(pool, Pool::Average | Pool::AverageWithin) && window.kernel == [height, width] && window.dilation == 1 && place == whole {
        return x.mean_keepdim((1, 2));
    }
    let padding = if pool == Pool::Max { LOWEST } else { 0.0 };
    let mut all: Option<Tensor> = None;
    for x in taps(x, window, padding)? {
        all = Some(match (all, pool) {
            (Some(all), Pool::Max | Pool::MaxOfZeroPadded) => all.maximum(&x?)?,
            (Some(all), Pool::Average | Pool::AverageWithin) => (all + x?)?,
            (None, _) => x?,
        });
    }
    let all = all.ok_or_else(|| candle_core::Error::Msg("a window without places".into()))?;
    match pool {
        Pool::Max | Pool::MaxOfZeroPadded => Ok(all),
        Pool::Average => all / (window.kernel[0] * window.kernel[1]) as f64,
        Pool::AverageWithin => {
            // As many places as lie within the map in each direction; where there are none the sum is zero.
            let along = |places: usize, kernel: usize, before: usize, size: usize| {
                let inside =
                    move |out: usize| (0..kernel).filter(|tap| (out * window.stride + tap * window.dilation).wrapping_sub(before) < size).count();
                (0..places).map(move |out| inside(out).max(1) as f32)
            };
            let rows = Tensor::from_iter(along(place.out_height, window.kernel[0], place.top, height), x.device())?.reshape((1, (), 1, 1))?;
            let columns = Tensor::from_iter(along(place.out_width, window.kernel[1], place.left, width), x.device())?.reshape((1, 1, (), 1))?;
            all.broadcast_div(&rows)?.broadcast_div(&columns)
        }
    }
}

/// Each place four times.
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let x = x.reshape(vec![batch, height, 1, width, 1, channels])?.broadcast_as(vec![batch, height, 2, width, 2, channels])?;
    x.reshape((batch, 2 * height, 2 * width, channels))
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
    softmax(&scores)?.matmul(&split(v)?)?.transpose(1, 2)?.reshape((batch, queries, v.dim(2)?))
}

pub fn softmax(x: &Tensor) -> Result<Tensor> {
    // What is subtracted makes no difference, so that it needs no gradient.
    let x = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    x.broadcast_div(&x.sum_keepdim(D::Minus1)?)
}

/// The weighted sum of what lies at `locations` `[batch, queries, heads * points, 2]`, weights `[batch, queries, heads * points]`.
pub fn sample(value: &Tensor, locations: &Tensor, weights: &Tensor, deformable: &Deformable) -> Result<Tensor> {
    let ((batch, tokens, row), (_, queries, _, _)) = (value.dims3()?, locations.dims4()?);
    let Deformable { heads, ref levels, ref points, .. } = *deformable;
    let locations = locations.reshape((batch, queries, heads, (), 2))?;
    let weights = weights.reshape((batch, queries, heads, ()))?;
    // Of each picture and head, the row of its first token, where a token's heads follow one another.
    let count = |size: usize| Tensor::arange(0, size as i64, value.device());
    let pictures = (count(batch)?.reshape((batch, 1, 1, 1))? * (tokens * heads) as f64)?;
    let starts = pictures.broadcast_add(&count(heads)?.reshape((1, 1, heads, 1))?)?;
    let rows = value.reshape((batch * tokens * heads, row / heads))?;
    let (mut point, mut first) = (0, 0);
    let mut sum = Tensor::zeros((batch, queries, heads, row / heads), DType::F32, value.device())?;
    for (&[height, width], &count) in levels.iter().zip(points) {
        let at = locations.narrow(3, point, count)?;
        let weights = weights.narrow(3, point, count)?.contiguous()?;
        let [x, y] = [(0, width), (1, height)].map(|(i, size)| at.narrow(4, i, 1)?.squeeze(4)?.contiguous()? * size as f64);
        for (row, column, share) in corners(&x?, &y?, [width, height], deformable.method)? {
            let token = ((row.to_dtype(DType::I64)? * width as f64)? + column.to_dtype(DType::I64)?)?;
            let places = ((token + first as f64)? * heads as f64)?.broadcast_add(&starts)?;
            let seen = rows.index_select(&places.flatten_all()?, 0)?.reshape((batch, queries, heads, count, ()))?;
            let share = match share {
                Some(share) => (share * &weights)?,
                None => weights.clone(),
            };
            sum = (sum + seen.broadcast_mul(&share.unsqueeze(4)?)?.sum(3)?)?;
        }
        (point, first) = (point + count, first + height * width);
    }
    sum.reshape((batch, queries, row))
}

/// The places around locations in pixels, within the map, and each one's share, which is all of it for a single one.
fn corners(x: &Tensor, y: &Tensor, [width, height]: [usize; 2], method: SamplingMethod) -> Result<Vec<(Tensor, Tensor, Option<Tensor>)>> {
    let within = |at: &Tensor, size: usize| at.clamp(0f32, (size - 1) as f32);
    if method == SamplingMethod::Discrete {
        let [x, y] = [x, y].map(|at| (at.detach() + 0.5)?.floor());
        return Ok(vec![(within(&y?, height)?, within(&x?, width)?, None)]);
    }
    let mut all = Vec::with_capacity(4);
    let ends = |at: &Tensor| {
        let before = ((at - 0.5)?.detach()).floor()?;
        let part = ((at - 0.5)? - &before)?;
        Ok::<_, candle_core::Error>([(before.clone(), (1.0 - &part)?), ((before + 1.0)?, part)])
    };
    for (row, down) in &ends(y)? {
        for (column, right) in &ends(x)? {
            // Nothing lies outside of the map.
            let (inside_row, inside_column) = (within(row, height)?, within(column, width)?);
            let inside = (inside_row.eq(row)?.to_dtype(DType::F32)? * inside_column.eq(column)?.to_dtype(DType::F32)?)?;
            all.push((inside_row, inside_column, Some(((down * right)? * inside)?)));
        }
    }
    Ok(all)
}

/// Scale and shift `[2]` of all values.
pub fn affine(x: &Tensor, affine: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&affine.narrow(0, 0, 1)?)?.broadcast_add(&affine.narrow(0, 1, 1)?)
}

pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(epsilon))?.sqrt()?;
    x.broadcast_div(&size)?.broadcast_mul(weight)
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
