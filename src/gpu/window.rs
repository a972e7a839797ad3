//! Depthwise convolution and max pool: the host's side of `kernels/window.wgsl`.

use super::graph::{Tensor, Value};
use super::kernels::Family;
use super::recorder::{Ending, Recorder, expect, spread, vectors};
use crate::backend::Window;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::{Data, HostTensor};
use std::rc::Rc;

pub struct Depthwise {
    weight: Rc<Value>,
    bias: Rc<Value>,
    half: bool,
    channels: usize,
    pub window: Window,
}

impl Depthwise {
    /// `weight` `[kernel height, kernel width, channels]`
    pub fn load(recorder: &Recorder, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Self> {
        let [_, _, channels] = weight.shape[..] else { return Err(Error::Gpu(format!("a depthwise weight of shape {:?}", weight.shape))) };
        expect("a bias", &bias.shape, &[channels])?;
        // A single channel's f16 can't be read from a buffer; such weights are few.
        let (packed, half) = match &weight.data {
            Data::F16(data) if vectors(channels) == 1 => (recorder.upload("depthwise weights", data)?, true),
            _ => (recorder.upload("depthwise weights", &weight.to_f32())?, false),
        };
        Ok(Self { weight: packed, bias: recorder.upload("a bias", &bias.to_f32())?, half, channels, window })
    }
}

/// A depthwise convolution where there are weights, else a max pool.
pub fn record(recorder: &Recorder, x: &Tensor, window: Window, depthwise: Option<&Depthwise>, activation: Activation) -> Result<Tensor> {
    let [batch, height, width, channels] = x.shape[..] else { return Err(Error::Gpu(format!("a window on shape {:?}", x.shape))) };
    let place = window.place(height, width);
    let y = recorder.made(&[batch, place.out_height, place.out_width, channels])?;
    let vector = vectors(channels);
    let Ending { curve, words } = activation.into();
    let lanes = if vector == 1 { 4 } else { 1 };
    let [kernel_height, kernel_width] = window.kernel;
    // Where windows overlap, neighbours share most of what they read.
    let columns = if window.stride == 1 { 4 } else { 2 };
    let span = (columns - 1) * window.stride + (kernel_width - 1) * window.dilation + 1;
    let count = batch * place.out_height * place.out_width.div_ceil(columns) * (channels / lanes);
    // In the order of `window.wgsl`.
    let parameters = [count, channels / lanes, kernel_height, height, width, place.out_height, place.out_width, place.top, place.left];
    let mut parameters = parameters.map(|number| number as u32).to_vec();
    parameters.extend(words);
    let half = depthwise.is_some_and(|d| d.half);
    let [columns, kernel, stride, dilation, span] = [columns, kernel_width, window.stride, window.dilation, span].map(|n| n as u32);
    let mut constants = vec![("CURVE", curve), ("VECTOR", vector), ("DEPTHWISE", u32::from(depthwise.is_some())), ("HALF", u32::from(half))];
    constants.extend([("COLUMNS", columns), ("KERNEL", kernel), ("STRIDE", stride), ("DILATION", dilation), ("SPAN", span)]);
    let mut reads = vec![&x.value];
    if let Some(depthwise) = depthwise {
        expect("a depthwise convolution's input", &[channels], &[depthwise.channels])?;
        reads.extend([&depthwise.weight, &depthwise.bias]);
    }
    let [across, down] = spread(count.div_ceil(64));
    recorder.dispatch(Family::Window, &constants, &parameters, &reads, &y.value, [across, down, 1]);
    Ok(y)
}
