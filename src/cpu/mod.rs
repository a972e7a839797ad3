//! The [`Backend`] on candle-core tensors: native and wasm, by kernels of our own. No gradients: see `autograd`.

mod attention;
mod conv;
mod copies;
pub(crate) mod deformable;
pub(crate) mod elementwise;
mod fast;
mod floats;
pub(crate) mod lanes;
pub(crate) mod operators;
mod panels;
mod product;
pub(crate) mod rows;
mod select;
mod session;
mod softmax;
mod threads;
mod window;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use floats::Floats;

pub use session::CpuSession;

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use candle_core::{Device, Tensor};
use elementwise::Pair;
use lanes::Ending;

/// Computes at once, on the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

pub struct Conv {
    /// As a linear map of all that a window sees, tap by tap.
    map: Linear,
    channels: usize,
    /// Scale and shift after the activation.
    affine: Option<[f32; 2]>,
    window: Window,
}

pub struct Depthwise {
    /// `[kernel height * kernel width, channels]`
    weight: Tensor,
    bias: Tensor,
    affine: Option<[f32; 2]>,
    window: Window,
}

pub struct Linear {
    /// `[in, out]`, packed.
    weight: Tensor,
    bias: Tensor,
}

pub struct Norm {
    weight: Tensor,
    /// None: an RMS norm.
    bias: Option<Tensor>,
    epsilon: f32,
}

/// A tensor's numbers on the host.
pub fn to_host(x: &Tensor) -> Result<HostTensor> {
    Ok(HostTensor::f32(x.dims(), x.flatten_all()?.to_vec1()?))
}

fn tensor(host: &HostTensor, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(host.to_f32().into_owned(), shape, &Device::Cpu)?)
}

/// `weight` `[out, …, in]` as a linear map.
fn linear(weight: &HostTensor, bias: &HostTensor) -> Result<Linear> {
    let outputs = weight.shape.first().copied().unwrap_or_default();
    if weight.is_empty() || bias.shape != [outputs] {
        return Err(Error::Config(format!("a weight {:?} doesn't go with a bias {:?}", weight.shape, bias.shape)));
    }
    let depth = weight.len() / outputs;
    let numbers = weight.to_f32();
    let packed = panels::pack(depth, outputs, |row, column| numbers[column * depth + row]);
    let width = panels::panel_width();
    Ok(Linear { weight: Tensor::from_vec(packed, (outputs.div_ceil(width), depth, width), &Device::Cpu)?, bias: tensor(bias, &bias.shape)? })
}

/// The scale and the shift after an activation, where they change anything.
fn affine(name: &str, host: Option<&HostTensor>) -> Result<Option<[f32; 2]>> {
    let Some(host) = host else { return Ok(None) };
    match (&host.shape[..], &host.to_f32()[..]) {
        ([2], &[scale, shift]) => Ok(Some([scale, shift]).filter(|affine| *affine != [1.0, 0.0])),
        _ => Err(Error::Config(format!("{name}: an affine has shape {:?}, expected [2]: a scale and a shift", host.shape))),
    }
}

/// Fails unless these are the weights of a norm.
pub(crate) fn check_norm(name: &str, weight: &HostTensor, bias: Option<&HostTensor>) -> Result<()> {
    if weight.is_empty() || weight.shape.len() != 1 {
        return Err(Error::Config(format!("{name}: a norm's weight has shape {:?}, expected [width]", weight.shape)));
    }
    match bias {
        Some(bias) if bias.shape != weight.shape => {
            Err(Error::Config(format!("{name}: a norm's weight {:?} doesn't go with its bias {:?}", weight.shape, bias.shape)))
        }
        _ => Ok(()),
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Indices = Tensor;
    type Conv = Conv;
    type Depthwise = Depthwise;
    type Linear = Linear;
    type Norm = Norm;

    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Conv> {
        let affine = self::affine(name, affine)?;
        match weight.shape[..] {
            [_, height, width, channels] if window.kernel == [height, width] => Ok(Conv { map: linear(weight, bias)?, channels, affine, window }),
            _ => Err(Error::Config(format!("{name}: a weight {:?} doesn't go with a kernel {:?}", weight.shape, window.kernel))),
        }
    }

    fn load_depthwise(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Depthwise> {
        let affine = self::affine(name, affine)?;
        match weight.shape[..] {
            [height, width, channels] if window.kernel == [height, width] && bias.shape == [channels] => {
                Ok(Depthwise { weight: tensor(weight, &[height * width, channels])?, bias: tensor(bias, &[channels])?, affine, window })
            }
            _ => {
                Err(Error::Config(format!("{name}: a weight {:?} doesn't go with a kernel {:?}, bias {:?}", weight.shape, window.kernel, bias.shape)))
            }
        }
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Linear> {
        linear(weight, bias)
    }

    fn load_norm(&self, name: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Norm> {
        check_norm(name, weight, bias)?;
        let bias = bias.map(|bias| tensor(bias, &bias.shape)).transpose()?;
        Ok(Norm { weight: tensor(weight, &weight.shape)?, bias, epsilon })
    }

    fn constant(&self, host: &HostTensor) -> Result<Tensor> {
        tensor(host, &host.shape)
    }

    fn shape(&self, x: &Tensor) -> Vec<usize> {
        x.dims().to_vec()
    }

    fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        Ok(x.reshape(shape)?)
    }

    fn conv(&self, x: &Tensor, conv: &Conv, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        Ok(fast::conv(x, conv, activation, residual)?)
    }

    fn depthwise(&self, x: &Tensor, conv: &Depthwise, activation: Activation) -> Result<Tensor> {
        Ok(fast::depthwise(x, conv, activation)?)
    }

    fn pool(&self, x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
        Ok(operators::pool(x, window, pool)?)
    }

    fn upsample(&self, x: &Tensor) -> Result<Tensor> {
        Ok(operators::upsample(x)?)
    }

    fn concat(&self, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        Ok(operators::concat(parts, axis)?)
    }

    fn narrow(&self, x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
        Ok(operators::narrow(x, start, length)?)
    }

    fn linear(&self, x: &Tensor, linear: &Linear, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        Ok(fast::linear(x, linear, Ending::of(activation), residual)?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(fast::attention(q, k, v, heads, bias)?)
    }

    fn deformable_attention(&self, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
        Ok(operators::deformable_attention(value, offsets, weights, boxes, deformable)?)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        Ok(fast::norm(x, norm)?)
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(operators::pair(Pair::Add, a, b, activation)?)
    }

    fn multiply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(operators::pair(Pair::Multiply, a, b, Activation::None)?)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(operators::activate(x, activation)?)
    }

    fn clamp(&self, x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
        Ok(operators::clamp(x, min, max)?)
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        Ok(operators::softmax(x)?)
    }

    fn top_values(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        Ok(operators::top_values(x, k)?)
    }

    fn top_tokens(&self, scores: &Tensor, k: usize) -> Result<Tensor> {
        Ok(operators::top_tokens(scores, k)?)
    }

    fn gather(&self, x: &Tensor, indices: &Tensor) -> Result<Tensor> {
        Ok(operators::gather(x, indices)?)
    }

    fn index_values(&self, indices: &Tensor) -> Result<Tensor> {
        // Not candle's `to_dtype`, whose conversions between all types would be a tenth of the wasm.
        let chosen: Vec<u32> = indices.flatten_all()?.to_vec1()?;
        Ok(Tensor::from_vec(chosen.into_iter().map(|token| token as f32).collect(), indices.shape(), &Device::Cpu)?)
    }
}
