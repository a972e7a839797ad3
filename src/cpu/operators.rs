//! The operators of multi-scale networks without gradients: checks shapes, and hands slices to the kernels.

use super::deformable::Sampler;
use super::elementwise::{self, Pair};
use super::fast::{on_map, slid};
use super::floats::Floats;
use super::lanes::Ending;
use super::{copies, deformable as mixing, select, softmax as rows, window as windows};
use crate::backend::{Deformable, Pool, Window};
use crate::config::Activation;
use candle_core::{Device, Result, Tensor, bail};

pub fn pool(x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
    let channels = x.dims4()?.3;
    let shape = slid(x, channels, channels, window)?;
    Tensor::from_vec(on_map(x, |map| Ok(windows::pool(map, window, pool)))?, &shape[..], &Device::Cpu)
}

pub fn upsample(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    if x.elem_count() == 0 {
        bail!("there is nothing to upsample in {:?}", x.shape())
    }
    let out = copies::upsample(&Floats::of(&x.contiguous()?)?, width, channels);
    Tensor::from_vec(out, (batch, 2 * height, 2 * width, channels), &Device::Cpu)
}

/// The joined shape of parts that are alike but for `axis`.
pub fn concat_shape(parts: &[&Tensor], axis: usize) -> Result<Vec<usize>> {
    let Some(first) = parts.first() else { bail!("a concat of no tensors") };
    let mut shape = first.dims().to_vec();
    if axis >= shape.len() {
        bail!("{:?} can't be joined on axis {axis}", first.shape())
    }
    shape[axis] = 0;
    for part in parts {
        let fits = part.rank() == shape.len() && part.dims().iter().zip(&shape).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            bail!("{:?} and {:?} can't be joined on axis {axis}", first.shape(), part.shape())
        }
        shape[axis] += part.dims()[axis];
    }
    Ok(shape)
}

pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let shape = concat_shape(parts, axis)?;
    let parts = parts.iter().map(|part| part.contiguous()).collect::<Result<Vec<_>>>()?;
    let floats = parts.iter().map(Floats::of).collect::<Result<Vec<_>>>()?;
    let rows: usize = shape[..axis].iter().product();
    let out = copies::concat(&floats.iter().map(|part| &part[..]).collect::<Vec<_>>(), rows);
    Tensor::from_vec(out, shape, &Device::Cpu)
}

/// The length of the last axis, of which `start..start + length` must be a part.
pub fn narrowed(x: &Tensor, start: usize, length: usize) -> Result<usize> {
    match x.dims().last() {
        Some(&width) if start.checked_add(length).is_some_and(|end| end <= width) && length > 0 => Ok(width),
        _ => bail!("{length} channels from {start} on can't be cut out of {:?}", x.shape()),
    }
}

pub fn narrow(x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
    let width = narrowed(x, start, length)?;
    if length == width {
        return Ok(x.clone());
    }
    let out = copies::narrow(&Floats::of(&x.contiguous()?)?, width, start, length);
    Tensor::from_vec(out, ending_in(x, length), &Device::Cpu)
}

/// The shape of `x`, but for its last axis.
fn ending_in(x: &Tensor, length: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = length;
    }
    shape
}

/// Fails unless each dimension of `b` is that of `a`, or 1.
pub fn check_pair(pair: Pair, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.rank() != b.rank() || a.dims().iter().zip(b.dims()).any(|(a, b)| b != a && *b != 1) {
        match pair {
            Pair::Add => bail!("{:?} can't be added to {:?}", b.shape(), a.shape()),
            Pair::Multiply => bail!("{:?} can't be multiplied by {:?}", a.shape(), b.shape()),
        }
    }
    Ok(())
}

pub fn pair(pair: Pair, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    check_pair(pair, a, b)?;
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let out = elementwise::pair(pair, [&Floats::of(&a)?, &Floats::of(&b)?], [a.dims(), b.dims()], Ending::of(activation));
    Tensor::from_vec(out, a.shape(), &Device::Cpu)
}

pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    Tensor::from_vec(elementwise::activate(&Floats::of(&x.contiguous()?)?, activation), x.shape(), &Device::Cpu)
}

/// Fails unless these are bounds.
pub fn check_bounds(min: f32, max: f32) -> Result<()> {
    if min <= max { Ok(()) } else { bail!("nothing lies between {min} and {max}") }
}

pub fn clamp(x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
    check_bounds(min, max)?;
    Tensor::from_vec(elementwise::clamp(&Floats::of(&x.contiguous()?)?, min, max), x.shape(), &Device::Cpu)
}

/// The length of the last axis, which must be at least 1.
pub fn last_axis(x: &Tensor) -> Result<usize> {
    match x.dims().last() {
        Some(&width) if width > 0 => Ok(width),
        _ => bail!("there is nothing on the last axis of {:?}", x.shape()),
    }
}

pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let width = last_axis(x)?;
    Tensor::from_vec(rows::softmax(&Floats::of(&x.contiguous()?)?, width), x.shape(), &Device::Cpu)
}

/// The length of the last axis, of which `k` values are wanted.
pub fn of_which(x: &Tensor, k: usize) -> Result<usize> {
    match x.dims().last() {
        Some(&width) if (1..=width).contains(&k) => Ok(width),
        _ => bail!("the {k} largest values of {:?} are wanted", x.shape()),
    }
}

pub fn top_values(x: &Tensor, k: usize) -> Result<Tensor> {
    let width = of_which(x, k)?;
    Tensor::from_vec(select::top_values(&Floats::of(&x.contiguous()?)?, width, k), ending_in(x, k), &Device::Cpu)
}

/// `[batch, k]`, of u32.
pub fn top_tokens(scores: &Tensor, k: usize) -> Result<Tensor> {
    let (batch, tokens, classes) = scores.dims3()?;
    if !(1..=tokens).contains(&k) || classes == 0 {
        bail!("the {k} best tokens of {:?} are wanted", scores.shape())
    }
    let chosen = select::top_tokens(&Floats::of(&scores.contiguous()?)?, tokens, classes, k);
    Tensor::from_vec(chosen, (batch, k), &Device::Cpu)
}

/// The chosen tokens of each picture, which must exist in `x`.
pub fn chosen(x: &Tensor, indices: &Tensor) -> Result<Vec<u32>> {
    let ((pictures, tokens, _), (batch, _)) = (x.dims3()?, indices.dims2()?);
    if ![1, batch].contains(&pictures) {
        bail!("tokens of {batch} pictures can't be gathered from {:?}", x.shape())
    }
    let chosen = indices.flatten_all()?.to_vec1::<u32>()?;
    match chosen.iter().find(|&&token| token as usize >= tokens) {
        Some(token) => bail!("token {token} can't be gathered from {:?}", x.shape()),
        None => Ok(chosen),
    }
}

pub fn gather(x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let chosen = chosen(x, indices)?;
    let ((_, tokens, width), (batch, k)) = (x.dims3()?, indices.dims2()?);
    let out = if chosen.is_empty() { Vec::new() } else { select::gather(&Floats::of(&x.contiguous()?)?, [tokens, width], &chosen, k) };
    Tensor::from_vec(out, (batch, k, width), &Device::Cpu)
}

/// What an attention samples, if its arguments go together.
pub fn sampler(value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Sampler> {
    let ((batch, tokens, row), (_, queries, _)) = (value.dims3()?, boxes.dims3()?);
    let Deformable { heads, levels, points, .. } = deformable;
    let (all_points, sizes) = (heads * deformable.all_points(), [offsets, weights, boxes].map(Tensor::dims));
    let fits = *heads > 0
        && ![batch, queries, row].contains(&0)
        && row.is_multiple_of(*heads)
        && all_points > 0
        && points.len() == levels.len()
        && levels.iter().flatten().all(|&size| size > 0)
        && tokens == deformable.tokens()
        && sizes == [&[batch, queries, 2 * all_points][..], &[batch, queries, all_points], &[batch, queries, 4]];
    if !fits {
        bail!(
            "a value {:?}, offsets, weights and boxes {sizes:?} don't go together in {heads} heads on levels {levels:?}, {points:?} points",
            value.shape()
        )
    }
    Ok(Sampler::new(deformable, row / heads))
}

pub fn deformable_attention(value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
    let sampler = sampler(value, offsets, weights, boxes, deformable)?;
    let (batch, queries, _) = boxes.dims3()?;
    let [value, offsets, weights, boxes] = [value.contiguous()?, offsets.contiguous()?, weights.contiguous()?, boxes.contiguous()?];
    let out = mixing::attention(&sampler, queries, &Floats::of(&value)?, &Floats::of(&offsets)?, &Floats::of(&weights)?, &Floats::of(&boxes)?);
    Tensor::from_vec(out, (batch, queries, sampler.row()), &Device::Cpu)
}
