//! The prediction heads, shared by all decoder layers (`models/detr.py`): classes by one linear map, boxes by three.

use super::load::Loader;
use crate::backend::Backend;
use crate::config::{Activation, Config};
use crate::error::Result;

pub struct Heads<B: Backend> {
    class_head: B::Linear,
    box_head: [B::Linear; 3],
}

impl<B: Backend> Heads<B> {
    /// `loader` is at the root.
    pub fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let width = config.d_model;
        let loader = loader.heads();
        let head = loader.part("box_head");
        Ok(Self {
            class_head: loader.linear("class_head", width, config.classes)?,
            box_head: [head.linear("0", width, width)?, head.linear("1", width, width)?, head.linear("2", width, 4)?],
        })
    }

    /// Class logits `[batch, queries, classes]` of decoded queries `[batch, queries, d_model]`.
    pub fn classes(&self, backend: &B, decoded: &B::Tensor) -> Result<B::Tensor> {
        backend.linear(decoded, &self.class_head, Activation::None, None)
    }

    /// Boxes `[batch, queries, 4]` as (centre x, centre y, width, height) in fractions of the picture; `reference` (logits) is added
    /// before the sigmoid.
    pub fn boxes(&self, backend: &B, decoded: &B::Tensor, reference: Option<&B::Tensor>) -> Result<B::Tensor> {
        let [first, second, last] = &self.box_head;
        let x = backend.linear(decoded, first, Activation::Relu, None)?;
        let x = backend.linear(&x, second, Activation::Relu, None)?;
        match reference {
            None => backend.linear(&x, last, Activation::Sigmoid, None),
            Some(reference) => {
                let offset = backend.linear(&x, last, Activation::None, None)?;
                backend.add(&offset, reference, Activation::Sigmoid)
            }
        }
    }
}
