//! How weights lie in the device's memory: as they are stored, and the kernels expand them.

use super::graph::Value;
use super::recorder::Recorder;
use super::template::Constant;
use crate::error::{Error, Result};
use crate::weights::{Channels, Data, HostTensor, Int8};
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    Full,
    /// Two f16 in each word.
    Half,
    /// Four int8 in each word. Sums are multiplied by their channel's scale when they are complete.
    Int8,
}

impl Packing {
    /// How a tensor goes onto the device without being expanded.
    pub fn of(tensor: &HostTensor) -> Self {
        match tensor.data {
            Data::F32(_) => Packing::Full,
            Data::F16(_) => Packing::Half,
            Data::I8(_) => Packing::Int8,
        }
    }

    /// What a template with weights must know.
    pub fn constants(self) -> [Constant; 2] {
        [("HALF", u32::from(self == Packing::Half)), ("INT8", u32::from(self == Packing::Int8))]
    }
}

/// A layer's bias and behind it, where `weight` is int8, its scales; each padded to `pitch` channels. Kernels have them in one buffer.
/// `axis` is that of the output channels, to which the scales must belong.
pub fn bias_and_scales(recorder: &Recorder, weight: &HostTensor, bias: &HostTensor, axis: Channels, pitch: usize) -> Result<Rc<Value>> {
    let mut numbers = bias.to_f32().into_owned();
    numbers.resize(pitch, 0.0);
    if let Data::I8(Int8 { scales, channels, .. }) = &weight.data {
        if *channels != axis || bias.shape != [scales.len()] {
            let (count, shape) = (scales.len(), &weight.shape);
            return Err(Error::Gpu(format!("{count} scales on the {channels:?} axis don't go with an int8 weight of shape {shape:?}")));
        }
        numbers.extend(scales);
        numbers.resize(2 * pitch, 0.0);
    }
    recorder.upload("a bias", &numbers)
}
