//! The layers without gradients: checks shapes, and hands slices to the kernels.

use super::attention::{Bias, Sizes};
use super::conv::Map;
use super::floats::Floats;
use super::lanes::Ending;
use super::product::End;
use super::{Conv, Depthwise, Linear, Norm};
use super::{attention as mixing, conv as products, rows, window as windows};
use crate::backend::Window;
use crate::config::Activation;
use candle_core::{Device, Result, Tensor, bail};

pub fn linear(x: &Tensor, linear: &Linear, ending: Ending, residual: Option<&Tensor>) -> Result<Tensor> {
    let (_, depth, _) = linear.weight.dims3()?;
    let outputs = linear.bias.elem_count();
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == depth => *last = outputs,
        _ => bail!("a linear map of {depth} inputs can't act on {:?}", x.shape()),
    }
    let out = with_end(&shape, &linear.bias, ending, residual, |end| {
        Ok(products::linear(&Floats::of(&x.contiguous()?)?, &Floats::of(&linear.weight)?, depth, outputs, end))
    })?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

pub fn conv(x: &Tensor, conv: &Conv, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
    let linear = &conv.map;
    let ending = Ending { activation, affine: conv.affine };
    if conv.window.is_pointwise() {
        return self::linear(x, linear, ending, residual);
    }
    let outputs = linear.bias.elem_count();
    let shape = slid(x, conv.channels, outputs, conv.window)?;
    let out = with_end(&shape, &linear.bias, ending, residual, |end| {
        on_map(x, |map| Ok(products::conv(map, conv.window, &Floats::of(&linear.weight)?, outputs, end)))
    })?;
    Tensor::from_vec(out, &shape[..], &Device::Cpu)
}

pub fn depthwise(x: &Tensor, conv: &Depthwise, activation: Activation) -> Result<Tensor> {
    let channels = conv.bias.elem_count();
    let shape = slid(x, channels, channels, conv.window)?;
    let ending = Ending { activation, affine: conv.affine };
    let out = on_map(x, |map| Ok(windows::depthwise(map, conv.window, &Floats::of(&conv.weight)?, &Floats::of(&conv.bias)?, ending)))?;
    Tensor::from_vec(out, &shape[..], &Device::Cpu)
}

pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((batch, queries, width), (_, keys, _), value_width) = (q.dims3()?, k.dims3()?, v.dims3()?.2);
    let fits = k.dims() == [batch, keys, width] && v.dims() == [batch, keys, value_width];
    let empty = [batch, queries, keys, width, value_width].contains(&0);
    if !fits || empty || heads == 0 || !width.is_multiple_of(heads) || !value_width.is_multiple_of(heads) {
        bail!("queries {:?}, keys {:?} and values {:?} don't go together in {heads} heads", q.shape(), k.shape(), v.shape())
    }
    let sizes = Sizes { batch, queries, keys, heads, width: width / heads, value_width: value_width / heads };
    let (q, k, v, bias) = (q.contiguous()?, k.contiguous()?, v.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    let bias_values = bias.as_ref().map(Floats::of).transpose()?;
    let bias = match (&bias, &bias_values) {
        (Some(bias), Some(values)) => {
            let (pictures, rows, columns) = bias.dims3()?;
            if columns != keys || ![1, batch].contains(&pictures) || ![1, queries].contains(&rows) {
                bail!("a bias {:?} can't be added to scores of {batch}×{queries}×{keys}", bias.shape())
            }
            Some(Bias { values, per_picture: pictures > 1, per_query: rows > 1 })
        }
        _ => None,
    };
    let out = mixing::attention(&Floats::of(&q)?, &Floats::of(&k)?, &Floats::of(&v)?, sizes, bias);
    Tensor::from_vec(out, (batch, queries, value_width), &Device::Cpu)
}

pub fn norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    if x.dims().last() != norm.weight.dims().last() {
        bail!("a norm of width {:?} can't act on {:?}", norm.weight.shape(), x.shape())
    }
    let bias = norm.bias.as_ref().map(Floats::of).transpose()?;
    let out = rows::norm(&Floats::of(&x.contiguous()?)?, &Floats::of(&norm.weight)?, bias.as_deref(), norm.epsilon);
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

/// Calls `work` with the epilogue of an output of `shape`.
fn with_end<T>(shape: &[usize], bias: &Tensor, ending: Ending, residual: Option<&Tensor>, work: impl FnOnce(End) -> Result<T>) -> Result<T> {
    let bias = Floats::of(bias)?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    if let Some(residual) = residual.as_ref().filter(|residual| residual.dims() != shape) {
        bail!("a residual {:?} can't be added to {shape:?}", residual.shape())
    }
    let residual = residual.as_ref().map(Floats::of).transpose()?;
    work(End { bias: Some(&bias), residual: residual.as_deref(), ending })
}

/// Calls `work` with a feature map.
pub fn on_map<T>(x: &Tensor, work: impl FnOnce(Map) -> Result<T>) -> Result<T> {
    let shape = x.dims4()?.into();
    let x = x.contiguous()?;
    work(Map { x: &Floats::of(&x)?, shape })
}

/// The output's shape of a window that slides over `x`.
pub fn slid(x: &Tensor, channels: usize, outputs: usize, window: Window) -> Result<[usize; 4]> {
    let (batch, height, width, found) = x.dims4()?;
    if found != channels {
        bail!("a convolution of {channels} channels can't act on {:?}", x.shape())
    }
    let place = window.place(height, width);
    if batch * channels == 0 {
        bail!("there is nothing in {:?}", x.shape())
    }
    if place.out_height * place.out_width == 0 {
        bail!("a window of {:?} doesn't fit into {height}×{width}", window.kernel)
    }
    Ok([batch, place.out_height, place.out_width, outputs])
}
