//! Takes named weights and gives a backend's layers; every shape is checked here.

use crate::backend::{Backend, Window};
use crate::error::Result;
use crate::weights::Weights;

/// PyTorch's default, which DETR uses everywhere.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// Where a module finds its weights: all tensors whose names begin with `prefix`.
pub struct Loader<'a, B> {
    pub backend: &'a B,
    weights: &'a Weights,
    prefix: String,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub fn new(backend: &'a B, weights: &'a Weights) -> Self {
        Self { backend, weights, prefix: String::new() }
    }

    /// The loader of a part of this module.
    pub fn part(&self, name: &str) -> Self {
        Self { backend: self.backend, weights: self.weights, prefix: self.name(name) + "." }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn conv(&self, name: &str, input: usize, output: usize, window: Window) -> Result<B::Conv> {
        let name = self.name(name);
        let [height, width] = window.kernel;
        let weight = self.weights.get(&format!("{name}.weight"), &[output, height, width, input])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[output])?;
        self.backend.load_conv(&name, weight, bias, None, window)
    }

    pub fn depthwise(&self, name: &str, channels: usize, window: Window) -> Result<B::Depthwise> {
        let name = self.name(name);
        let [height, width] = window.kernel;
        let weight = self.weights.get(&format!("{name}.weight"), &[height, width, channels])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[channels])?;
        self.backend.load_depthwise(&name, weight, bias, None, window)
    }

    pub fn linear(&self, name: &str, input: usize, output: usize) -> Result<B::Linear> {
        let name = self.name(name);
        let weight = self.weights.get(&format!("{name}.weight"), &[output, input])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[output])?;
        self.backend.load_linear(&name, weight, bias)
    }

    pub fn norm(&self, name: &str, width: usize) -> Result<B::Norm> {
        let name = self.name(name);
        let weight = self.weights.get(&format!("{name}.weight"), &[width])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[width])?;
        self.backend.load_norm(&name, weight, Some(bias), LAYER_NORM_EPSILON)
    }

    /// A learnt constant `[rows, width]`, as `[1, rows, width]`: one for all pictures of a batch.
    pub fn rows(&self, name: &str, rows: usize, width: usize) -> Result<B::Tensor> {
        let mut tensor = self.weights.get(&self.name(name), &[rows, width])?.clone();
        tensor.shape.insert(0, 1);
        self.backend.constant(&tensor)
    }
}
