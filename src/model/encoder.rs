//! The transformer encoder's layer and the feed-forward network (`models/transformer.py`, post-norm).

use super::attention::Attention;
use super::decoder::Encoded;
use super::load::Loader;
use crate::backend::Backend;
use crate::config::{Activation, EncoderLayer as Config};
use crate::error::Result;

pub struct EncoderLayer<B: Backend> {
    self_attention: Attention<B>,
    norm1: B::Norm,
    ffn: FeedForward<B>,
    norm2: B::Norm,
}

/// Tokens on their way through the encoder, and their positions, `[batch, tokens, d_model]`.
pub struct Tokens<T> {
    pub memory: T,
    pub position: T,
    /// Bias against padded tokens, `[batch, 1, tokens]`.
    pub bias: Option<T>,
}

impl<T> Tokens<T> {
    /// What the decoder looks at, once they have come through.
    pub fn encoded<B: Backend<Tensor = T>>(self, backend: &B) -> Result<Encoded<T>> {
        let placed = backend.add(&self.memory, &self.position, Activation::None)?;
        Ok(Encoded { memory: self.memory, placed, bias: self.bias })
    }
}

impl<B: Backend> EncoderLayer<B> {
    /// `loader` is at `encoder.{index}.`; `activation` is that inside the feed-forward network.
    pub fn load(loader: &Loader<B>, config: &Config, d_model: usize, activation: Activation) -> Result<Self> {
        Ok(Self {
            self_attention: Attention::load(&loader.part("self_attention"), &config.self_attention, d_model)?,
            norm1: loader.norm("norm1", d_model)?,
            ffn: FeedForward::load(loader, d_model, config.ffn, activation)?,
            norm2: loader.norm("norm2", d_model)?,
        })
    }

    /// `x` and `position` `[batch, tokens, d_model]` → as `x`.
    pub fn forward(&self, backend: &B, x: B::Tensor, position: &B::Tensor, bias: Option<&B::Tensor>) -> Result<B::Tensor> {
        let placed = backend.add(&x, position, Activation::None)?;
        let memory = self.self_attention.memory(backend, &placed, &x)?;
        let x = self.self_attention.forward(backend, &placed, &memory, bias, &x)?;
        drop((placed, memory));
        let x = backend.norm(&x, &self.norm1)?;
        let x = self.ffn.forward(backend, &x)?;
        backend.norm(&x, &self.norm2)
    }

    /// The same with the norms before attention and feed-forward network, as `RTDetrEncoderLayer` has it with `normalize_before`: what the
    /// feed-forward network gives is added to what it was given.
    pub fn forward_pre_norm(&self, backend: &B, x: B::Tensor, position: &B::Tensor) -> Result<B::Tensor> {
        let normal = backend.norm(&x, &self.norm1)?;
        let placed = backend.add(&normal, position, Activation::None)?;
        let memory = self.self_attention.memory(backend, &placed, &normal)?;
        let x = self.self_attention.forward(backend, &placed, &memory, None, &x)?;
        self.ffn.forward(backend, &backend.norm(&x, &self.norm2)?)
    }
}

/// Two linear maps with an activation between, around which the input is added.
pub struct FeedForward<B: Backend> {
    ffn1: B::Linear,
    ffn2: B::Linear,
    activation: Activation,
}

impl<B: Backend> FeedForward<B> {
    /// `width` is the number of neurons.
    pub fn load(loader: &Loader<B>, d_model: usize, width: usize, activation: Activation) -> Result<Self> {
        let width = loader.size("ffn1", width);
        Ok(Self { ffn1: loader.linear("ffn1", d_model, width)?, ffn2: loader.linear("ffn2", width, d_model)?, activation })
    }

    /// `x` `[batch, tokens, d_model]` → as `x`.
    pub fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let hidden = backend.linear(x, &self.ffn1, self.activation, None)?;
        backend.linear(&hidden, &self.ffn2, Activation::None, Some(x))
    }
}
