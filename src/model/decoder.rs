//! The transformer decoder's layer (`models/transformer.py`, post-norm).

use super::attention::Attention;
use super::encoder::FeedForward;
use super::load::Loader;
use crate::backend::Backend;
use crate::config::{Activation, Config};
use crate::error::Result;

pub struct DecoderLayer<B: Backend> {
    self_attention: Attention<B>,
    norm1: B::Norm,
    cross_attention: Attention<B>,
    norm2: B::Norm,
    ffn: FeedForward<B>,
    norm3: B::Norm,
}

/// What every decoder layer looks at: the encoder's output, without and with positions, `[batch, tokens, d_model]`.
pub struct Encoded<'a, B: Backend> {
    pub memory: &'a B::Tensor,
    pub placed: &'a B::Tensor,
    /// Bias against padded tokens, `[batch, 1, tokens]`.
    pub bias: Option<&'a B::Tensor>,
}

impl<B: Backend> DecoderLayer<B> {
    /// `loader` is at `decoder.{index}.`.
    pub fn load(loader: &Loader<B>, config: &Config, index: usize) -> Result<Self> {
        let layer = &config.decoder[index];
        let width = config.d_model;
        Ok(Self {
            self_attention: Attention::load(&loader.part("self_attention"), &layer.self_attention, width)?,
            norm1: loader.norm("norm1", width)?,
            cross_attention: Attention::load(&loader.part("cross_attention"), &layer.cross_attention, width)?,
            norm2: loader.norm("norm2", width)?,
            ffn: FeedForward::load(loader, config, layer.ffn)?,
            norm3: loader.norm("norm3", width)?,
        })
    }

    /// `x` `[batch, queries, d_model]`, `query_position` `[1, queries, d_model]` → as `x`.
    pub fn forward(&self, backend: &B, x: B::Tensor, query_position: &B::Tensor, encoded: &Encoded<B>) -> Result<B::Tensor> {
        let placed = backend.add(&x, query_position, Activation::None)?;
        let memory = self.self_attention.memory(backend, &placed, &x)?;
        let x = self.self_attention.forward(backend, &placed, &memory, None, &x)?;
        drop((placed, memory));
        let x = backend.layer_norm(&x, &self.norm1)?;

        let placed = backend.add(&x, query_position, Activation::None)?;
        let memory = self.cross_attention.memory(backend, encoded.placed, encoded.memory)?;
        let x = self.cross_attention.forward(backend, &placed, &memory, encoded.bias, &x)?;
        drop((placed, memory));
        let x = backend.layer_norm(&x, &self.norm2)?;

        let x = self.ffn.forward(backend, &x)?;
        backend.layer_norm(&x, &self.norm3)
    }
}
