//! Depthwise convolution and max pool: the host's side of `kernels/window.wgsl`.

use super::graph::{Tensor, Value};
use super::kernels::Family;
use super::packing::{self, Packing};
use super::recorder::{Ending, Recorder, expect, spread, vectors};
use crate::backend::Window;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::{Channels, Data, HostTensor};
use std::rc::Rc;

pub struct Depthwise {
    weight: Rc<Value>,
    /// Followed by the scales of int8 weights.
    bias: Rc<Value>,
    packing: Packing,
    channels: usize,
    pub window: Window,
}

impl Depthwise {
    /// `weight` `[kernel height, kernel width, channels]`
    pub fn load(recorder: &Recorder, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Self> {
        let [_, _, channels] = weight.shape[..] else { return Err(Error::Gpu(format!("a depthwise weight of shape {:?}", weight.shape))) };
        expect("a bias", &bias.shape, &[channels])?;
        let label = "depthwise weights";
        let (packed, packing) = match &weight.data {
            Data::I8(data) => {
                // Whole words.
                let mut values = data.values.clone();
                values.resize(values.len().next_multiple_of(4), 0);
                (recorder.upload(label, &values)?, Packing::Int8)
            }
            Data::F16(data) if vectors(channels) == 1 => (recorder.upload(label, data)?, Packing::Half),
            // A single channel's f16 can't be read from a buffer; such weights are few.
            _ => (recorder.upload(label, &weight.to_f32())?, Packing::Full),
        };
        Ok(Self { weight: packed, bias: packing::bias_and_scales(recorder, weight, bias, Channels::Last, channels)?, packing, channels, window })
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
    let packing = depthwise.map_or(Packing::Full, |depthwise| depthwise.packing);
    let [columns, kernel, stride, dilation, span] = [columns, kernel_width, window.stride, window.dilation, span].map(|n| n as u32);
    let mut constants = vec![("CURVE", curve), ("VECTOR", vector), ("DEPTHWISE", u32::from(depthwise.is_some()))];
    constants.extend(packing.constants());
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
