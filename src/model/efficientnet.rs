//! EfficientNet-Lite as timm's `tf_efficientnet_lite0` (`timm/models/efficientnet.py`), without its head;
//! batch norm is folded into the convolutions.

use super::load::Loader;
use crate::backend::{Backend, Padding, Window};
use crate::config::{Activation, EfficientNetLite as Config, InvertedResidual};
use crate::error::Result;
use std::ops::Range;

pub const STEM: Window = Window::new(3, 2, Padding::Same);
pub const POINTWISE: Window = Window::new(1, 1, Padding::Same);

/// The window of a block's depthwise convolution.
pub fn depthwise_window(block: &InvertedResidual) -> Window {
    Window::new(block.kernel, block.stride, Padding::Same)
}

pub struct EfficientNetLite<B: Backend> {
    stem: B::Conv,
    blocks: Vec<Block<B>>,
}

struct Block<B: Backend> {
    /// Absent in a depthwise-separable block.
    expand: Option<B::Conv>,
    depthwise: B::Depthwise,
    project: B::Conv,
    residual: bool,
}

impl<B: Backend> EfficientNetLite<B> {
    /// `loader` is at `backbone.`.
    pub fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let stem = loader.conv("stem", 3, config.stem, STEM)?;
        let mut blocks = Vec::new();
        let mut input = config.stem;
        for (s, stage) in config.stages.iter().enumerate() {
            for (b, block) in stage.iter().enumerate() {
                let loader = loader.part(&format!("stage{s}.block{b}"));
                let inner = block.expansion.unwrap_or(input);
                let expand = block.expansion.map(|width| loader.conv("expand", input, width, POINTWISE)).transpose()?;
                let depthwise = loader.depthwise("depthwise", inner, depthwise_window(block))?;
                let project = loader.conv("project", inner, block.channels, POINTWISE)?;
                blocks.push(Block { expand, depthwise, project, residual: block.residual });
                input = block.channels;
            }
        }
        Ok(Self { stem, blocks })
    }

    /// What comes before the blocks: `pixels` `[batch, height, width, 3]` → `[batch, ⌈height / 2⌉, ⌈width / 2⌉, channels]`.
    pub fn stem(&self, backend: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        backend.conv(pixels, &self.stem, Activation::Relu6, None)
    }

    /// Some blocks, counted from 0. After the last the features are `[batch, ⌈height / 32⌉, ⌈width / 32⌉, channels]`.
    pub fn blocks(&self, backend: &B, mut x: B::Tensor, which: Range<usize>) -> Result<B::Tensor> {
        for block in self.blocks.iter().take(which.end).skip(which.start) {
            x = block.forward(backend, x)?;
        }
        Ok(x)
    }
}

impl<B: Backend> Block<B> {
    fn forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let expanded = match &self.expand {
            Some(expand) => backend.conv(&x, expand, Activation::Relu6, None)?,
            None => x.clone(),
        };
        let filtered = backend.depthwise(&expanded, &self.depthwise, Activation::Relu6)?;
        drop(expanded);
        backend.conv(&filtered, &self.project, Activation::None, self.residual.then_some(&x))
    }
}
