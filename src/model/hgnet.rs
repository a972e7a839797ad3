//! HGNetV2 as D-FINE and DEIMv2 have it (transformers' `modeling_hgnet_v2.py`); batch norm is folded into the convolutions.

use super::conv_layer::{ConvLayer, Shape};
use super::load::Loader;
use crate::backend::{Backend, Padding, Pool, Window};
use crate::config::{Activation, HgNetV2 as Config, HgStage};
use crate::error::Result;

/// A 2×2 window on a map that is padded by a zero below and on the right.
const PADDED: Window = Window::new(2, 1, Padding::Same);

pub struct HgNetV2<B: Backend> {
    stem: Stem<B>,
    stages: Vec<Stage<B>>,
    outputs: Vec<usize>,
}

struct Stem<B: Backend> {
    first: ConvLayer<B>,
    narrow: ConvLayer<B>,
    wide: ConvLayer<B>,
    joined: ConvLayer<B>,
    last: ConvLayer<B>,
}

struct Stage<B: Backend> {
    downsample: Option<ConvLayer<B>>,
    blocks: Vec<Block<B>>,
}

struct Block<B: Backend> {
    /// Each layer's convolutions, one after another.
    layers: Vec<Vec<ConvLayer<B>>>,
    squeeze: ConvLayer<B>,
    excite: ConvLayer<B>,
    residual: bool,
}

impl<B: Backend> HgNetV2<B> {
    /// `loader` is at `backbone.`.
    pub fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let stem = Stem::load(&loader.part("stem"), config)?;
        let mut width = stem.last.width;
        // What comes after the last output isn't needed.
        let needed = config.outputs.last().map_or(0, |last| last + 1);
        let stages = config.stages.iter().take(needed).enumerate().map(|(s, stage)| {
            let stage = Stage::load(&loader.part(&format!("stage{s}")), stage, config.affine, width)?;
            width = stage.blocks.last().map_or(width, |block| block.excite.width);
            Ok(stage)
        });
        Ok(Self { stages: stages.collect::<Result<_>>()?, stem, outputs: config.outputs.clone() })
    }

    /// Channels of each output.
    pub fn widths(&self) -> Vec<usize> {
        self.outputs.iter().filter_map(|&s| Some(self.stages[s].blocks.last()?.excite.width)).collect()
    }

    /// `pixels` `[batch, height, width, 3]` → the outputs, `[batch, rows, columns, channels]` each.
    pub fn forward(&self, backend: &B, pixels: &B::Tensor) -> Result<Vec<B::Tensor>> {
        let mut x = self.stem.forward(backend, pixels)?;
        let mut outputs = Vec::new();
        for (s, stage) in self.stages.iter().enumerate() {
            x = stage.forward(backend, x)?;
            if self.outputs.contains(&s) {
                outputs.push(x.clone());
            }
        }
        Ok(outputs)
    }
}

impl<B: Backend> Stem<B> {
    fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let [inner, outer] = config.stem;
        let relu = |kernel, stride| Shape::new(kernel, stride, Activation::Relu).affine(config.affine);
        let padded = Shape { window: PADDED, ..relu(1, 1) };
        let first = ConvLayer::load(loader, "1", 3, inner, relu(3, 2))?;
        let narrow = ConvLayer::load(loader, "2a", first.width, inner / 2, padded)?;
        let wide = ConvLayer::load(loader, "2b", narrow.width, inner, padded)?;
        let joined = ConvLayer::load(loader, "3", first.width + wide.width, inner, relu(3, 2))?;
        let last = ConvLayer::load(loader, "4", joined.width, outer, relu(1, 1))?;
        Ok(Self { first, narrow, wide, joined, last })
    }

    fn forward(&self, backend: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        let x = self.first.forward(backend, pixels)?;
        let y = self.wide.forward(backend, &self.narrow.forward(backend, &x)?)?;
        // The padding takes part in this maximum: the affine map can make all of a window negative.
        let pooled = backend.pool(&x, PADDED, Pool::MaxOfZeroPadded)?;
        drop(x);
        let x = backend.concat(&[&pooled, &y], 3)?;
        drop((pooled, y));
        self.last.forward(backend, &self.joined.forward(backend, &x)?)
    }
}

impl<B: Backend> Stage<B> {
    fn load(loader: &Loader<B>, config: &HgStage, affine: bool, input: usize) -> Result<Self> {
        let downsample =
            config.downsample.map(|stride| ConvLayer::load_depthwise(loader, "downsample", input, Shape::new(3, stride, Activation::None)));
        let mut width = input;
        let blocks = (0..config.blocks).map(|b| {
            let block = Block::load(&loader.part(&format!("block{b}")), config, affine, width, b > 0)?;
            width = block.excite.width;
            Ok(block)
        });
        Ok(Self { downsample: downsample.transpose()?, blocks: blocks.collect::<Result<_>>()? })
    }

    fn forward(&self, backend: &B, mut x: B::Tensor) -> Result<B::Tensor> {
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(backend, &x)?;
        }
        for block in &self.blocks {
            x = block.forward(backend, x)?;
        }
        Ok(x)
    }
}

impl<B: Backend> Block<B> {
    fn load(loader: &Loader<B>, config: &HgStage, affine: bool, input: usize, residual: bool) -> Result<Self> {
        let relu = |kernel| Shape::new(kernel, 1, Activation::Relu).affine(affine);
        let mut joined = input;
        let mut width = input;
        let layers = (0..config.layers).map(|l| {
            let name = format!("layer{l}");
            let layer = match config.light {
                false => vec![ConvLayer::load(loader, &name, width, config.middle, relu(config.kernel))?],
                true => {
                    let loader = loader.part(&name);
                    let pointwise = ConvLayer::load(&loader, "pointwise", width, config.middle, Shape::new(1, 1, Activation::None))?;
                    let depthwise = ConvLayer::load_depthwise(&loader, "depthwise", pointwise.width, relu(config.kernel))?;
                    vec![pointwise, depthwise]
                }
            };
            width = layer.last().map_or(width, |conv| conv.width);
            joined += width;
            Ok(layer)
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let squeeze = ConvLayer::load(loader, "squeeze", joined, config.channels / 2, relu(1))?;
        let excite = ConvLayer::load(loader, "excite", squeeze.width, config.channels, relu(1))?;
        Ok(Self { layers, squeeze, excite, residual })
    }

    fn forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let mut all = vec![x];
        for layer in &self.layers {
            let mut y = all[all.len() - 1].clone();
            for conv in layer {
                y = conv.forward(backend, &y)?;
            }
            all.push(y);
        }
        let joined = backend.concat(&all.iter().collect::<Vec<_>>(), 3)?;
        let x = all.swap_remove(0);
        drop(all);
        let squeezed = self.squeeze.forward(backend, &joined)?;
        drop(joined);
        let y = self.excite.forward(backend, &squeezed)?;
        // The residual comes after the affine map, so it can't be a part of the convolution.
        if self.residual { backend.add(&y, &x, Activation::None) } else { Ok(y) }
    }
}
