//! Runs a network on a backend: its layers are loaded once, its graph is traced for each shape of input, and nodes are computed one after
//! another. The network's own code (`model/`) runs on shapes only, so that what a device needs is this one file, whatever the architecture.

use crate::backend::Backend;
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::graph::{Graph, Layer, LayerKind, Node, Op};
use crate::model::{Output, PixelMask};
use crate::trace::{layers, trace};
use crate::watch::{Observe, Seen};
use crate::weights::Weights;
use std::collections::BTreeMap;
use std::ops::Range;

/// A network's weights on a device.
pub struct Session<B: Backend> {
    architecture: Architecture,
    layers: BTreeMap<String, Loaded<B>>,
    /// Learnt tensors that are no layer's, `[1, …]`.
    parameters: BTreeMap<String, B::Tensor>,
}

/// A layer's weights, prepared for the device.
enum Loaded<B: Backend> {
    Conv(B::Conv),
    Depthwise(B::Depthwise),
    Linear(B::Linear),
    Norm(B::Norm),
}

/// A network's graph for one shape of input, and the values in it that don't depend on the pixels.
pub struct Prepared<B: Backend> {
    pub graph: Graph,
    /// For each node, the last one that reads its value.
    last_uses: Vec<usize>,
    /// Whether it is computed in each run.
    runs: Vec<bool>,
    /// What is computed once.
    known: Values<B>,
}

/// The value of each node, where it is known.
pub struct Values<B: Backend>(Vec<Option<Slot<B>>>);

enum Slot<B: Backend> {
    Tensor(B::Tensor),
    Indices(B::Indices),
}

impl<B: Backend> Clone for Slot<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.clone()),
            Self::Indices(indices) => Self::Indices(indices.clone()),
        }
    }
}

impl<B: Backend> Clone for Values<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Values<B> {
    /// Fails where the value isn't there, or isn't a tensor.
    pub fn tensor(&self, id: usize) -> Result<&B::Tensor> {
        match self.0.get(id) {
            Some(Some(Slot::Tensor(tensor))) => Ok(tensor),
            _ => Err(Error::Config(format!("the graph reads value {id} before it is computed"))),
        }
    }

    /// Fails where the value isn't there, or isn't a top-k's.
    pub fn indices(&self, id: usize) -> Result<&B::Indices> {
        match self.0.get(id) {
            Some(Some(Slot::Indices(indices))) => Ok(indices),
            _ => Err(Error::Config(format!("the graph reads the indices {id} before they are computed"))),
        }
    }

    /// States a value that isn't computed: the pixels, or a cut point's tensor.
    pub fn set(&mut self, id: usize, tensor: B::Tensor) {
        if let Some(slot) = self.0.get_mut(id) {
            *slot = Some(Slot::Tensor(tensor));
        }
    }

    /// As [`Values::set`], of chosen tokens.
    pub fn set_indices(&mut self, id: usize, indices: B::Indices) {
        if let Some(slot) = self.0.get_mut(id) {
            *slot = Some(Slot::Indices(indices));
        }
    }
}

/// Sees nothing.
pub struct Unobserved;

impl<T> Observe<T> for Unobserved {}

impl<B: Backend> Session<B> {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `architecture`.
    pub fn load(backend: &B, architecture: &Architecture, weights: &Weights) -> Result<Self> {
        let (layers, parameters) = layers(architecture)?;
        let layers = layers.iter().map(|(name, layer)| Ok((name.clone(), load(backend, name, layer, weights)?)));
        let parameters = parameters.iter().map(|(name, shape)| {
            let mut tensor = weights.get(name, &shape[1..])?.clone();
            tensor.shape.insert(0, 1);
            Ok((name.clone(), backend.constant(&tensor)?))
        });
        Ok(Self { architecture: architecture.clone(), layers: layers.collect::<Result<_>>()?, parameters: parameters.collect::<Result<_>>()? })
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The network for pixels `[batch, height, width, 3]`; `mask` where the batch is padded. What doesn't depend on the pixels is computed here
    /// and now (constant folding), and shown to no observer of a run.
    pub fn prepare(&self, backend: &B, shape: [usize; 3], mask: Option<&PixelMask>) -> Result<Prepared<B>> {
        let mut prepared = self.prepare_unfolded(shape, mask)?;
        let Prepared { graph, last_uses, runs, known } = &mut prepared;
        *runs = graph.depends_on_input();
        for node in graph.nodes.iter().filter(|node| !runs[node.output.id]) {
            known.0[node.output.id] = Some(self.compute(backend, node, known)?);
        }
        // What only constants were made of isn't needed again.
        let mut needed: Vec<bool> = last_uses.iter().map(|&last| last == usize::MAX).collect();
        for node in graph.nodes.iter().filter(|node| runs[node.output.id]) {
            node.inputs.iter().for_each(|input| needed[input.id] = true);
        }
        known.0.iter_mut().zip(needed).filter(|(_, needed)| !needed).for_each(|(slot, _)| *slot = None);
        Ok(prepared)
    }

    /// As [`Session::prepare`], but everything is computed in each run, so that an observer sees all of it.
    pub fn prepare_unfolded(&self, shape: [usize; 3], mask: Option<&PixelMask>) -> Result<Prepared<B>> {
        let graph = trace(&self.architecture, shape, mask)?;
        let mut last_uses = graph.last_uses();
        graph.outputs()?.iter().for_each(|output| last_uses[output.id] = usize::MAX);
        let known = Values(graph.nodes.iter().map(|_| None).collect());
        Ok(Prepared { last_uses, runs: vec![true; graph.nodes.len()], known, graph })
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised.
    pub fn run(&self, backend: &B, prepared: &Prepared<B>, pixels: B::Tensor, observer: &mut dyn Observe<B::Tensor>) -> Result<Output<B::Tensor>> {
        let mut values = prepared.start(pixels)?;
        self.advance(backend, prepared, 0..prepared.graph.nodes.len(), &mut values, observer)?;
        prepared.outputs(&values)
    }

    /// Computes the nodes of a range from the values that are there, which are those of [`Graph::live`] at its beginning, but for nodes whose
    /// value is there already. A value that nothing reads any more is given up.
    pub fn advance(
        &self,
        backend: &B,
        prepared: &Prepared<B>,
        range: Range<usize>,
        values: &mut Values<B>,
        observer: &mut dyn Observe<B::Tensor>,
    ) -> Result<()> {
        let Prepared { graph, last_uses, runs, .. } = prepared;
        for node in graph.nodes.get(range).unwrap_or_default() {
            let id = node.output.id;
            if runs[id] && values.0[id].is_none() {
                observer.node(node)?;
                values.0[id] = Some(self.compute(backend, node, values)?);
                show(graph, node, values, observer)?;
            }
            for input in node.inputs.iter().filter(|input| last_uses[input.id] == id) {
                values.0[input.id] = None;
            }
            // A name for what nothing reads.
            if last_uses[id] == id {
                values.0[id] = None;
            }
        }
        Ok(())
    }

    fn compute(&self, backend: &B, node: &Node, values: &Values<B>) -> Result<Slot<B>> {
        let input = |i: usize| match node.inputs.get(i) {
            Some(input) => values.tensor(input.id),
            None => Err(unfit(node)),
        };
        let residual = || node.inputs.last().filter(|_| node.residual).map(|residual| values.tensor(residual.id)).transpose();
        let layer = || node.layer.as_ref().and_then(|name| self.layers.get(name)).ok_or_else(|| unfit(node));
        let last = || node.output.shape.last().copied().unwrap_or_default();
        Ok(Slot::Tensor(match &node.op {
            Op::Input => return Err(Error::Config("the network was given no pixels".into())),
            Op::Constant(tensor) => backend.constant(tensor)?,
            Op::Parameter(name) => self.parameters.get(name).cloned().ok_or_else(|| unfit(node))?,
            Op::Reshape => backend.reshape(input(0)?, &node.output.shape)?,
            Op::Conv(_, activation) => match layer()? {
                Loaded::Conv(conv) => backend.conv(input(0)?, conv, *activation, residual()?)?,
                _ => return Err(unfit(node)),
            },
            Op::Depthwise(_, activation) => match layer()? {
                Loaded::Depthwise(conv) => backend.depthwise(input(0)?, conv, *activation)?,
                _ => return Err(unfit(node)),
            },
            Op::Linear(activation) => match layer()? {
                Loaded::Linear(linear) => backend.linear(input(0)?, linear, *activation, residual()?)?,
                _ => return Err(unfit(node)),
            },
            Op::Norm => match layer()? {
                Loaded::Norm(norm) => backend.norm(input(0)?, norm)?,
                _ => return Err(unfit(node)),
            },
            Op::Pool(window, pool) => backend.pool(input(0)?, *window, *pool)?,
            Op::Upsample => backend.upsample(input(0)?)?,
            Op::Concat { axis } => {
                let parts = node.inputs.iter().map(|part| values.tensor(part.id)).collect::<Result<Vec<_>>>()?;
                backend.concat(&parts, *axis)?
            }
            Op::Narrow { start } => backend.narrow(input(0)?, *start, last())?,
            Op::Attention { heads } => {
                let bias = node.inputs.get(3).map(|bias| values.tensor(bias.id)).transpose()?;
                backend.attention(input(0)?, input(1)?, input(2)?, *heads, bias)?
            }
            Op::Deformable(deformable) => backend.deformable_attention(input(0)?, input(1)?, input(2)?, input(3)?, deformable)?,
            Op::Add(activation) => backend.add(input(0)?, input(1)?, *activation)?,
            Op::Multiply => backend.multiply(input(0)?, input(1)?)?,
            Op::Activate(activation) => backend.activate(input(0)?, *activation)?,
            Op::Clamp { min, max } => backend.clamp(input(0)?, *min, *max)?,
            Op::Softmax => backend.softmax(input(0)?)?,
            Op::TopValues => backend.top_values(input(0)?, last())?,
            Op::TopTokens => return Ok(Slot::Indices(backend.top_tokens(input(0)?, last())?)),
            Op::Gather => {
                let Some(chosen) = node.inputs.get(1) else { return Err(unfit(node)) };
                backend.gather(input(0)?, values.indices(chosen.id)?)?
            }
            Op::IndexValues => {
                let Some(chosen) = node.inputs.first() else { return Err(unfit(node)) };
                backend.index_values(values.indices(chosen.id)?)?
            }
        }))
    }
}

impl<B: Backend> Prepared<B> {
    /// What a run begins with.
    pub fn start(&self, pixels: B::Tensor) -> Result<Values<B>> {
        let input = self.graph.nodes.iter().find(|node| node.op == Op::Input);
        let mut values = self.known.clone();
        values.set(input.ok_or_else(|| Error::Config("the network takes no pixels".into()))?.output.id, pixels);
        Ok(values)
    }

    /// What a run has ended with.
    pub fn outputs(&self, values: &Values<B>) -> Result<Output<B::Tensor>> {
        let [logits, boxes] = self.graph.outputs()?;
        Ok(Output { logits: values.tensor(logits.id)?.clone(), boxes: values.tensor(boxes.id)?.clone() })
    }
}

fn load<B: Backend>(backend: &B, name: &str, layer: &Layer, weights: &Weights) -> Result<Loaded<B>> {
    let tensor = |part: &str, shape: &[usize]| weights.get(&format!("{name}.{part}"), shape);
    let bias_shape = layer.bias();
    let (weight, bias) = match (&layer.fixed, &bias_shape) {
        (Some(fixed), _) => (&fixed.0, Some(&fixed.1)),
        (None, Some(bias)) => (tensor("weight", &layer.weight)?, Some(tensor("bias", bias)?)),
        (None, None) => (tensor("weight", &layer.weight)?, None),
    };
    let affine = layer.has_affine().then(|| tensor("affine", &[2])).transpose()?;
    Ok(match (layer.kind, bias) {
        (LayerKind::Norm { epsilon, .. }, bias) => Loaded::Norm(backend.load_norm(name, weight, bias, epsilon)?),
        (LayerKind::Conv { window, .. }, Some(bias)) => Loaded::Conv(backend.load_conv(name, weight, bias, affine, window)?),
        (LayerKind::Depthwise { window, .. }, Some(bias)) => Loaded::Depthwise(backend.load_depthwise(name, weight, bias, affine, window)?),
        (LayerKind::Linear, Some(bias)) => Loaded::Linear(backend.load_linear(name, weight, bias)?),
        (_, None) => return Err(Error::Config(format!("{name} has no bias"))),
    })
}

/// Shows an observer what a node has computed.
fn show<B: Backend>(graph: &Graph, node: &Node, values: &Values<B>, observer: &mut dyn Observe<B::Tensor>) -> Result<()> {
    let of_layer = match &node.op {
        Op::Conv(window, activation) | Op::Depthwise(window, activation) => Some((Some(*window), *activation)),
        Op::Linear(activation) => Some((None, *activation)),
        _ => None,
    };
    if let (Some((window, activation)), Some(layer), [input, ..]) = (of_layer, &node.layer, &node.inputs[..]) {
        let residual = node.inputs.last().filter(|_| node.residual).map(|residual| values.tensor(residual.id)).transpose()?;
        let output = values.tensor(node.output.id)?;
        observer.layer(Seen { layer, input: values.tensor(input.id)?, residual, output, window, activation })?;
    }
    if let (Op::Deformable(deformable), [_, offsets, weights, boxes]) = (&node.op, &node.inputs[..]) {
        observer.deformable(values.tensor(offsets.id)?, values.tensor(weights.id)?, values.tensor(boxes.id)?, deformable)?;
    }
    for (name, _) in graph.stages.iter().filter(|(_, value)| value.id == node.output.id) {
        observer.stage(name, values.tensor(node.output.id)?)?;
    }
    Ok(())
}

fn unfit(node: &Node) -> Error {
    let layer = node.layer.as_deref().unwrap_or("no layer");
    Error::Config(format!("node {} of the graph ({layer}) lacks an input, or its weights", node.output.id))
}
