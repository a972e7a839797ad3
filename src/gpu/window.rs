//! Windows that treat each channel by itself, depthwise convolutions and pools: the host's side of `kernels/window.wgsl`.

use super::epilogue::{self, Epilogue};
use super::graph::{Tensor, Value};
use super::kernels::Family;
use super::packing::{self, Packing};
use super::pool;
use super::recorder::{Recorder, expect, lanes, vectors};
use crate::backend::{Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::{Channels, Data, HostTensor};
use std::rc::Rc;

pub struct Depthwise {
    weight: Rc<Value>,
    /// Followed by the scales of int8 weights.
    bias: Rc<Value>,
    packing: Packing,
    /// A scale and a shift after the activation.
    affine: Option<[f32; 2]>,
    channels: usize,
    pub window: Window,
}

impl Depthwise {
    /// `weight` `[kernel height, kernel width, channels]`, `affine` `[2]`.
    pub fn load(recorder: &Recorder, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Self> {
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
        let bias = packing::bias_and_scales(recorder, weight, bias, Channels::Last, channels)?;
        Ok(Self { weight: packed, bias, packing, affine: epilogue::affine(affine)?, channels, window })
    }
}

/// What is made of a window.
pub enum Kind<'a> {
    Depthwise(&'a Depthwise, Activation),
    Pool(Pool),
}

pub fn record(recorder: &Recorder, x: &Tensor, window: Window, kind: Kind) -> Result<Tensor> {
    let [batch, height, width, channels] = x.shape[..] else { return Err(Error::Gpu(format!("a window on shape {:?}", x.shape))) };
    let place = window.place(height, width);
    let y = recorder.made(&[batch, place.out_height, place.out_width, channels])?;
    let vector = vectors(channels);
    let (depthwise, epilogue, pool) = match kind {
        Kind::Depthwise(depthwise, activation) => (Some(depthwise), Epilogue::new(activation, depthwise.affine), Pool::Max),
        Kind::Pool(pool) => (None, Epilogue::new(Activation::None, None), pool),
    };
    let [kernel_height, kernel_width] = window.kernel;
    // Where windows overlap, neighbours share most of what they read.
    let columns = if window.stride == 1 { 4 } else { 2 };
    let span = (columns - 1) * window.stride + (kernel_width - 1) * window.dilation + 1;
    let elements = channels / lanes(vector);
    let count = batch * place.out_height * place.out_width.div_ceil(columns) * elements;
    // In the order of `window.wgsl`.
    let parameters = [count, elements, kernel_height, height, width, place.out_height, place.out_width, place.top, place.left];
    let mut parameters = parameters.map(|number| number as u32).to_vec();
    parameters.extend(epilogue.words);
    let packing = depthwise.map_or(Packing::Full, |depthwise| depthwise.packing);
    let [columns, kernel, stride, dilation, span] = [columns, kernel_width, window.stride, window.dilation, span].map(|n| n as u32);
    let mut constants = vec![("VECTOR", vector), ("DEPTHWISE", u32::from(depthwise.is_some()))];
    constants.extend(epilogue.constants);
    constants.extend(pool::constants(pool));
    constants.extend(packing.constants());
    constants.extend([("COLUMNS", columns), ("KERNEL", kernel), ("STRIDE", stride), ("DILATION", dilation), ("SPAN", span)]);
    let mut reads = vec![&x.value];
    if let Some(depthwise) = depthwise {
        expect("a depthwise convolution's input", &[channels], &[depthwise.channels])?;
        reads.extend([&depthwise.weight, &depthwise.bias]);
    }
    recorder.dispatch_each(Family::Window, &constants, &parameters, &reads, &y.value, count);
    Ok(y)
}
