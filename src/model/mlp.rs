//! Linear maps one after another with an activation between them (DETR's `MLP`).

use super::load::Loader;
use crate::backend::Backend;
use crate::config::Activation;
use crate::error::Result;

pub struct Mlp<B: Backend> {
    layers: Vec<B::Linear>,
    activation: Activation,
}

impl<B: Backend> Mlp<B> {
    /// `loader` is at the MLP; its maps are called `0`, `1`…
    pub fn load(loader: &Loader<B>, input: usize, hidden: usize, output: usize, layers: usize, activation: Activation) -> Result<Self> {
        let mut width = input;
        let layers = (0..layers).map(|i| {
            let name = i.to_string();
            let next = if i + 1 == layers { output } else { loader.size(&name, hidden) };
            loader.linear(&name, std::mem::replace(&mut width, next), next)
        });
        Ok(Self { layers: layers.collect::<Result<_>>()?, activation })
    }

    /// `x` `[…, input]` → `[…, output]`
    pub fn forward(&self, backend: &B, x: &B::Tensor, residual: Option<&B::Tensor>) -> Result<B::Tensor> {
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            y = match i + 1 == self.layers.len() {
                true => backend.linear(&y, layer, Activation::None, residual)?,
                false => backend.linear(&y, layer, self.activation, None)?,
            };
        }
        Ok(y)
    }
}
