//! A backend that computes nothing: it runs the network once on shapes and records the graph of its operations (`graph.rs`).

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::{Activation, Architecture};
use crate::error::{Error, Result};
use crate::graph::{Graph, Layer, LayerKind, Node, Op, Value};
use crate::layout::{Entry, Role};
use crate::model::{FIXED, Network, PixelMask, Source};
use crate::weights::{Data, HostTensor};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The graph of a network for pixels `[batch, height, width, 3]`; `mask` where the batch is padded. Fails where the input is too small for the
/// network, or its sides don't go with its strides.
pub fn trace(architecture: &Architecture, [batch, height, width]: [usize; 3], mask: Option<&PixelMask>) -> Result<Graph> {
    let tracer = Tracer::default();
    let network = Network::load(&tracer, architecture, &Shapes::default())?;
    let pixels = tracer.input(&[batch, height, width, 3])?;
    let outputs = network.forward(&tracer, &pixels, mask)?;
    let mut graph = tracer.into_graph();
    graph.outputs = Some([outputs.logits, outputs.boxes]);
    Ok(graph)
}

/// As [`trace`] for one image of `height` × `width`, but of an input that is too small for the network: as far as it comes.
pub fn trace_as_far(architecture: &Architecture, [height, width]: [usize; 2]) -> Graph {
    let tracer = Tracer::default();
    let traced = Network::load(&tracer, architecture, &Shapes::default())
        .and_then(|network| network.forward(&tracer, &tracer.input(&[1, height, width, 3])?, None));
    drop(traced);
    tracer.into_graph()
}

/// Shapes of learnt tensors that are no layer's, `[1, …]`, by their names.
pub type Learnt = BTreeMap<String, Vec<usize>>;

/// All layers of a network by their names, and its learnt tensors that are no layer's.
pub fn layers(architecture: &Architecture) -> Result<(BTreeMap<String, Layer>, Learnt)> {
    let tracer = Tracer::default();
    Network::load(&tracer, architecture, &Shapes::default())?;
    let Graph { nodes, layers, .. } = tracer.into_graph();
    let learnt = nodes.into_iter().filter_map(|node| if let Op::Parameter(name) = node.op { Some((name, node.output.shape)) } else { None });
    Ok((layers, learnt.collect()))
}

/// Records.
#[derive(Debug, Default)]
pub struct Tracer(RefCell<Graph>);

/// A layer as far as shapes go.
pub struct Traced {
    name: String,
    outputs: usize,
    window: Option<Window>,
}

impl Tracer {
    pub fn into_graph(self) -> Graph {
        self.0.into_inner()
    }

    /// The pixels, or whatever else comes from outside.
    pub fn input(&self, shape: &[usize]) -> Result<Value> {
        self.record(Op::Input, None, &[], None, shape.to_vec())
    }

    fn layer(&self, name: &str, kind: LayerKind, weight: &HostTensor, bias: Option<&HostTensor>) -> Traced {
        // A name that no file has: the numbers are part of the graph.
        let fixed = bias.filter(|_| name.starts_with(FIXED)).map(|bias| Arc::new((weight.clone(), bias.clone())));
        self.0.borrow_mut().layers.insert(name.into(), Layer { kind, weight: weight.shape.clone(), fixed });
        let (outputs, window) = match kind {
            LayerKind::Conv { window, .. } => (weight.shape.first(), Some(window)),
            LayerKind::Depthwise { window, .. } => (weight.shape.last(), Some(window)),
            LayerKind::Linear | LayerKind::Norm { .. } => (weight.shape.first(), None),
        };
        Traced { name: name.into(), outputs: outputs.copied().unwrap_or_default(), window }
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

impl Backend for Tracer {
    type Tensor = Value;
    type Indices = Value;
    type Conv = Traced;
    type Depthwise = Traced;
    type Linear = Traced;
    type Norm = Traced;

    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Traced> {
        Ok(self.layer(name, LayerKind::Conv { window, affine: affine.is_some() }, weight, Some(bias)))
    }

    fn load_depthwise(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Traced> {
        Ok(self.layer(name, LayerKind::Depthwise { window, affine: affine.is_some() }, weight, Some(bias)))
    }

    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Traced> {
        Ok(self.layer(name, LayerKind::Linear, weight, Some(bias)))
    }

    fn load_norm(&self, name: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Traced> {
        Ok(self.layer(name, LayerKind::Norm { epsilon, bias: bias.is_some() }, weight, bias))
    }

    fn constant(&self, tensor: &HostTensor) -> Result<Value> {
        self.record(Op::Constant(Arc::new(tensor.clone())), None, &[], None, tensor.shape.clone())
    }

    fn learnt(&self, name: &str, tensor: &HostTensor) -> Result<Value> {
        self.record(Op::Parameter(name.into()), None, &[], None, tensor.shape.clone())
    }

    fn shape(&self, x: &Value) -> Vec<usize> {
        x.shape.clone()
    }

    fn reshape(&self, x: &Value, shape: &[usize]) -> Result<Value> {
        self.record(Op::Reshape, None, &[x], None, shape.to_vec())
    }

    fn conv(&self, x: &Value, conv: &Traced, activation: Activation, residual: Option<&Value>) -> Result<Value> {
        let Some(window) = conv.window else { return Err(Error::Config(format!("{} has no window", conv.name))) };
        self.slide(Op::Conv(window, activation), Some(&conv.name), x, residual, window, conv.outputs)
    }

    fn depthwise(&self, x: &Value, conv: &Traced, activation: Activation) -> Result<Value> {
        let Some(window) = conv.window else { return Err(Error::Config(format!("{} has no window", conv.name))) };
        self.slide(Op::Depthwise(window, activation), Some(&conv.name), x, None, window, conv.outputs)
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

    fn linear(&self, x: &Value, linear: &Traced, activation: Activation, residual: Option<&Value>) -> Result<Value> {
        self.with_last(Op::Linear(activation), Some(&linear.name), x, residual, linear.outputs)
    }

    fn attention(&self, q: &Value, k: &Value, v: &Value, heads: usize, bias: Option<&Value>) -> Result<Value> {
        let width = v.shape.last().copied().unwrap_or_default();
        let inputs: Vec<&Value> = [q, k, v].into_iter().chain(bias).collect();
        self.record(Op::Attention { heads }, None, &inputs, None, [&q.shape[..2], &[width]].concat())
    }

    fn deformable_attention(&self, value: &Value, offsets: &Value, weights: &Value, boxes: &Value, deformable: &Deformable) -> Result<Value> {
        let width = value.shape.last().copied().unwrap_or_default();
        let shape = [&offsets.shape[..2], &[width]].concat();
        self.record(Op::Deformable(deformable.clone()), None, &[value, offsets, weights, boxes], None, shape)
    }

    fn norm(&self, x: &Value, norm: &Traced) -> Result<Value> {
        self.record(Op::Norm, Some(&norm.name), &[x], None, x.shape.clone())
    }

    fn add(&self, a: &Value, b: &Value, activation: Activation) -> Result<Value> {
        self.record(Op::Add(activation), None, &[a, b], None, a.shape.clone())
    }

    fn multiply(&self, a: &Value, b: &Value) -> Result<Value> {
        self.record(Op::Multiply, None, &[a, b], None, a.shape.clone())
    }

    fn activate(&self, x: &Value, activation: Activation) -> Result<Value> {
        self.record(Op::Activate(activation), None, &[x], None, x.shape.clone())
    }

    fn clamp(&self, x: &Value, min: f32, max: f32) -> Result<Value> {
        self.record(Op::Clamp { min, max }, None, &[x], None, x.shape.clone())
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
        self.record(Op::IndexValues, None, &[indices], None, indices.shape.clone())
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
