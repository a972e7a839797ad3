//! Takes named weights and gives a backend's layers; every shape is checked here.
//!
//! What a network consists of is told by what its modules ask for: `layout.rs` lists it by loading onto a backend that computes nothing.

use crate::backend::{Backend, Window};
use crate::error::Result;
use crate::layout::Role;
use crate::weights::{HostTensor, Weights};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// PyTorch's default, which DETR and its descendants use everywhere.
const LAYER_NORM_EPSILON: f32 = 1e-5;
/// DEIMv2's.
const RMS_NORM_EPSILON: f32 = 1e-6;

/// What the names of layers begin with whose weights follow from the architecture.
pub const FIXED: &str = "fixed.";

/// Where named weights come from.
pub trait Source {
    fn get(&self, name: &str, shape: &[usize], role: Role) -> Result<Cow<'_, HostTensor>>;
}

impl Source for Weights {
    fn get(&self, name: &str, shape: &[usize], _: Role) -> Result<Cow<'_, HostTensor>> {
        Weights::get(self, name, shape).map(Cow::Borrowed)
    }
}

/// Where a module finds its weights: all tensors whose names begin with `prefix`.
pub struct Loader<'a, B> {
    pub backend: &'a B,
    source: &'a dyn Source,
    /// Widths that pruning left, by the layer that makes them.
    sizes: Cow<'a, BTreeMap<String, usize>>,
    prefix: String,
    /// The role of matrices: of a head's, or of all others.
    matrices: Role,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub fn new(backend: &'a B, source: &'a dyn Source) -> Self {
        Self { backend, source, sizes: Cow::Owned(BTreeMap::new()), prefix: String::new(), matrices: Role::Matrix }
    }

    /// For a network of which some widths were pruned.
    pub fn with_sizes(self, sizes: &'a BTreeMap<String, usize>) -> Self {
        Self { sizes: Cow::Borrowed(sizes), ..self }
    }

    /// The loader of a part of this module.
    pub fn part(&self, name: &str) -> Self {
        Self { backend: self.backend, source: self.source, sizes: self.sizes.clone(), prefix: self.name(name) + ".", matrices: self.matrices }
    }

    /// For heads, whose few numbers are scores and boxes without another layer behind them.
    pub fn heads(&self) -> Self {
        Self { backend: self.backend, source: self.source, sizes: self.sizes.clone(), prefix: self.prefix.clone(), matrices: Role::Head }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The width of a layer's output: `default`, or what pruning left of it.
    pub fn size(&self, name: &str, default: usize) -> usize {
        self.sizes.get(&self.name(name)).copied().unwrap_or(default)
    }

    fn weight(&self, name: &str, shape: &[usize], role: Role) -> Result<Cow<'a, HostTensor>> {
        self.source.get(&format!("{name}.weight"), shape, role)
    }

    fn bias(&self, name: &str, width: usize, role: Role) -> Result<Cow<'a, HostTensor>> {
        self.source.get(&format!("{name}.bias"), &[width], role)
    }

    fn affine(&self, name: &str, affine: bool) -> Result<Option<Cow<'a, HostTensor>>> {
        affine.then(|| self.source.get(&format!("{name}.affine"), &[2], Role::Affine)).transpose()
    }

    pub fn conv(&self, name: &str, input: usize, output: usize, window: Window) -> Result<B::Conv> {
        self.conv_affine(name, input, output, window, false)
    }

    /// With `affine` a scale and a shift follow the activation.
    pub fn conv_affine(&self, name: &str, input: usize, output: usize, window: Window, affine: bool) -> Result<B::Conv> {
        let name = self.name(name);
        let [height, width] = window.kernel;
        let weight = self.weight(&name, &[output, height, width, input], self.matrices)?;
        let bias = self.bias(&name, output, Role::Bias)?;
        self.backend.load_conv(&name, &weight, &bias, self.affine(&name, affine)?.as_deref(), window)
    }

    pub fn depthwise(&self, name: &str, channels: usize, window: Window) -> Result<B::Depthwise> {
        self.depthwise_affine(name, channels, window, false)
    }

    pub fn depthwise_affine(&self, name: &str, channels: usize, window: Window, affine: bool) -> Result<B::Depthwise> {
        let name = self.name(name);
        let [height, width] = window.kernel;
        let weight = self.weight(&name, &[height, width, channels], Role::Depthwise)?;
        let bias = self.bias(&name, channels, Role::Bias)?;
        self.backend.load_depthwise(&name, &weight, &bias, self.affine(&name, affine)?.as_deref(), window)
    }

    pub fn linear(&self, name: &str, input: usize, output: usize) -> Result<B::Linear> {
        let name = self.name(name);
        let weight = self.weight(&name, &[output, input], self.matrices)?;
        self.backend.load_linear(&name, &weight, &*self.bias(&name, output, Role::Bias)?)
    }

    pub fn norm(&self, name: &str, width: usize) -> Result<B::Norm> {
        let name = self.name(name);
        let weight = self.weight(&name, &[width], Role::NormScale)?;
        self.backend.load_norm(&name, &weight, Some(&*self.bias(&name, width, Role::NormShift)?), LAYER_NORM_EPSILON)
    }

    pub fn rms_norm(&self, name: &str, width: usize) -> Result<B::Norm> {
        let name = self.name(name);
        self.backend.load_norm(&name, &*self.weight(&name, &[width], Role::NormScale)?, None, RMS_NORM_EPSILON)
    }

    /// A learnt constant `[rows, width]`, as `[1, rows, width]`: one for all pictures of a batch.
    pub fn rows(&self, name: &str, rows: usize, width: usize) -> Result<B::Tensor> {
        self.learnt(name, &[rows, width], Role::Rows)
    }

    /// Learnt boxes `[rows, width]`, as [`Loader::rows`].
    pub fn reference(&self, name: &str, rows: usize, width: usize) -> Result<B::Tensor> {
        self.learnt(name, &[rows, width], Role::Reference)
    }

    fn learnt(&self, name: &str, shape: &[usize], role: Role) -> Result<B::Tensor> {
        let name = self.name(name);
        let mut tensor = self.source.get(&name, shape, role)?.into_owned();
        tensor.shape.insert(0, 1);
        self.backend.learnt(&name, &tensor)
    }

    /// A linear map without a bias whose numbers follow from the architecture, `weight` `[out, in]`.
    pub fn fixed_linear(&self, name: &str, weight: &HostTensor) -> Result<B::Linear> {
        let outputs = weight.shape[0];
        self.backend.load_linear(&format!("{FIXED}{}", self.name(name)), weight, &HostTensor::f32(&[outputs], vec![0.0; outputs]))
    }
}
