//! The graph of a network's operations for one shape of input, as `trace.rs` records it. What a network consists of, what it costs and how
//! it is run is derived from this one description (as PyTorch's `torch.fx` and Torch-Pruning's DepGraph do it, Fang et al., 2023,
//! arXiv:2301.12900).

use crate::backend::{Deformable, Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a node gives: the node's number, and the shape of the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub id: usize,
    pub shape: Vec<usize>,
}

/// What a node does: an operation of [`Backend`](crate::backend::Backend) with its fixed numbers, and what tensors come from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The pixels.
    Input,
    /// Numbers that follow from the architecture and the input's size: positions, anchors.
    Constant(Arc<HostTensor>),
    /// A learnt tensor that is no layer's weight, by its name: query positions and contents.
    Parameter(String),
    Reshape,
    Conv(Window, Activation),
    Depthwise(Window, Activation),
    Linear(Activation),
    Norm,
    Pool(Window, Pool),
    Upsample,
    Concat {
        axis: usize,
    },
    Narrow {
        start: usize,
    },
    /// With a bias, that is the fourth input.
    Attention {
        heads: usize,
    },
    Deformable(Deformable),
    Add(Activation),
    Multiply,
    Activate(Activation),
    Clamp {
        min: f32,
        max: f32,
    },
    Softmax,
    TopValues,
    TopTokens,
    Gather,
    IndexValues,
}

/// One operation: what it reads and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub op: Op,
    /// The layer whose weights it uses, if it has any.
    pub layer: Option<String>,
    pub inputs: Vec<Value>,
    /// Whether the last input is a residual, which is added before the activation.
    pub residual: bool,
    /// Its `id` is the node's number.
    pub output: Value,
}

/// A layer with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub kind: LayerKind,
    /// Shape of `{name}.weight`.
    pub weight: Vec<usize>,
    /// Weight and bias where they follow from the architecture and are in no file.
    pub fixed: Option<Arc<(HostTensor, HostTensor)>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerKind {
    /// Weight `[out, kernel height, kernel width, in]`, bias `[out]`; with `affine`, a scale and a shift after the activation.
    Conv { window: Window, affine: bool },
    /// Weight `[kernel height, kernel width, channels]`, bias `[channels]`.
    Depthwise { window: Window, affine: bool },
    /// Weight `[out, in]`, bias `[out]`.
    Linear,
    /// Weight `[width]`, and a bias of that shape but for an RMS norm.
    Norm { epsilon: f32, bias: bool },
}

impl Layer {
    /// Shape of `{name}.bias`.
    pub fn bias(&self) -> Option<Vec<usize>> {
        match self.kind {
            LayerKind::Depthwise { .. } => Some(self.weight.iter().rev().take(1).copied().collect()),
            LayerKind::Norm { bias: false, .. } => None,
            _ => Some(self.weight.iter().take(1).copied().collect()),
        }
    }

    pub fn has_affine(&self) -> bool {
        matches!(self.kind, LayerKind::Conv { affine: true, .. } | LayerKind::Depthwise { affine: true, .. })
    }
}

/// Everything that was recorded, in the order in which it is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub layers: BTreeMap<String, Layer>,
    /// Named activations, as [`Backend::stage`](crate::backend::Backend::stage) names them.
    pub stages: Vec<(String, Value)>,
    /// Class logits `[batch, queries, classes]` and boxes `[batch, queries, 4]`.
    pub outputs: Option<[Value; 2]>,
}

/// A part of a network, for its time to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Backbone,
    Encoder,
    Decoder,
    Heads,
}

impl Part {
    pub fn of(layer: &str) -> Self {
        match layer.split('.').next().unwrap_or(layer).trim_end_matches(|c: char| c.is_ascii_digit()) {
            "backbone" => Self::Backbone,
            "input_projection" | "encoder" | "neck" | "projection" => Self::Encoder,
            "class_head" | "box_head" | "initial_box" | "quality_head" | "fixed" => Self::Heads,
            _ => Self::Decoder,
        }
    }
}

impl Graph {
    /// Class logits and boxes.
    pub fn outputs(&self) -> Result<&[Value; 2]> {
        self.outputs.as_ref().ok_or_else(|| Error::Config("the network was traced without its outputs".into()))
    }

    /// For each node, whether its value depends on the pixels.
    pub fn depends_on_input(&self) -> Vec<bool> {
        let mut depends: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            depends.push(node.op == Op::Input || node.inputs.iter().any(|input| depends[input.id]));
        }
        depends
    }

    /// For each node, the last node that reads its value; its own number where nothing does.
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for node in &self.nodes {
            node.inputs.iter().for_each(|input| last[input.id] = node.output.id);
        }
        last
    }

    /// The values that are computed from the pixels before node `at` and read from there on: a cut point's tensors. The outputs are read in the
    /// end.
    pub fn live(&self, at: usize) -> Vec<usize> {
        let (last, depends) = (self.last_uses(), self.depends_on_input());
        let is_output = |id: usize| self.outputs.as_ref().is_some_and(|outputs| outputs.iter().any(|output| output.id == id));
        (0..at.min(self.nodes.len())).filter(|&id| depends[id] && (last[id] >= at || is_output(id))).collect()
    }

    /// The first node that uses a layer whose name `is` true of.
    pub fn first_of(&self, is: impl Fn(&str) -> bool) -> Option<usize> {
        self.nodes.iter().position(|node| node.layer.as_deref().is_some_and(&is))
    }
}
