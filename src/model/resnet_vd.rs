//! ResNet-D as RT-DETR has it (transformers' `modeling_rt_detr_resnet.py`); batch norm is folded into the convolutions.

use super::conv_layer::{ConvLayer, Shape};
use super::load::Loader;
use crate::backend::{Backend, Padding, Pool, Window};
use crate::config::{Activation, ResNetVd as Config};
use crate::error::Result;

const POOL: Window = Window::new(3, 2, Padding::Even(1));
/// What comes before a strided shortcut: of an odd map, the last windows hold only what is there.
const SHORTCUT_POOL: Window = Window::new(2, 2, Padding::Same);

pub struct ResNetVd<B: Backend> {
    stem: Vec<ConvLayer<B>>,
    stages: Vec<Vec<Block<B>>>,
    outputs: Vec<usize>,
}

struct Block<B: Backend> {
    /// All but the last, whose activation follows the sum.
    convs: Vec<ConvLayer<B>>,
    last: B::Conv,
    width: usize,
    shortcut: Option<ConvLayer<B>>,
    pooled: bool,
}

impl<B: Backend> ResNetVd<B> {
    /// `loader` is at `backbone.`.
    pub fn load(loader: &Loader<B>, config: &Config) -> Result<Self> {
        let relu = |stride| Shape::new(3, stride, Activation::Relu);
        let stem = loader.part("stem");
        let first = ConvLayer::load(&stem, "0", 3, config.stem / 2, relu(2))?;
        let second = ConvLayer::load(&stem, "1", first.width, config.stem / 2, relu(1))?;
        let third = ConvLayer::load(&stem, "2", second.width, config.stem, relu(1))?;
        let mut width = third.width;
        // The unpruned width, which decides which blocks have a shortcut of their own.
        let mut whole = config.stem;
        let needed = config.outputs.last().map_or(0, |last| last + 1);
        let mut stages = Vec::new();
        for (s, (&channels, &depth)) in config.channels.iter().zip(&config.depths).take(needed).enumerate() {
            let mut blocks = Vec::new();
            for b in 0..depth {
                let stride = if b == 0 && (s > 0 || config.downsample_in_first_stage) { 2 } else { 1 };
                let block = Block::load(&loader.part(&format!("stage{s}.block{b}")), config, [whole, channels], width, stride, b == 0)?;
                (width, whole) = (block.width, channels);
                blocks.push(block);
            }
            stages.push(blocks);
        }
        Ok(Self { stem: vec![first, second, third], stages, outputs: config.outputs.clone() })
    }

    /// Channels of each output.
    pub fn widths(&self) -> Vec<usize> {
        self.outputs.iter().filter_map(|&s| Some(self.stages[s].last()?.width)).collect()
    }

    /// `pixels` `[batch, height, width, 3]` → the outputs, `[batch, rows, columns, channels]` each.
    pub fn forward(&self, backend: &B, pixels: &B::Tensor) -> Result<Vec<B::Tensor>> {
        let mut x = pixels.clone();
        for conv in &self.stem {
            x = conv.forward(backend, &x)?;
        }
        x = backend.pool(&x, POOL, Pool::Max)?;
        let mut outputs = Vec::new();
        for (s, stage) in self.stages.iter().enumerate() {
            for block in stage {
                x = block.forward(backend, x)?;
            }
            if self.outputs.contains(&s) {
                outputs.push(x.clone());
            }
        }
        Ok(outputs)
    }
}

impl<B: Backend> Block<B> {
    /// `from` and `to` are the unpruned widths before and after it, `input` is the real one.
    fn load(loader: &Loader<B>, config: &Config, [from, to]: [usize; 2], input: usize, stride: usize, first: bool) -> Result<Self> {
        let relu = |kernel, stride| Shape::new(kernel, stride, Activation::Relu);
        let shapes: &[(usize, Shape)] = match (config.basic, config.downsample_in_bottleneck) {
            (true, _) => &[(to, relu(3, stride))],
            (false, false) => &[(to / 4, relu(1, 1)), (to / 4, relu(3, stride))],
            (false, true) => &[(to / 4, relu(1, stride)), (to / 4, relu(3, 1))],
        };
        let mut convs: Vec<ConvLayer<B>> = Vec::new();
        let mut inner = input;
        for (i, &(output, shape)) in shapes.iter().enumerate() {
            let conv = ConvLayer::load(loader, &format!("conv{i}"), inner, output, shape)?;
            inner = conv.width;
            convs.push(conv);
        }
        let kernel = if config.basic { 3 } else { 1 };
        let name = format!("conv{}", shapes.len());
        let width = loader.size(&name, to);
        let last = loader.conv(&name, inner, width, relu(kernel, 1).window)?;
        let pooled = if config.basic { first && from != to } else { stride == 2 };
        let projected = if config.basic { first } else { from != to || stride != 1 };
        let stride = if pooled { 1 } else { stride };
        let shortcut = projected.then(|| ConvLayer::load(loader, "shortcut", input, to, Shape::new(1, stride, Activation::None)));
        Ok(Self { convs, last, width, shortcut: shortcut.transpose()?, pooled })
    }

    fn forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let mut y = x.clone();
        for conv in &self.convs {
            y = conv.forward(backend, &y)?;
        }
        let mut shortcut = x;
        if self.pooled {
            shortcut = backend.pool(&shortcut, SHORTCUT_POOL, Pool::AverageWithin)?;
        }
        if let Some(conv) = &self.shortcut {
            shortcut = conv.forward(backend, &shortcut)?;
        }
        backend.conv(&y, &self.last, Activation::Relu, Some(&shortcut))
    }
}
