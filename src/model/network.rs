//! A network of any architecture.

use super::detr::{Detr, Output};
use super::load::Source;
use super::mask::PixelMask;
use super::rt_detr::RtDetr;
use crate::backend::Backend;
use crate::config::Architecture;
use crate::error::{Error, Result};

/// A network on one backend.
pub enum Network<B: Backend> {
    Detr(Box<Detr<B>>),
    RtDetr(Box<RtDetr<B>>),
}

impl<B: Backend> Network<B> {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `architecture`.
    pub fn load(backend: &B, architecture: &Architecture, weights: &dyn Source) -> Result<Self> {
        Ok(match architecture {
            Architecture::Detr(config) => Self::Detr(Box::new(Detr::load(backend, config, weights)?)),
            Architecture::RtDetr(config) => Self::RtDetr(Box::new(RtDetr::load(backend, config, weights)?)),
        })
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised; `mask` where the batch is padded, which only DETR can take.
    pub fn forward(&self, backend: &B, pixels: &B::Tensor, mask: Option<&PixelMask>) -> Result<Output<B::Tensor>> {
        match (self, mask) {
            (Self::Detr(network), mask) => network.forward(backend, pixels, mask),
            (Self::RtDetr(network), None) => network.forward(backend, pixels),
            (Self::RtDetr(_), Some(_)) => Err(Error::Config("this architecture takes no masks: its pictures are stretched".into())),
        }
    }
}
