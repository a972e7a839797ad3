//! The weights of a detector on the host, under our own names.
//!
//! | name | shape |
//! |---|---|
//! | `backbone.stem.weight` | `[out, height, width, in]`, as every convolution's |
//! | `backbone.stage{1..}.block{0..}.conv{1..3}.weight`, `….projection.weight` | ResNet |
//! | `backbone.stage{0..}.block{0..}.{expand,project}.weight` | EfficientNet-Lite |
//! | `backbone.stage{0..}.block{0..}.depthwise.weight` | `[height, width, channels]` |
//! | `input_projection.weight` | `[d_model, channels]` |
//! | `encoder.{i}.self_attention.{query,key,value}.weight` | `[heads * head_width, d_model]` |
//! | `encoder.{i}.self_attention.output.weight` | `[d_model, heads * head_width]` |
//! | `encoder.{i}.norm1`, `.norm2` (`.weight`, `.bias`) | `[d_model]` |
//! | `encoder.{i}.ffn1.weight`, `.ffn2.weight` | `[ffn, d_model]`, `[d_model, ffn]` |
//! | `decoder.{i}.{self_attention,cross_attention}.…`, `.norm1..3`, `.ffn1`, `.ffn2` | likewise |
//! | `decoder.norm` | `[d_model]`, shared by all decoder layers |
//! | `query_position`, `query_content` | `[queries, d_model]` |
//! | `box_reference` | `[queries, 4]` |
//! | `class_head.weight` | `[classes, d_model]` |
//! | `box_head.{0,1,2}.weight` | `[d_model, d_model]` twice, then `[4, d_model]` |
//!
//! Every convolution and every linear map also has a `.bias` `[out]`: frozen batch norm is folded in at conversion.
//! Where the first decoder layer is folded (`fold.rs`), it has no `self_attention` and no `norm1`.

mod int8;

use crate::error::{Error, Result};
use half::f16;
use std::borrow::Cow;
use std::collections::BTreeMap;

pub use int8::{Channels, Int8};

/// A dense array in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub data: Data,
}

/// The numbers of a [`HostTensor`], in the type that they are stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I8(Int8),
}

impl HostTensor {
    /// # Panics
    /// If `data` doesn't fill `shape`.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "data must fill the shape {shape:?}");
        Self { shape: shape.to_vec(), data: Data::F32(data) }
    }

    pub fn len(&self) -> usize {
        match &self.data {
            Data::F32(data) => data.len(),
            Data::F16(data) => data.len(),
            Data::I8(data) => data.values.len(),
        }
    }

    /// What the numbers take in memory.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(data) => size_of_val(&data[..]),
            Data::F16(data) => size_of_val(&data[..]),
            Data::I8(data) => data.values.len() + size_of_val(&data.scales[..]),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers as f32, without a copy where they are stored so.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            Data::F32(data) => Cow::Borrowed(data),
            Data::F16(data) => Cow::Owned(data.iter().map(|x| x.to_f32()).collect()),
            Data::I8(data) => Cow::Owned(data.to_f32()),
        }
    }

    /// The same tensor stored as f16, by [`to_f16`].
    pub fn to_f16(&self) -> Self {
        let data = match &self.data {
            Data::F16(data) => data.clone(),
            _ => self.to_f32().iter().map(|&x| to_f16(x)).collect(),
        };
        Self { shape: self.shape.clone(), data: Data::F16(data) }
    }

    /// The same tensor stored as int8, with a scale for each place on the axis of its output channels: the nearest by squared error.
    /// Its numbers must be finite. What is int8 on this axis already stays as it is.
    pub fn to_i8(&self, channels: Channels) -> Self {
        let axis = match channels {
            Channels::First => self.shape.first(),
            Channels::Last => self.shape.last(),
        };
        let data = match &self.data {
            Data::I8(data) if data.channels == channels => data.clone(),
            _ => Int8::nearest(&self.to_f32(), axis.copied().unwrap_or(1), channels),
        };
        Self { shape: self.shape.clone(), data: Data::I8(data) }
    }
}

/// The nearest f16 (of two, the even one): of what is too large, the largest there is and not infinity.
pub fn to_f16(x: f32) -> f16 {
    let most = f16::MAX.to_f32();
    f16::from_f32(x.clamp(-most, most))
}

/// Named tensors; see the table at the head of `weights.rs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    pub tensors: BTreeMap<String, HostTensor>,
}

impl Weights {
    /// The tensor of a name, whatever its shape.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn named(&self, name: &str) -> Result<&HostTensor> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.into(), expected: vec![] })
    }

    /// The tensor of a name, which must have this shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&HostTensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.into(), expected: shape.to_vec() })?;
        if tensor.shape != shape {
            return Err(Error::Shape { name: name.into(), expected: shape.to_vec(), found: tensor.shape.clone() });
        }
        Ok(tensor)
    }

    pub fn insert(&mut self, name: impl Into<String>, tensor: HostTensor) {
        self.tensors.insert(name.into(), tensor);
    }
}
