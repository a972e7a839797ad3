//! The [`Backend`] on candle-core tensors: native and wasm, by kernels of our own. No gradients: see `autograd`.

mod attention;
mod conv;
mod fast;
mod floats;
pub(crate) mod lanes;
mod panels;
mod product;
pub(crate) mod rows;
mod threads;
mod window;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use floats::Floats;

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use candle_core::{Device, Tensor};

/// Computes at once, on the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

pub struct Conv {
    /// As a linear map of all that a window sees, tap by tap.
    map: Linear,
    channels: usize,
    window: Window,
}

pub struct Depthwise {
    /// `[kernel height * kernel width, channels]`
    weight: Tensor,
    bias: Tensor,
    window: Window,
}

pub struct Linear {
    /// `[in, out]`, packed.
    weight: Tensor,
    bias: Tensor,
}

pub struct Norm {
    weight: Tensor,
    bias: Tensor,
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

/// Stands in until the operation is there.
fn unsupported(operation: &str) -> Error {
    Error::Config(format!("{operation}: not on this backend"))
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Indices = Tensor;
    type Conv = Conv;
    type Depthwise = Depthwise;
    type Linear = Linear;
    type Norm = Norm;

    fn load_conv(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Conv> {
        if affine.is_some() {
            return Err(unsupported("affine"));
        }
        match weight.shape[..] {
            [_, height, width, channels] if window.kernel == [height, width] => Ok(Conv { map: linear(weight, bias)?, channels, window }),
            _ => Err(Error::Config(format!("a weight {:?} doesn't go with a kernel {:?}", weight.shape, window.kernel))),
        }
    }

    fn load_depthwise(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Depthwise> {
        if affine.is_some() {
            return Err(unsupported("affine"));
        }
        match weight.shape[..] {
            [height, width, channels] if window.kernel == [height, width] && bias.shape == [channels] => {
                Ok(Depthwise { weight: tensor(weight, &[height * width, channels])?, bias: tensor(bias, &[channels])?, window })
            }
            _ => Err(Error::Config(format!("a weight {:?} doesn't go with a kernel {:?}, bias {:?}", weight.shape, window.kernel, bias.shape))),
        }
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Linear> {
        linear(weight, bias)
    }

    fn load_norm(&self, _: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Norm> {
        let bias = bias.ok_or_else(|| unsupported("RMS norm"))?;
        if weight.is_empty() || weight.shape != bias.shape {
            return Err(Error::Config(format!("a norm's weight {:?} doesn't go with its bias {:?}", weight.shape, bias.shape)));
        }
        Ok(Norm { weight: tensor(weight, &weight.shape)?, bias: tensor(bias, &bias.shape)?, epsilon })
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
        if pool != Pool::Max {
            return Err(unsupported("pool"));
        }
        Ok(fast::max_pool(x, window)?)
    }

    fn linear(&self, x: &Tensor, linear: &Linear, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        Ok(fast::linear(x, linear, activation, residual)?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(fast::attention(q, k, v, heads, bias)?)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        Ok(fast::layer_norm(x, norm)?)
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(fast::add(a, b, activation)?)
    }
    fn upsample(&self, _: &Tensor) -> Result<Tensor> {
        Err(unsupported("upsample"))
    }

    fn concat(&self, _: &[&Tensor], _: usize) -> Result<Tensor> {
        Err(unsupported("concat"))
    }

    fn narrow(&self, _: &Tensor, _: usize, _: usize) -> Result<Tensor> {
        Err(unsupported("narrow"))
    }

    fn deformable_attention(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Deformable) -> Result<Tensor> {
        Err(unsupported("deformable_attention"))
    }

    fn multiply(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        Err(unsupported("multiply"))
    }

    fn activate(&self, _: &Tensor, _: Activation) -> Result<Tensor> {
        Err(unsupported("activate"))
    }

    fn clamp(&self, _: &Tensor, _: f32, _: f32) -> Result<Tensor> {
        Err(unsupported("clamp"))
    }

    fn softmax(&self, _: &Tensor) -> Result<Tensor> {
        Err(unsupported("softmax"))
    }

    fn top_values(&self, _: &Tensor, _: usize) -> Result<Tensor> {
        Err(unsupported("top_values"))
    }

    fn top_tokens(&self, _: &Tensor, _: usize) -> Result<Tensor> {
        Err(unsupported("top_tokens"))
    }

    fn gather(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        Err(unsupported("gather"))
    }

    fn index_values(&self, _: &Tensor) -> Result<Tensor> {
        Err(unsupported("index_values"))
    }
}
