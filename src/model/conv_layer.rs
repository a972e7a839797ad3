//! A convolution with what follows it: folded batch norm, activation, and HGNetV2's learnt scale and shift.

use super::load::Loader;
use crate::backend::{Backend, Padding, Window};
use crate::config::Activation;
use crate::error::Result;

pub struct ConvLayer<B: Backend> {
    kind: Kind<B>,
    activation: Activation,
    /// Channels of its output.
    pub width: usize,
}

enum Kind<B: Backend> {
    Full(B::Conv),
    Depthwise(B::Depthwise),
}

/// What a [`ConvLayer`] is beside its name and widths.
#[derive(Clone, Copy)]
pub struct Shape {
    pub window: Window,
    pub activation: Activation,
    pub affine: bool,
}

impl Shape {
    /// PyTorch's usual padding: half of the kernel on all sides.
    pub fn new(kernel: usize, stride: usize, activation: Activation) -> Self {
        Self { window: Window::new(kernel, stride, Padding::Even((kernel - 1) / 2)), activation, affine: false }
    }

    pub fn affine(self, affine: bool) -> Self {
        Self { affine, ..self }
    }
}

impl<B: Backend> ConvLayer<B> {
    /// `output` is the unpruned width.
    pub fn load(loader: &Loader<B>, name: &str, input: usize, output: usize, shape: Shape) -> Result<Self> {
        let width = loader.size(name, output);
        let conv = loader.conv_affine(name, input, width, shape.window, shape.affine)?;
        Ok(Self { kind: Kind::Full(conv), activation: shape.activation, width })
    }

    /// The same where two parts of the output, which are unpruned `outputs` wide, go different ways; with their widths.
    pub fn load_divided(loader: &Loader<B>, name: &str, input: usize, outputs: [usize; 2], shape: Shape) -> Result<(Self, [usize; 2])> {
        let parts = loader.divided_size(name, outputs);
        let width = parts[0] + parts[1];
        let conv = loader.conv_affine(name, input, width, shape.window, shape.affine)?;
        Ok((Self { kind: Kind::Full(conv), activation: shape.activation, width }, parts))
    }

    pub fn load_depthwise(loader: &Loader<B>, name: &str, channels: usize, shape: Shape) -> Result<Self> {
        let conv = loader.depthwise_affine(name, channels, shape.window, shape.affine)?;
        Ok(Self { kind: Kind::Depthwise(conv), activation: shape.activation, width: channels })
    }

    /// `x` `[batch, height, width, input]` → `[batch, out height, out width, width]`
    pub fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        match &self.kind {
            Kind::Full(conv) => backend.conv(x, conv, self.activation, None),
            Kind::Depthwise(conv) => backend.depthwise(x, conv, self.activation),
        }
    }
}
