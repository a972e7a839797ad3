//! The operations of a network in the order in which it computes them, with their shapes, from its config alone: what is counted
//! (`cost.rs`) and what is timed (`profile/`).

use crate::backend::Window;
use crate::config::{Attention, Backbone, Config};
use crate::model::{efficientnet, resnet};
use serde::{Deserialize, Serialize};

/// What an operation does, apart from how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// `residual`: something is added to the output.
    Conv {
        kernel: usize,
        stride: usize,
        residual: bool,
    },
    Depthwise {
        kernel: usize,
        stride: usize,
    },
    Pool {
        kernel: usize,
        stride: usize,
    },
    Linear {
        residual: bool,
    },
    Attention {
        head_width: usize,
    },
    Norm,
    Add,
}

/// An operation of a [`Backend`](crate::backend::Backend) on shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    pub kind: Kind,
    /// Rows and columns of the output's feature map; 1 and the rows of a list of tokens; queries and keys of an attention.
    pub map: [usize; 2],
    /// Channels in; an attention's heads.
    pub inputs: usize,
    /// Channels out, where they may be other than the channels in; else 1.
    pub outputs: usize,
}

/// An operation and the module that it belongs to, as `encoder.0.ffn2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub module: String,
    pub operation: Operation,
}

impl Kind {
    /// Multiply-accumulates (or additions, or comparisons) for each place, input and output.
    pub fn taps(self) -> usize {
        match self {
            Kind::Conv { kernel, .. } | Kind::Depthwise { kernel, .. } | Kind::Pool { kernel, .. } => kernel * kernel,
            // The two products.
            Kind::Attention { head_width } => 2 * head_width,
            Kind::Linear { .. } | Kind::Norm | Kind::Add => 1,
        }
    }

    /// Whether its work is counted as multiply-accumulates.
    pub fn multiplies(self) -> bool {
        !matches!(self, Kind::Pool { .. } | Kind::Norm | Kind::Add)
    }
}

impl Operation {
    pub fn rows(&self) -> usize {
        self.map[0] * self.map[1]
    }

    pub fn macs(&self) -> u64 {
        if !self.kind.multiplies() {
            return 0;
        }
        [self.inputs, self.outputs, self.kind.taps()].iter().fold(self.rows() as u64, |product, &factor| product.saturating_mul(factor as u64))
    }
}

/// All operations on one picture; `size` is the height and width of the input.
pub fn operations(config: &Config, size: [usize; 2]) -> Vec<Step> {
    let mut walk = Walk { steps: Vec::new(), map: size };
    walk.backbone(&config.backbone);
    let (tokens, queries, width) = ([1, walk.map[0] * walk.map[1]], [1, config.queries], config.d_model);
    walk.push("input_projection", Kind::Linear { residual: false }, walk.map, config.backbone.channels(), width);
    for (i, layer) in config.encoder.iter().enumerate() {
        let name = format!("encoder.{i}");
        walk.attend(&format!("{name}.self_attention"), layer.self_attention, [tokens, tokens], width);
        walk.norm(&format!("{name}.norm1"), tokens, width);
        walk.feed_forward(&name, layer.ffn, tokens, width);
        walk.norm(&format!("{name}.norm2"), tokens, width);
    }
    walk.push("encoder", Kind::Add, tokens, width, 1);
    for (i, layer) in config.decoder.iter().enumerate() {
        let name = format!("decoder.{i}");
        if let Some(self_attention) = layer.self_attention {
            walk.attend(&format!("{name}.self_attention"), self_attention, [queries, queries], width);
            walk.norm(&format!("{name}.norm1"), queries, width);
        }
        walk.attend(&format!("{name}.cross_attention"), layer.cross_attention, [queries, tokens], width);
        walk.norm(&format!("{name}.norm2"), queries, width);
        walk.feed_forward(&name, layer.ffn, queries, width);
        walk.norm(&format!("{name}.norm3"), queries, width);
    }
    walk.norm("decoder.norm", queries, width);
    for (name, outputs) in [("class_head", config.classes), ("box_head.0", width), ("box_head.1", width), ("box_head.2", 4)] {
        walk.linear(name, queries, width, outputs, false);
    }
    if config.box_reference {
        walk.push("box_head", Kind::Add, queries, 4, 1);
    }
    walk.steps
}

struct Walk {
    steps: Vec<Step>,
    /// Rows and columns of the feature map so far.
    map: [usize; 2],
}

impl Walk {
    fn push(&mut self, module: &str, kind: Kind, map: [usize; 2], inputs: usize, outputs: usize) {
        self.steps.push(Step { module: module.into(), operation: Operation { kind, map, inputs, outputs } });
    }

    fn slide(&mut self, window: Window) {
        let place = window.place(self.map[0], self.map[1]);
        self.map = [place.out_height, place.out_width];
    }

    fn conv(&mut self, module: &str, window: Window, [inputs, outputs]: [usize; 2], residual: bool) {
        self.slide(window);
        self.push(module, Kind::Conv { kernel: window.kernel[0], stride: window.stride, residual }, self.map, inputs, outputs);
    }

    fn linear(&mut self, module: &str, map: [usize; 2], inputs: usize, outputs: usize, residual: bool) {
        self.push(module, Kind::Linear { residual }, map, inputs, outputs);
    }

    fn norm(&mut self, module: &str, map: [usize; 2], width: usize) {
        self.push(module, Kind::Norm, map, width, 1);
    }

    /// Attention of queries to keys with its four projections, and the sum of queries and positions.
    fn attend(&mut self, module: &str, attention: Attention, [queries, keys]: [[usize; 2]; 2], width: usize) {
        let Attention { heads, head_width } = attention;
        self.push(module, Kind::Add, queries, width, 1);
        for (part, map) in [("key", keys), ("value", keys), ("query", queries)] {
            self.linear(&format!("{module}.{part}"), map, width, attention.width(), false);
        }
        self.push(module, Kind::Attention { head_width }, [queries[1], keys[1]], heads, 1);
        self.linear(&format!("{module}.output"), queries, attention.width(), width, true);
    }

    fn feed_forward(&mut self, layer: &str, ffn: usize, map: [usize; 2], width: usize) {
        self.linear(&format!("{layer}.ffn1"), map, width, ffn, false);
        self.linear(&format!("{layer}.ffn2"), map, ffn, width, true);
    }

    fn backbone(&mut self, backbone: &Backbone) {
        match backbone {
            Backbone::Resnet(net) => {
                self.conv("backbone.stem", resnet::STEM, [3, net.stem], false);
                self.slide(resnet::POOL);
                self.push("pool", Kind::Pool { kernel: resnet::POOL.kernel[0], stride: resnet::POOL.stride }, self.map, net.stem, 1);
                let mut channels = net.stem;
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.blocks.iter().enumerate() {
                        let name = format!("backbone.stage{}.block{b}", s + 1);
                        let input = self.map;
                        let windows = resnet::windows(block);
                        let mut width = channels;
                        for (i, (&inner, &window)) in block.inner.iter().zip(&windows).enumerate() {
                            self.conv(&format!("{name}.conv{}", i + 1), window, [width, inner], false);
                            width = inner;
                        }
                        let inside = std::mem::replace(&mut self.map, input);
                        if block.projection {
                            self.conv(&format!("{name}.projection"), resnet::shortcut(block), [channels, stage.channels], false);
                        }
                        self.map = inside;
                        if let Some(&window) = windows.get(block.inner.len()) {
                            self.conv(&format!("{name}.conv{}", block.inner.len() + 1), window, [width, stage.channels], true);
                        }
                        channels = stage.channels;
                    }
                }
            }
            Backbone::EfficientNetLite(net) => {
                self.conv("backbone.stem", efficientnet::STEM, [3, net.stem], false);
                let mut channels = net.stem;
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.iter().enumerate() {
                        let name = format!("backbone.stage{s}.block{b}");
                        if let Some(expansion) = block.expansion {
                            self.conv(&format!("{name}.expand"), efficientnet::POINTWISE, [channels, expansion], false);
                        }
                        let (inner, window) = (block.expansion.unwrap_or(channels), efficientnet::depthwise_window(block));
                        self.slide(window);
                        let kind = Kind::Depthwise { kernel: block.kernel, stride: block.stride };
                        self.push(&format!("{name}.depthwise"), kind, self.map, inner, 1);
                        self.conv(&format!("{name}.project"), efficientnet::POINTWISE, [inner, block.channels], block.residual);
                        channels = block.channels;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;
    use crate::checkpoint::random;
    use crate::config::{EfficientNetLite, ResNet};
    use crate::cpu::Cpu;
    use crate::error::Result;
    use crate::model::Detr;
    use crate::watch::{Observe, Seen, Watch};
    use crate::weights::HostTensor;
    use candle_core::Tensor;

    /// Every layer that is computed: its name, whether it slides, whether something is added, its rows and its channels.
    #[derive(Default)]
    struct Layers(Vec<(String, bool, bool, usize, usize, usize)>);

    impl Observe<Tensor> for Layers {
        fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
            let width = |x: &Tensor| x.dims().last().copied().unwrap_or_default();
            let (inputs, outputs) = (width(seen.input), width(seen.output));
            self.0.push((seen.layer.into(), seen.window.is_some(), seen.residual.is_some(), seen.output.elem_count() / outputs, inputs, outputs));
            Ok(())
        }
    }

    #[test]
    fn they_are_what_a_network_computes() {
        let resnet = |depth, dilated| Backbone::Resnet(ResNet::of_depth(depth, dilated).unwrap());
        for backbone in [resnet(18, false), resnet(50, true), Backbone::EfficientNetLite(EfficientNetLite::lite0())] {
            let mut config = Config::detr(backbone);
            config.encoder.truncate(1);
            config.decoder.truncate(2);
            (config.queries, config.decoder[1].cross_attention.heads) = (7, 3);
            let mut folded = config.clone();
            folded.fold();
            for config in [config, folded] {
                let watch = Watch::new(Cpu, Layers::default());
                let detr = Detr::load(&watch, &config, &random(config.clone(), "", 0).weights).unwrap();
                let pixels = HostTensor::f32(&[1, 70, 45, 3], vec![0.5; 70 * 45 * 3]);
                detr.forward(&watch, &watch.constant(&pixels).unwrap(), None).unwrap();
                let mut expected = watch.into_observer().0;

                let layer = |Step { module, operation }: Step| {
                    let Operation { inputs, outputs, .. } = operation;
                    let one = |slides, residual, outputs| Some((module.clone(), slides, residual, operation.rows(), inputs, outputs));
                    match operation.kind {
                        Kind::Conv { residual, .. } => one(true, residual, outputs),
                        Kind::Depthwise { .. } => one(true, false, inputs),
                        Kind::Linear { residual } => one(false, residual, outputs),
                        _ => None,
                    }
                };
                let mut found: Vec<_> = operations(&config, [70, 45]).into_iter().filter_map(layer).collect();
                found.sort();
                expected.sort();
                assert_eq!(found, expected);
            }
        }
    }
}
