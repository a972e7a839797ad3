//! The transformer decoder's layer (`models/transformer.py`, post-norm).

use super::attention::Attention;
use super::encoder::FeedForward;
use super::load::Loader;
use crate::backend::Backend;
use crate::config::{Activation, Config};
use crate::error::Result;

pub struct DecoderLayer<B: Backend> {
    /// Among the queries, with its norm. A first layer is without, where what it would give is what the queries hold.
    self_attention: Option<(Attention<B>, B::Norm)>,
    cross_attention: Attention<B>,
    norm2: B::Norm,
    ffn: FeedForward<B>,
    norm3: B::Norm,
}

/// What every decoder layer looks at: the encoder's output, without and with positions, `[batch, tokens, d_model]`.
pub struct Encoded<T> {
    pub memory: T,
    pub placed: T,
    /// Bias against padded tokens, `[batch, 1, tokens]`.
    pub bias: Option<T>,
}

/// What the decoder asks with.
pub struct Queries<'a, T> {
    /// Where it starts from, `[batch, queries, d_model]`.
    pub content: T,
    /// Added to queries and keys, `[batch or 1, queries, d_model]`.
    pub position: &'a T,
    /// Which query sees which, `[batch or 1, queries, queries]`: bias of the self-attention. Training needs it, a detector doesn't.
    pub bias: Option<&'a T>,
}

impl<B: Backend> DecoderLayer<B> {
    /// `loader` is at `decoder.{index}.`.
    pub fn load(loader: &Loader<B>, config: &Config, index: usize) -> Result<Self> {
        let layer = &config.decoder[index];
        let width = config.d_model;
        let self_attention = match &layer.self_attention {
            Some(attention) => Some((Attention::load(&loader.part("self_attention"), attention, width)?, loader.norm("norm1", width)?)),
            None => None,
        };
        Ok(Self {
            self_attention,
            cross_attention: Attention::load(&loader.part("cross_attention"), &layer.cross_attention, width)?,
            norm2: loader.norm("norm2", width)?,
            ffn: FeedForward::load(loader, width, layer.ffn, config.activation)?,
            norm3: loader.norm("norm3", width)?,
        })
    }

    /// The contents of the queries `[batch, queries, d_model]` after this layer.
    pub fn forward(&self, backend: &B, queries: Queries<B::Tensor>, encoded: &Encoded<B::Tensor>) -> Result<B::Tensor> {
        let position = queries.position;
        let x = self.confer(backend, queries)?;

        let placed = backend.add(&x, position, Activation::None)?;
        let memory = self.cross_attention.memory(backend, &encoded.placed, &encoded.memory)?;
        let x = self.cross_attention.forward(backend, &placed, &memory, encoded.bias.as_ref(), &x)?;
        drop((placed, memory));
        let x = backend.norm(&x, &self.norm2)?;

        let x = self.ffn.forward(backend, &x)?;
        backend.norm(&x, &self.norm3)
    }

    /// The contents of the queries after they looked at each other, before they look at the picture.
    pub fn confer(&self, backend: &B, queries: Queries<B::Tensor>) -> Result<B::Tensor> {
        let Queries { content: x, position, bias } = queries;
        let Some((attention, norm)) = &self.self_attention else { return Ok(x) };
        let placed = backend.add(&x, position, Activation::None)?;
        let memory = attention.memory(backend, &placed, &x)?;
        let x = attention.forward(backend, &placed, &memory, bias, &x)?;
        drop((placed, memory));
        backend.norm(&x, norm)
    }
}
