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

/// A part of a network, for its time to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Backbone,
    Encoder,
    Decoder,
    Heads,
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

    /// As [`Network::forward`] without a mask; `done` is told of each part when it has been computed.
    pub fn forward_in_parts(&self, backend: &B, pixels: &B::Tensor, mut done: impl FnMut(Part)) -> Result<Output<B::Tensor>> {
        match self {
            Self::Detr(network) => {
                let features = network.features(backend, pixels)?;
                done(Part::Backbone);
                let shape = backend.shape(&features);
                let encoded = network.encode(backend, features, &PixelMask::full(shape[1], shape[2]))?;
                done(Part::Encoder);
                let mut queries = network.queries().0;
                queries.content = network.contents(backend, shape[0])?;
                let content = network.decode(backend, queries, &encoded, 0..usize::MAX)?;
                done(Part::Decoder);
                drop(encoded);
                let output = network.detections(backend, &content)?;
                done(Part::Heads);
                Ok(output)
            }
            Self::RtDetr(network) => {
                let maps = network.features(backend, pixels)?;
                done(Part::Backbone);
                let levels = network.encode(backend, maps)?;
                done(Part::Encoder);
                let selected = network.select(backend, &levels)?;
                // Each decoder layer has heads of its own, which belong to it.
                let output = network.decode(backend, selected, &levels)?;
                done(Part::Decoder);
                done(Part::Heads);
                Ok(output)
            }
        }
    }
}
