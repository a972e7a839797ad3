//! Multi-head attention with its four projections (`torch.nn.MultiheadAttention`).

use super::load::Loader;
use crate::backend::Backend;
use crate::config::{Activation, Attention as Config};
use crate::error::Result;

pub struct Attention<B: Backend> {
    query: B::Linear,
    key: B::Linear,
    value: B::Linear,
    output: B::Linear,
    heads: usize,
}

/// Keys and values of a layer, projected.
pub struct Memory<B: Backend> {
    key: B::Tensor,
    value: B::Tensor,
}

impl<B: Backend> Attention<B> {
    pub fn load(loader: &Loader<B>, config: &Config, d_model: usize) -> Result<Self> {
        let heads = loader.size("heads", config.heads);
        let width = heads * config.head_width;
        Ok(Self {
            query: loader.linear("query", d_model, width)?,
            key: loader.linear("key", d_model, width)?,
            value: loader.linear("value", d_model, width)?,
            output: loader.linear("output", width, d_model)?,
            heads,
        })
    }

    /// Projects what will be attended to: `keys` (with positions) and `values` (without), both `[batch, keys, d_model]`.
    pub fn memory(&self, backend: &B, keys: &B::Tensor, values: &B::Tensor) -> Result<Memory<B>> {
        let key = backend.linear(keys, &self.key, Activation::None, None)?;
        let value = backend.linear(values, &self.value, Activation::None, None)?;
        Ok(Memory { key, value })
    }

    /// `residual` + attention of `queries` (with positions), both `[batch, queries, d_model]`, to `memory`.
    pub fn forward(&self, backend: &B, queries: &B::Tensor, memory: &Memory<B>, bias: Option<&B::Tensor>, residual: &B::Tensor) -> Result<B::Tensor> {
        let query = backend.linear(queries, &self.query, Activation::None, None)?;
        let mixed = backend.attention(&query, &memory.key, &memory.value, self.heads, bias)?;
        drop(query);
        backend.linear(&mixed, &self.output, Activation::None, Some(residual))
    }
}
