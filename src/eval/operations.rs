//! The operations of a network in the order in which it computes them, with their shapes, from its config alone, by tracing it: what is
//! counted (`cost.rs`) and what is timed (`profile/`).

use crate::config::NetworkConfig;
use crate::graph::{Node, Op, Value};
use crate::trace::trace_as_far;
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
    /// Sampling points of a head on all levels.
    Deformable {
        head_width: usize,
        points: usize,
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
            // Four neighbours of each point, and its weight.
            Kind::Deformable { head_width, points } => 5 * head_width * points,
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

/// All operations on one picture that take more than a pass over memory; `size` is the height and width of the input.
pub fn operations(config: &impl NetworkConfig, size: [usize; 2]) -> Vec<Step> {
    let mut module = String::new();
    let mut steps = Vec::new();
    // Of an input that is too small for the network there is only what comes before.
    for node in trace_as_far(&config.architecture(), size).nodes {
        // What has no weights belongs to the layer before it.
        module = node.layer.clone().unwrap_or(module);
        if let Some(operation) = operation(&node) {
            steps.push(Step { module: module.clone(), operation });
        }
    }
    steps
}

pub(super) fn operation(node: &Node) -> Option<Operation> {
    let width = |value: &Value| value.shape.last().copied().unwrap_or_default();
    let map = match node.output.shape[..] {
        [_, height, width, _] => [height, width],
        [_, tokens, _] => [1, tokens],
        _ => [1, 1],
    };
    let (inputs, outputs, residual) = (node.inputs.first().map_or(0, width), width(&node.output), node.residual);
    let (kind, map, inputs, outputs) = match &node.op {
        Op::Conv(window, _) => (Kind::Conv { kernel: window.kernel[0], stride: window.stride, residual }, map, inputs, outputs),
        Op::Linear(_) => (Kind::Linear { residual }, map, inputs, outputs),
        Op::Depthwise(window, _) => (Kind::Depthwise { kernel: window.kernel[0], stride: window.stride }, map, outputs, 1),
        Op::Pool(window, _) => (Kind::Pool { kernel: window.kernel[0], stride: window.stride }, map, outputs, 1),
        Op::Norm => (Kind::Norm, map, outputs, 1),
        Op::Add(_) => (Kind::Add, map, outputs, 1),
        Op::Attention { heads } => (Kind::Attention { head_width: inputs / heads }, [node.inputs[0].shape[1], node.inputs[1].shape[1]], *heads, 1),
        Op::Deformable(deformable) => {
            let kind = Kind::Deformable { head_width: outputs / deformable.heads, points: deformable.all_points() };
            (kind, map, deformable.heads, 1)
        }
        _ => return None,
    };
    Some(Operation { kind, map, inputs, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;
    use crate::checkpoint::random;
    use crate::config::{Backbone, Config, EfficientNetLite, ResNet};
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
