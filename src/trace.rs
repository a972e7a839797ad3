//! A backend that computes nothing: it runs the network once on shapes and records the graph of its operations. What a network consists of
//! and what it costs is derived from that (`layout.rs`, `eval/operations.rs`), as Torch-Pruning's DepGraph traces a model (Fang et al., 2023,
//! arXiv:2301.12900).

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::layout::{Entry, Role};
use crate::model::Source;
use crate::weights::{Data, HostTensor};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A tensor without numbers: which of the graph's values it is, and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub id: usize,
    pub shape: Vec<usize>,
}

/// What a node of the graph does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// What is put in, or doesn't depend on it.
    Constant,
    Reshape,
    Conv(Window),
    Depthwise(Window),
    Linear,
    Norm,
    Pool(Window, Pool),
    Upsample,
    Concat {
        axis: usize,
    },
    Narrow {
        start: usize,
    },
    Attention {
        heads: usize,
    },
    Deformable(Deformable),
    Add,
    Multiply,
    Activate(Activation),
    Clamp,
    Softmax,
    TopValues,
    TopTokens,
    Gather,
}

/// One operation: what it reads and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub op: Op,
    /// The layer whose weights it uses, if it has any.
    pub layer: Option<String>,
    pub inputs: Vec<Value>,
    /// Whether the last input is a residual.
    pub residual: bool,
    pub output: Value,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// Named values, as [`Backend::stage`] names them.
    pub stages: Vec<(String, Value)>,
}

/// Records.
#[derive(Debug, Default)]
pub struct Tracer(RefCell<Graph>);

/// A layer as far as shapes go.
pub struct Layer {
    name: String,
    outputs: usize,
    window: Option<Window>,
}

impl Tracer {
    pub fn into_graph(self) -> Graph {
        self.0.into_inner()
    }

    fn record(&self, op: Op, layer: Option<&str>, inputs: &[&Value], residual: Option<&Value>, shape: Vec<usize>) -> Result<Value> {
        if shape.contains(&0) {
            return Err(Error::Config(format!("the input is too small for this network: a feature map would be {shape:?}")));
        }
        let mut graph = self.0.borrow_mut();
        let output = Value { id: graph.nodes.len(), shape };
        let inputs = inputs.iter().copied().chain(residual).cloned().collect();
        graph.nodes.push(Node { op, layer: layer.map(Into::into), inputs, residual: residual.is_some(), output: output.clone() });
        Ok(output)
    }

    /// As [`Tracer::record`] for an output of `x`'s shape but for its last axis.
    fn with_last(&self, op: Op, layer: Option<&str>, x: &Value, residual: Option<&Value>, last: usize) -> Result<Value> {
        let mut shape = x.shape.clone();
        if let Some(width) = shape.last_mut() {
            *width = last;
        }
        self.record(op, layer, &[x], residual, shape)
    }

    fn slide(&self, op: Op, layer: Option<&str>, x: &Value, residual: Option<&Value>, window: Window, channels: usize) -> Result<Value> {
        let [batch, height, width, _] = x.shape[..] else { return Err(Error::Config(format!("a window on shape {:?}", x.shape))) };
        let place = window.place(height, width);
        self.record(op, layer, &[x], residual, vec![batch, place.out_height, place.out_width, channels])
    }
}

fn outputs(tensor: &HostTensor) -> usize {
    tensor.shape.first().copied().unwrap_or_default()
}

impl Backend for Tracer {
    type Tensor = Value;
    type Indices = Value;
    type Conv = Layer;
    type Depthwise = Layer;
    type Linear = Layer;
    type Norm = Layer;

    fn load_conv(&self, name: &str, weight: &HostTensor, _: &HostTensor, _: Option<&HostTensor>, window: Window) -> Result<Layer> {
        Ok(Layer { name: name.into(), outputs: outputs(weight), window: Some(window) })
    }

    fn load_depthwise(&self, name: &str, _: &HostTensor, bias: &HostTensor, _: Option<&HostTensor>, window: Window) -> Result<Layer> {
        Ok(Layer { name: name.into(), outputs: outputs(bias), window: Some(window) })
    }

    fn load_linear(&self, name: &str, weight: &HostTensor, _: &HostTensor) -> Result<Layer> {
        Ok(Layer { name: name.into(), outputs: outputs(weight), window: None })
    }

    fn load_norm(&self, name: &str, weight: &HostTensor, _: Option<&HostTensor>, _: f32) -> Result<Layer> {
        Ok(Layer { name: name.into(), outputs: outputs(weight), window: None })
    }

    fn constant(&self, tensor: &HostTensor) -> Result<Value> {
        self.record(Op::Constant, None, &[], None, tensor.shape.clone())
    }

    fn shape(&self, x: &Value) -> Vec<usize> {
        x.shape.clone()
    }

    fn reshape(&self, x: &Value, shape: &[usize]) -> Result<Value> {
        self.record(Op::Reshape, None, &[x], None, shape.to_vec())
    }

    fn conv(&self, x: &Value, conv: &Layer, _: Activation, residual: Option<&Value>) -> Result<Value> {
        let Some(window) = conv.window else { return Err(Error::Config(format!("{} has no window", conv.name))) };
        self.slide(Op::Conv(window), Some(&conv.name), x, residual, window, conv.outputs)
    }

    fn depthwise(&self, x: &Value, conv: &Layer, _: Activation) -> Result<Value> {
        let Some(window) = conv.window else { return Err(Error::Config(format!("{} has no window", conv.name))) };
        self.slide(Op::Depthwise(window), Some(&conv.name), x, None, window, conv.outputs)
    }

    fn pool(&self, x: &Value, window: Window, pool: Pool) -> Result<Value> {
        self.slide(Op::Pool(window, pool), None, x, None, window, x.shape.last().copied().unwrap_or_default())
    }

    fn upsample(&self, x: &Value) -> Result<Value> {
        let [batch, height, width, channels] = x.shape[..] else { return Err(Error::Config(format!("upsampling of shape {:?}", x.shape))) };
        self.record(Op::Upsample, None, &[x], None, vec![batch, 2 * height, 2 * width, channels])
    }

    fn concat(&self, parts: &[&Value], axis: usize) -> Result<Value> {
        let mut shape = parts.first().map(|part| part.shape.clone()).unwrap_or_default();
        match shape.get_mut(axis) {
            Some(side) => *side = parts.iter().map(|part| part.shape[axis]).sum(),
            None => return Err(Error::Config(format!("no axis {axis} to join {} tensors on", parts.len()))),
        }
        self.record(Op::Concat { axis }, None, parts, None, shape)
    }

    fn narrow(&self, x: &Value, start: usize, length: usize) -> Result<Value> {
        self.with_last(Op::Narrow { start }, None, x, None, length)
    }

    fn linear(&self, x: &Value, linear: &Layer, _: Activation, residual: Option<&Value>) -> Result<Value> {
        self.with_last(Op::Linear, Some(&linear.name), x, residual, linear.outputs)
    }

    fn attention(&self, q: &Value, k: &Value, v: &Value, heads: usize, _: Option<&Value>) -> Result<Value> {
        let width = v.shape.last().copied().unwrap_or_default();
        self.record(Op::Attention { heads }, None, &[q, k, v], None, [&q.shape[..2], &[width]].concat())
    }

    fn deformable_attention(&self, value: &Value, offsets: &Value, weights: &Value, boxes: &Value, deformable: &Deformable) -> Result<Value> {
        let width = value.shape.last().copied().unwrap_or_default();
        let shape = [&offsets.shape[..2], &[width]].concat();
        self.record(Op::Deformable(deformable.clone()), None, &[value, offsets, weights, boxes], None, shape)
    }

    fn norm(&self, x: &Value, norm: &Layer) -> Result<Value> {
        self.record(Op::Norm, Some(&norm.name), &[x], None, x.shape.clone())
    }

    fn add(&self, a: &Value, b: &Value, _: Activation) -> Result<Value> {
        self.record(Op::Add, None, &[a, b], None, a.shape.clone())
    }

    fn multiply(&self, a: &Value, b: &Value) -> Result<Value> {
        self.record(Op::Multiply, None, &[a, b], None, a.shape.clone())
    }

    fn activate(&self, x: &Value, activation: Activation) -> Result<Value> {
        self.record(Op::Activate(activation), None, &[x], None, x.shape.clone())
    }

    fn clamp(&self, x: &Value, _: f32, _: f32) -> Result<Value> {
        self.record(Op::Clamp, None, &[x], None, x.shape.clone())
    }

    fn softmax(&self, x: &Value) -> Result<Value> {
        self.record(Op::Softmax, None, &[x], None, x.shape.clone())
    }

    fn top_values(&self, x: &Value, k: usize) -> Result<Value> {
        self.with_last(Op::TopValues, None, x, None, k)
    }

    fn top_tokens(&self, scores: &Value, k: usize) -> Result<Value> {
        self.record(Op::TopTokens, None, &[scores], None, vec![scores.shape[0], k])
    }

    fn gather(&self, x: &Value, indices: &Value) -> Result<Value> {
        let width = x.shape.last().copied().unwrap_or_default();
        self.record(Op::Gather, None, &[x, indices], None, [&indices.shape[..], &[width]].concat())
    }

    fn index_values(&self, indices: &Value) -> Result<Value> {
        self.record(Op::Reshape, None, &[indices], None, indices.shape.clone())
    }

    fn stage(&self, name: &str, x: &Value) -> Result<()> {
        self.0.borrow_mut().stages.push((name.into(), x.clone()));
        Ok(())
    }
}

/// Weights without numbers: whatever is asked for is there, and is listed.
#[derive(Debug, Default)]
pub struct Shapes {
    entries: RefCell<Vec<Entry>>,
    sized: RefCell<BTreeSet<String>>,
}

impl Shapes {
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries.into_inner()
    }

    /// The names of all sizes that the network has asked for: those that pruning may change.
    pub fn sized(&self) -> BTreeSet<String> {
        self.sized.borrow().clone()
    }
}

impl Source for Shapes {
    fn sized(&self, name: &str) {
        self.sized.borrow_mut().insert(name.into());
    }

    fn get(&self, name: &str, shape: &[usize], role: Role) -> Result<Cow<'_, HostTensor>> {
        self.entries.borrow_mut().push(Entry { name: name.into(), shape: shape.to_vec(), role });
        // Not `HostTensor::f32`, which wants as many numbers as the shape has.
        Ok(Cow::Owned(HostTensor { shape: shape.to_vec(), data: Data::F32(Vec::new()) }))
    }
}
