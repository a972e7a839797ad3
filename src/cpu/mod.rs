//! The [`Backend`] on candle-core tensors: native and wasm; differentiable when training.

mod composed;

use crate::backend::{Backend, Window};
use crate::config::Activation;
use crate::error::Result;
use crate::weights::HostTensor;
use candle_core::{Device, Tensor};

/// Computes at once, on the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

/// A convolution as a linear map of each tap.
pub struct Conv {
    /// `[kernel height * kernel width, in, out]`
    weight: Tensor,
    bias: Tensor,
    window: Window,
}

pub struct Depthwise {
    /// `[kernel height * kernel width, channels]`
    weight: Tensor,
    bias: Tensor,
    window: Window,
}

pub struct Linear {
    /// `[in, out]`
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

/// `[out, …, in]` → `[…, in, out]`, in which a row of outputs lies side by side.
fn outputs_last(weight: &HostTensor) -> Result<Tensor> {
    let (out, inputs) = (weight.shape[0], weight.len() / weight.shape[0].max(1));
    Ok(tensor(weight, &[out, inputs])?.t()?.contiguous()?)
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Conv = Conv;
    type Depthwise = Depthwise;
    type Linear = Linear;
    type Norm = Norm;

    fn load_conv(&self, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Conv> {
        let [out, height, width, input] = weight.shape[..] else { return Err(rank(weight, 4)) };
        let weight = outputs_last(weight)?.reshape((height * width, input, out))?;
        Ok(Conv { weight, bias: tensor(bias, &[out])?, window })
    }

    fn load_depthwise(&self, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Depthwise> {
        let [height, width, channels] = weight.shape[..] else { return Err(rank(weight, 3)) };
        Ok(Depthwise { weight: tensor(weight, &[height * width, channels])?, bias: tensor(bias, &[channels])?, window })
    }

    fn load_linear(&self, weight: &HostTensor, bias: &HostTensor) -> Result<Linear> {
        let [out, _] = weight.shape[..] else { return Err(rank(weight, 2)) };
        Ok(Linear { weight: outputs_last(weight)?, bias: tensor(bias, &[out])? })
    }

    fn load_norm(&self, weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<Norm> {
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
        Ok(composed::conv(x, conv, activation, residual)?)
    }

    fn depthwise(&self, x: &Tensor, conv: &Depthwise, activation: Activation) -> Result<Tensor> {
        Ok(composed::depthwise(x, conv, activation)?)
    }

    fn max_pool(&self, x: &Tensor, window: Window) -> Result<Tensor> {
        Ok(composed::max_pool(x, window)?)
    }

    fn linear(&self, x: &Tensor, linear: &Linear, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        Ok(composed::linear(x, linear, activation, residual)?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(composed::attention(q, k, v, heads, bias)?)
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        Ok(composed::layer_norm(x, norm)?)
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(composed::activate(a.broadcast_add(b)?, activation)?)
    }
}

fn rank(weight: &HostTensor, expected: usize) -> crate::error::Error {
    crate::error::Error::Config(format!("a weight of shape {:?} can't be used where {expected} dimensions are needed", weight.shape))
}
