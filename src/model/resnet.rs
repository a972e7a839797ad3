//! ResNet as in torchvision (`models/resnet.py`), with frozen batch norm folded into the convolutions.

use super::load::Loader;
use crate::backend::{Backend, Padding, Pool, Window};
use crate::config::{Activation, ResNet as Config, ResNetBlock};
use crate::error::Result;
use std::ops::Range;

pub const STEM: Window = Window::new(7, 2, Padding::Even(3));
pub const POOL: Window = Window::new(3, 2, Padding::Even(1));
const POINTWISE: Window = Window::new(1, 1, Padding::Even(0));

pub struct ResNet<B: Backend> {
    stem: B::Conv,
    blocks: Vec<Block<B>>,
}

/// The windows of a block's convolutions, one after the other.
pub fn windows(block: &ResNetBlock) -> Vec<Window> {
    let spatial = |stride, dilation| Window::new(3, stride, Padding::Even(dilation)).dilated(dilation);
    let first = spatial(block.stride, block.dilation);
    if block.inner.len() == 1 { vec![first, spatial(1, block.second_dilation.unwrap_or(block.dilation))] } else { vec![POINTWISE, first, POINTWISE] }
}

/// The window of a block's projection.
pub fn shortcut(block: &ResNetBlock) -> Window {
    Window::new(1, block.stride, Padding::Even(0))
}

/// A residual block of two (basic) or three (bottleneck) convolutions.
struct Block<B: Backend> {
    convs: Vec<B::Conv>,
    projection: Option<B::Conv>,
}

impl<B: Backend> ResNet<B> {
    /// `loader` is at `backbone.`.
    pub fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let stem = loader.conv("stem", 3, config.stem, STEM)?;
        let mut blocks = Vec::new();
        let mut input = config.stem;
        for (s, stage) in config.stages.iter().enumerate() {
            for (b, block) in stage.blocks.iter().enumerate() {
                let loader = loader.part(&format!("stage{}.block{b}", s + 1));
                let windows = windows(block);
                let widths: Vec<usize> = [&[input], &block.inner[..], &[stage.channels]].concat();
                let convs = windows.iter().enumerate().map(|(i, &window)| loader.conv(&format!("conv{}", i + 1), widths[i], widths[i + 1], window));
                let projection = block.projection.then(|| loader.conv("projection", input, stage.channels, shortcut(block)));
                blocks.push(Block { convs: convs.collect::<Result<_>>()?, projection: projection.transpose()? });
                input = stage.channels;
            }
        }
        Ok(Self { stem, blocks })
    }

    /// What comes before the blocks, pooling included: `pixels` `[batch, height, width, 3]` → `[batch, height / 4, width / 4, channels]`,
    /// rounded up.
    pub fn stem(&self, backend: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        let stem = backend.conv(pixels, &self.stem, Activation::Relu, None)?;
        backend.pool(&stem, POOL, Pool::Max)
    }

    /// Some blocks, counted from 0. After the last the features are `[batch, height / 32, width / 32, channels]` (/ 16 for DC5), rounded up.
    pub fn blocks(&self, backend: &B, mut x: B::Tensor, which: Range<usize>) -> Result<B::Tensor> {
        for block in self.blocks.iter().take(which.end).skip(which.start) {
            x = block.forward(backend, x)?;
        }
        Ok(x)
    }
}

impl<B: Backend> Block<B> {
    fn forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let [inner @ .., last] = &self.convs[..] else { return Ok(x) };
        let mut y = x.clone();
        for conv in inner {
            y = backend.conv(&y, conv, Activation::Relu, None)?;
        }
        let shortcut = match &self.projection {
            Some(projection) => backend.conv(&x, projection, Activation::None, None)?,
            None => x,
        };
        backend.conv(&y, last, Activation::Relu, Some(&shortcut))
    }
}
