//! What mixes the backbone's feature maps: RT-DETR's hybrid encoder and DEIMv2's lite encoder (transformers' `modeling_rt_detr.py`,
//! `modeling_d_fine.py`, `modeling_deimv2.py`). RepVGG's two branches are one 3×3 convolution here: they are folded when a file is read.

use super::conv_layer::{ConvLayer, Shape};
use super::encoder::{EncoderLayer, Tokens};
use super::load::Loader;
use super::position::grid_position;
use crate::backend::{Backend, Padding, Pool, Window};
use crate::config::{Activation, Fusion, FusionBlock, HybridEncoder as HybridConfig, LiteEncoder as LiteConfig, Neck as Config};
use crate::error::{Error, Result};
use crate::weights::HostTensor;

/// Halves a map, zeros around it counted (`nn.AvgPool2d(3, 2, 1)`).
const HALVE: Window = Window::new(3, 2, Padding::Even(1));

pub enum Neck<B: Backend> {
    Hybrid(HybridEncoder<B>),
    Lite(LiteEncoder<B>),
}

pub struct HybridEncoder<B: Backend> {
    projections: Vec<ConvLayer<B>>,
    /// For each of `encoded_maps`.
    encoders: Vec<Vec<EncoderLayer<B>>>,
    encoded_maps: Vec<usize>,
    position_temperature: Option<f32>,
    normalize_before: bool,
    /// From the smallest map on.
    laterals: Vec<ConvLayer<B>>,
    up: Vec<Block<B>>,
    /// From the largest map on.
    downs: Vec<Vec<ConvLayer<B>>>,
    down: Vec<Block<B>>,
    fusion: Fusion,
}

pub struct LiteEncoder<B: Backend> {
    projection: ConvLayer<B>,
    downs: [ConvLayer<B>; 2],
    fusion: ConvLayer<B>,
    up: Block<B>,
    down: Block<B>,
}

impl<B: Backend> Neck<B> {
    /// `loader` is at `neck.`; `inputs` are the channels of the backbone's maps.
    pub fn load(loader: &Loader<B>, config: &Config, inputs: &[usize]) -> Result<Self> {
        match config {
            Config::Hybrid(config) => HybridEncoder::load(loader, config, inputs).map(Self::Hybrid),
            Config::Lite(config) => LiteEncoder::load(loader, config, inputs).map(Self::Lite),
        }
    }

    /// Channels of each map that it gives, from the largest to the smallest.
    pub fn widths(&self) -> Vec<usize> {
        match self {
            Self::Hybrid(neck) => {
                let first = neck.up.last().map_or_else(|| neck.projections.iter().map(|conv| conv.width).collect(), |block| vec![block.width()]);
                first.into_iter().chain(neck.down.iter().map(Block::width)).collect()
            }
            Self::Lite(neck) => vec![neck.up.width(), neck.down.width()],
        }
    }

    /// `maps` `[batch, rows, columns, channels]`, the largest first.
    pub fn forward(&self, backend: &B, maps: Vec<B::Tensor>) -> Result<Vec<B::Tensor>> {
        match self {
            Self::Hybrid(neck) => neck.forward(backend, maps),
            Self::Lite(neck) => neck.forward(backend, maps),
        }
    }
}

impl<B: Backend> HybridEncoder<B> {
    fn load(loader: &Loader<B>, config: &HybridConfig, inputs: &[usize]) -> Result<Self> {
        let width = config.width;
        let plain = Shape::new(1, 1, Activation::None);
        let projections: Vec<ConvLayer<B>> = (inputs.iter().enumerate())
            .map(|(i, &input)| ConvLayer::load(loader, &format!("projection{i}"), input, width, plain))
            .collect::<Result<_>>()?;
        let encoders = (config.encoded_maps.iter().enumerate()).map(|(e, _)| {
            let layers = config.layers.iter().enumerate();
            layers.map(|(i, layer)| EncoderLayer::load(&loader.part(&format!("encoder{e}.{i}")), layer, width, config.ffn_activation)).collect()
        });
        let encoders = encoders.collect::<Result<_>>()?;

        // Widths of two maps that are joined or, being equal, added.
        let joined = |a: usize, b: usize| if config.fusion == Fusion::Concat { a + b } else { a };
        let is_csp = matches!(config.block, FusionBlock::Csp { .. });
        let lateral_shape = Shape::new(1, 1, if is_csp { config.activation } else { Activation::None });
        let mut maps: Vec<usize> = projections.iter().map(|conv| conv.width).collect();
        let (mut laterals, mut up) = (Vec::new(), Vec::new());
        for (i, map) in (0..maps.len().saturating_sub(1)).rev().enumerate() {
            let lateral = ConvLayer::load(loader, &format!("lateral{i}"), maps[map + 1], width, lateral_shape)?;
            maps[map + 1] = lateral.width;
            let input = joined(lateral.width, maps[map]);
            let block = Block::load(&loader.part(&format!("up{i}")), config.block, input, width, config.activation)?;
            maps[map] = block.width();
            laterals.push(lateral);
            up.push(block);
        }
        let (mut downs, mut down) = (Vec::new(), Vec::new());
        for i in 0..maps.len().saturating_sub(1) {
            let name = format!("downsample{i}");
            let steps = if is_csp {
                vec![ConvLayer::load(loader, &name, maps[i], width, Shape::new(3, 2, config.activation))?]
            } else {
                let loader = loader.part(&name);
                let pointwise = ConvLayer::load(&loader, "pointwise", maps[i], width, plain)?;
                let depthwise = ConvLayer::load_depthwise(&loader, "depthwise", pointwise.width, Shape::new(3, 2, Activation::None))?;
                vec![pointwise, depthwise]
            };
            let input = joined(steps.last().map_or(width, |conv| conv.width), maps[i + 1]);
            let block = Block::load(&loader.part(&format!("down{i}")), config.block, input, width, config.activation)?;
            maps[i + 1] = block.width();
            downs.push(steps);
            down.push(block);
        }
        let (encoded_maps, position_temperature) = (config.encoded_maps.clone(), config.position_temperature);
        let (normalize_before, fusion) = (config.normalize_before, config.fusion);
        Ok(Self { projections, encoders, encoded_maps, position_temperature, normalize_before, laterals, up, downs, down, fusion })
    }

    fn forward(&self, backend: &B, maps: Vec<B::Tensor>) -> Result<Vec<B::Tensor>> {
        let projected = self.projections.iter().zip(&maps).map(|(conv, map)| conv.forward(backend, map));
        let mut maps = projected.collect::<Result<Vec<_>>>()?;
        for (layers, &map) in self.encoders.iter().zip(&self.encoded_maps) {
            maps[map] = self.encode(backend, layers, &maps[map])?;
        }
        for (i, map) in (0..maps.len().saturating_sub(1)).rev().enumerate() {
            maps[map + 1] = self.laterals[i].forward(backend, &maps[map + 1])?;
            let larger = backend.upsample(&maps[map + 1])?;
            maps[map] = self.up[i].forward(backend, &self.fuse(backend, &larger, &maps[map])?)?;
        }
        for i in 0..maps.len().saturating_sub(1) {
            let mut smaller = maps[i].clone();
            for conv in &self.downs[i] {
                smaller = conv.forward(backend, &smaller)?;
            }
            maps[i + 1] = self.down[i].forward(backend, &self.fuse(backend, &smaller, &maps[i + 1])?)?;
        }
        Ok(maps)
    }

    /// The transformer encoder on a map (AIFI).
    fn encode(&self, backend: &B, layers: &[EncoderLayer<B>], map: &B::Tensor) -> Result<B::Tensor> {
        let shape = backend.shape(map);
        let (batch, height, width, channels) = (shape[0], shape[1], shape[2], shape[3]);
        let position = match self.position_temperature {
            Some(temperature) => grid_position(height, width, channels, temperature),
            None => vec![0.0; height * width * channels],
        };
        let position = backend.constant(&HostTensor::f32(&[1, height * width, channels], position))?;
        let memory = backend.reshape(map, &[batch, height * width, channels])?;
        let mut tokens = Tokens { memory, position, bias: None };
        for layer in layers {
            tokens.memory = match self.normalize_before {
                false => layer.forward(backend, tokens.memory, &tokens.position, None)?,
                true => layer.forward_pre_norm(backend, tokens.memory, &tokens.position)?,
            };
        }
        backend.reshape(&tokens.memory, &shape)
    }

    fn fuse(&self, backend: &B, a: &B::Tensor, b: &B::Tensor) -> Result<B::Tensor> {
        same_places(backend, a, b)?;
        match self.fusion {
            Fusion::Concat => backend.concat(&[a, b], 3),
            Fusion::Sum => backend.add(a, b, Activation::None),
        }
    }
}

impl<B: Backend> LiteEncoder<B> {
    fn load(loader: &Loader<B>, config: &LiteConfig, inputs: &[usize]) -> Result<Self> {
        let (width, pointwise) = (config.width, Shape::new(1, 1, config.activation));
        let input = inputs.last().copied().unwrap_or_default();
        let projection = ConvLayer::load(loader, "projection0", input, width, Shape::new(1, 1, Activation::None))?;
        let down0 = ConvLayer::load(loader, "downsample0", projection.width, width, pointwise)?;
        let fusion = ConvLayer::load(loader, "fusion", down0.width, width, pointwise)?;
        let up = Block::load(&loader.part("up0"), config.block, projection.width, width, config.activation)?;
        let down1 = ConvLayer::load(loader, "downsample1", up.width(), width, pointwise)?;
        let down = Block::load(&loader.part("down0"), config.block, fusion.width, width, config.activation)?;
        Ok(Self { projection, downs: [down0, down1], fusion, up, down })
    }

    fn forward(&self, backend: &B, maps: Vec<B::Tensor>) -> Result<Vec<B::Tensor>> {
        let Some(map) = maps.last() else { return Ok(Vec::new()) };
        let large = self.projection.forward(backend, map)?;
        drop(maps);
        let small = self.downs[0].forward(backend, &backend.pool(&large, HALVE, Pool::Average)?)?;
        let shape = backend.shape(&small);
        let whole = Window { kernel: [shape[1], shape[2]], stride: 1, dilation: 1, padding: Padding::Even(0) };
        let mean = backend.pool(&small, whole, Pool::Average)?;
        let small = self.fusion.forward(backend, &backend.add(&small, &mean, Activation::None)?)?;
        let doubled = backend.upsample(&small)?;
        same_places(backend, &large, &doubled)?;
        let large = self.up.forward(backend, &backend.add(&large, &doubled, Activation::None)?)?;
        let halved = self.downs[1].forward(backend, &backend.pool(&large, HALVE, Pool::Average)?)?;
        let small = self.down.forward(backend, &backend.add(&small, &halved, Activation::None)?)?;
        Ok(vec![large, small])
    }
}

/// Maps of an input whose sides the strides don't divide are of different sizes once one was doubled.
fn same_places<B: Backend>(backend: &B, a: &B::Tensor, b: &B::Tensor) -> Result<()> {
    let (a, b) = (backend.shape(a), backend.shape(b));
    if a[..3] == b[..3] {
        return Ok(());
    }
    Err(Error::Config(format!(
        "feature maps of {}×{} and {}×{} don't go together: both sides of the input must be multiples of 32",
        a[1], a[2], b[1], b[2]
    )))
}

/// What follows a fusion.
enum Block<B: Backend> {
    Csp(Csp<B>),
    Elan(Elan<B>),
}

/// A cross-stage partial layer of RepVGG blocks.
struct Csp<B: Backend> {
    first: ConvLayer<B>,
    second: Second<B>,
    repeats: Vec<ConvLayer<B>>,
    last: Option<ConvLayer<B>>,
}

/// The other path of a [`Csp`].
enum Second<B: Backend> {
    /// A convolution of its own.
    Conv(ConvLayer<B>),
    /// The first of two parts of the first convolution's channels, so wide.
    Part([usize; 2]),
}

/// RepNCSPELAN: a map in two halves, the second through two CSP layers, all joined.
struct Elan<B: Backend> {
    first: ConvLayer<B>,
    /// Channels of the two halves, which pruning may make unequal.
    halves: [usize; 2],
    csps: [Csp<B>; 2],
    /// After each CSP layer.
    between: Option<[ConvLayer<B>; 2]>,
    last: ConvLayer<B>,
}

impl<B: Backend> Block<B> {
    fn load(loader: &Loader<B>, config: FusionBlock, input: usize, width: usize, activation: Activation) -> Result<Self> {
        match config {
            FusionBlock::Csp { hidden, repeats } => Csp::load(loader, input, hidden, width, repeats, activation).map(Self::Csp),
            FusionBlock::Elan4 { hidden, repeats } => {
                let (first, halves) = ConvLayer::load_divided(loader, "conv1", input, [width, width], Shape::new(1, 1, activation))?;
                let csp1 = Csp::load(&loader.part("csp1"), halves[1], hidden, hidden, repeats, activation)?;
                let conv2 = ConvLayer::load(loader, "conv2", csp1.width(), hidden, Shape::new(3, 1, activation))?;
                let csp2 = Csp::load(&loader.part("csp2"), conv2.width, hidden, hidden, repeats, activation)?;
                let conv3 = ConvLayer::load(loader, "conv3", csp2.width(), hidden, Shape::new(3, 1, activation))?;
                let joined = first.width + conv2.width + conv3.width;
                let last = ConvLayer::load(loader, "conv4", joined, width, Shape::new(1, 1, activation))?;
                Ok(Self::Elan(Elan { first, halves, csps: [csp1, csp2], between: Some([conv2, conv3]), last }))
            }
            FusionBlock::Elan5 { hidden, repeats, trailing } => {
                let (first, halves) = ConvLayer::load_divided(loader, "conv1", input, [width, width], Shape::new(1, 1, activation))?;
                let csp1 = Csp::load_divided(&loader.part("csp1"), halves[1], hidden, repeats, trailing, activation)?;
                let csp2 = Csp::load_divided(&loader.part("csp2"), csp1.width(), hidden, repeats, trailing, activation)?;
                let joined = first.width + csp1.width() + csp2.width();
                let last = ConvLayer::load(loader, "conv4", joined, width, Shape::new(1, 1, activation))?;
                Ok(Self::Elan(Elan { first, halves, csps: [csp1, csp2], between: None, last }))
            }
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Csp(csp) => csp.width(),
            Self::Elan(elan) => elan.last.width,
        }
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let Elan { first, halves, csps: [csp1, csp2], between, last } = match self {
            Self::Csp(csp) => return csp.forward(backend, x),
            Self::Elan(elan) => elan,
        };
        let both = first.forward(backend, x)?;
        let mut a = csp1.forward(backend, &backend.narrow(&both, halves[0], halves[1])?)?;
        if let Some([conv, _]) = between {
            a = conv.forward(backend, &a)?;
        }
        let mut b = csp2.forward(backend, &a)?;
        if let Some([_, conv]) = between {
            b = conv.forward(backend, &b)?;
        }
        last.forward(backend, &backend.concat(&[&both, &a, &b], 3)?)
    }
}

impl<B: Backend> Csp<B> {
    /// RT-DETR's and D-FINE's: both paths begin with a convolution, and where `hidden` isn't `output` wide one follows their sum.
    fn load(loader: &Loader<B>, input: usize, hidden: usize, output: usize, repeats: usize, activation: Activation) -> Result<Self> {
        let pointwise = Shape::new(1, 1, activation);
        let first = ConvLayer::load(loader, "conv1", input, hidden, pointwise)?;
        let second = ConvLayer::load(loader, "conv2", input, hidden, pointwise)?;
        let repeats = Self::load_repeats(loader, first.width, hidden, repeats, activation)?;
        let last = (hidden != output).then(|| ConvLayer::load(loader, "conv3", second.width, output, pointwise)).transpose()?;
        Ok(Self { first, second: Second::Conv(second), repeats, last })
    }

    /// DEIMv2's: one convolution gives both paths.
    fn load_divided(loader: &Loader<B>, input: usize, hidden: usize, repeats: usize, trailing: bool, activation: Activation) -> Result<Self> {
        let (first, parts) = ConvLayer::load_divided(loader, "conv1", input, [hidden, hidden], Shape::new(1, 1, activation))?;
        let repeats = Self::load_repeats(loader, parts[1], hidden, repeats, activation)?;
        let last = trailing.then(|| ConvLayer::load(loader, "conv2", parts[0], hidden, Shape::new(3, 1, activation))).transpose()?;
        Ok(Self { first, second: Second::Part(parts), repeats, last })
    }

    fn load_repeats(loader: &Loader<B>, input: usize, hidden: usize, repeats: usize, activation: Activation) -> Result<Vec<ConvLayer<B>>> {
        let mut width = input;
        let repeats = (0..repeats).map(|i| {
            let conv = ConvLayer::load(loader, &format!("repeat{i}"), width, hidden, Shape::new(3, 1, activation))?;
            width = conv.width;
            Ok(conv)
        });
        repeats.collect()
    }

    fn width(&self) -> usize {
        match (&self.last, &self.second) {
            (Some(last), _) => last.width,
            (None, Second::Conv(second)) => second.width,
            (None, Second::Part([width, _])) => *width,
        }
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let y = self.first.forward(backend, x)?;
        let (other, mut y) = match &self.second {
            Second::Conv(second) => (second.forward(backend, x)?, y),
            Second::Part([a, b]) => (backend.narrow(&y, 0, *a)?, backend.narrow(&y, *a, *b)?),
        };
        for conv in &self.repeats {
            y = conv.forward(backend, &y)?;
        }
        let sum = backend.add(&y, &other, Activation::None)?;
        match &self.last {
            Some(last) => last.forward(backend, &sum),
            None => Ok(sum),
        }
    }
}
