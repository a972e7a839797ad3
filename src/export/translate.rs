//! Which of ONNX's operators each node of a network's graph becomes.
//!
//! Feature maps, channels-last here, are `[batch, channels, height, width]` there, as every runtime has them; tokens stay `[batch, tokens,
//! width]`. So a transpose stands only where a map becomes tokens or tokens a map.

use super::builder::{Builder, Tensor};
use super::proto::{AttributeProto, GraphProto, data_type};
use crate::backend::{Pool, Window};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::graph::{Graph, Layer, LayerKind, Node, Op, Value};
use crate::weights::{Channels, Data, HostTensor, Weights};
use std::borrow::Cow;

pub struct Translator<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    pub builder: Builder,
    stored: bool,
    values: Vec<Option<Tensor>>,
}

/// Where each axis of a channels-last map lies in ONNX's; and so the transpose that makes it channels-last again.
const MAP_AXES: [usize; 4] = [0, 2, 3, 1];
/// From a channels-last map to ONNX's.
const TO_MAP: [usize; 4] = [0, 3, 1, 2];

/// The shape that a value has in ONNX.
fn onnx_shape(shape: &[usize]) -> Vec<usize> {
    if shape.len() == 4 { TO_MAP.map(|axis| shape[axis]).into() } else { shape.into() }
}

impl<'a> Translator<'a> {
    pub fn new(graph: &'a Graph, weights: &'a Weights, builder: Builder, stored: bool) -> Self {
        Self { graph, weights, builder, stored, values: vec![None; graph.nodes.len()] }
    }

    pub fn translate(mut self, name: &str) -> Result<GraphProto> {
        let outputs = self.graph.outputs()?;
        let mut needed = vec![false; self.graph.nodes.len()];
        outputs.iter().for_each(|output| needed[output.id] = true);
        for node in self.graph.nodes.iter().rev() {
            if needed[node.output.id] {
                node.inputs.iter().for_each(|input| needed[input.id] = true);
            }
        }
        for node in self.graph.nodes.iter().filter(|node| needed[node.output.id]) {
            self.builder.enter(node.layer.as_deref());
            let tensor = self.node(node)?;
            let shape = onnx_shape(&node.output.shape);
            if tensor.shape != shape {
                return Err(Error::Config(format!("ONNX: {} would have shape {:?}, not {shape:?}", tensor.name, tensor.shape)));
            }
            self.values[node.output.id] = Some(tensor);
        }
        let [logits, boxes] = [&outputs[0], &outputs[1]].map(|output| self.value(output));
        let name = if name.is_empty() { "detrim" } else { name };
        Ok(self.builder.finish(name, &[("logits", &logits?), ("pred_boxes", &boxes?)]))
    }

    fn value(&self, value: &Value) -> Result<Tensor> {
        self.values.get(value.id).cloned().flatten().ok_or_else(|| Error::Config(format!("the graph reads value {} before it is computed", value.id)))
    }

    fn node(&mut self, node: &Node) -> Result<Tensor> {
        let inputs = node.inputs.iter().map(|input| self.value(input)).collect::<Result<Vec<_>>>()?;
        let shape = onnx_shape(&node.output.shape);
        // Channels are the second axis of a map and the last one of tokens.
        let channels = if shape.len() == 4 { 1 } else { shape.len().saturating_sub(1) };
        Ok(match (&node.op, &inputs[..]) {
            (Op::Input, _) => self.builder.input("pixel_values", &shape),
            (Op::Constant(tensor), _) => {
                let order: Vec<usize> = if shape.len() == 4 { TO_MAP.into() } else { (0..shape.len()).collect() };
                self.builder.floats(&shape, &in_order(&tensor.to_f32(), &tensor.shape, &order))
            }
            (Op::Parameter(name), _) => {
                let tensor = self.weights.named(name)?.clone();
                self.weight(name, &tensor, &(0..tensor.shape.len()).collect::<Vec<_>>(), &shape)
            }
            (Op::Reshape, [x]) => self.reshape(x, &node.inputs[0].shape, &node.output.shape),
            (Op::Conv(window, activation), [x, residual @ ..]) => {
                let (name, layer) = self.layer(node)?;
                let [out, height, width, input] = layer.weight[..] else { return Err(unlike(name)) };
                let weight = self.layer_weight(name, layer, &[0, 3, 1, 2], &[out, input, height, width])?;
                self.conv(name, layer, *window, x, &weight, 1, (*activation, residual.first()), &shape)?
            }
            (Op::Depthwise(window, activation), [x]) => {
                let (name, layer) = self.layer(node)?;
                let [height, width, channels] = layer.weight[..] else { return Err(unlike(name)) };
                let weight = self.layer_weight(name, layer, &[2, 0, 1], &[channels, 1, height, width])?;
                self.conv(name, layer, *window, x, &weight, channels, (*activation, None), &shape)?
            }
            (Op::Linear(activation), [x, residual @ ..]) => {
                let (name, layer) = self.layer(node)?;
                let [out, input] = layer.weight[..] else { return Err(unlike(name)) };
                if shape.len() == 4 {
                    let window = Window::new(1, 1, crate::backend::Padding::Even(0));
                    let weight = self.layer_weight(name, layer, &[0, 1], &[out, input, 1, 1])?;
                    self.conv(name, layer, window, x, &weight, 1, (*activation, residual.first()), &shape)?
                } else {
                    let weight = self.layer_weight(name, layer, &[1, 0], &[input, out])?;
                    let mut y = self.builder.node("MatMul", &[x, &weight], Vec::new(), &shape);
                    if let Some(bias) = self.bias(name, layer)? {
                        y = self.builder.binary("Add", &y, &bias);
                    }
                    self.end(y, residual.first(), *activation)
                }
            }
            (Op::Norm, [x]) => {
                let (name, layer) = self.layer(node)?;
                self.norm(name, layer, x)?
            }
            (Op::Pool(window, pool), [x]) => self.pool(x, *window, *pool, &shape),
            (Op::Upsample, [x]) => {
                let scales = self.builder.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
                let attributes = [("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")];
                let attributes = attributes.map(|(name, value)| AttributeProto::string(name, value)).into();
                self.builder.node("Resize", &[x, &Builder::absent(), &scales], attributes, &shape)
            }
            (Op::Concat { axis }, parts) => self.builder.concat(parts, if shape.len() == 4 { MAP_AXES[*axis] } else { *axis }),
            (Op::Narrow { start }, [x]) => self.builder.slice(x, channels, *start, shape[channels]),
            (Op::Attention { heads }, [query, key, value, bias @ ..]) => self.attention(query, key, value, *heads, bias.first()),
            (Op::Deformable(deformable), [value, offsets, weights, boxes]) => self.deformable(value, offsets, weights, boxes, deformable),
            (Op::Add(activation), [a, b]) => {
                let sum = self.builder.binary("Add", a, b);
                self.builder.activate(sum, *activation)
            }
            (Op::Multiply, [a, b]) => self.builder.binary("Mul", a, b),
            (Op::Activate(activation), [x]) => self.builder.activate(x.clone(), *activation),
            (Op::Clamp { min, max }, [x]) => self.builder.clip(x, *min, *max),
            (Op::Softmax, [x]) => self.builder.softmax(x, channels),
            (Op::TopValues, [x]) => self.top(x, channels, shape[channels]).0,
            (Op::TopTokens, [scores]) => {
                let best = self.builder.reduce("ReduceMax", scores, 2, false);
                self.top(&best, 1, shape[1]).1
            }
            (Op::Gather, [x, indices]) => self.gather(x, indices, &shape),
            (Op::IndexValues, [indices]) => {
                let to = AttributeProto::int("to", i64::from(data_type::FLOAT));
                self.builder.node("Cast", &[indices], vec![to], &shape)
            }
            (op, _) => return Err(Error::Config(format!("ONNX: {op:?} of {} tensors", inputs.len()))),
        })
    }

    fn layer(&self, node: &'a Node) -> Result<(&'a str, &'a Layer)> {
        let name = node.layer.as_deref().unwrap_or_default();
        let layer = self.graph.layers.get(name).ok_or_else(|| Error::Config(format!("the graph has no layer `{name}`")))?;
        Ok((name, layer))
    }

    /// A layer's weight with its axes in this order, as a tensor of this shape.
    fn layer_weight(&mut self, name: &str, layer: &Layer, order: &[usize], shape: &[usize]) -> Result<Tensor> {
        let weights = self.weights;
        let tensor = match &layer.fixed {
            Some(fixed) => Cow::Owned(fixed.0.clone()),
            None => Cow::Borrowed(weights.get(&format!("{name}.weight"), &layer.weight)?),
        };
        Ok(self.weight(&format!("{name}.weight"), &tensor, order, shape))
    }

    /// A layer's bias, but for one of zeros.
    fn bias(&mut self, name: &str, layer: &Layer) -> Result<Option<Tensor>> {
        let Some(shape) = layer.bias().filter(|_| layer.fixed.is_none()) else { return Ok(None) };
        let name = format!("{name}.bias");
        let tensor = self.weights.get(&name, &shape)?.clone();
        Ok(Some(self.weight(&name, &tensor, &[0], &shape)))
    }

    /// Stored numbers with their axes in this order, as a tensor of this shape, and what makes floats of them.
    fn weight(&mut self, name: &str, tensor: &HostTensor, order: &[usize], shape: &[usize]) -> Tensor {
        let builder = &mut self.builder;
        match &tensor.data {
            Data::F16(data) if self.stored => {
                let bytes = || in_order(data, &tensor.shape, order).into_iter().flat_map(|x| x.to_le_bytes()).collect();
                let half = builder.initializer(name, shape, data_type::FLOAT16, bytes);
                builder.node("Cast", &[&half], vec![AttributeProto::int("to", i64::from(data_type::FLOAT))], shape)
            }
            Data::I8(int8) if self.stored => {
                let bytes = || in_order(&int8.values, &tensor.shape, order).into_iter().map(|value| value as u8).collect();
                let values = builder.initializer(name, shape, data_type::INT8, bytes);
                let scales = || int8.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                let scale = builder.initializer(&format!("{name}.scale"), &[int8.scales.len()], data_type::FLOAT, scales);
                let channels = match int8.channels {
                    Channels::First => 0,
                    Channels::Last => tensor.shape.len() - 1,
                };
                // A depthwise convolution's new axis comes after its channels.
                let axis = order.iter().position(|&from| from == channels).unwrap_or_default();
                builder.node("DequantizeLinear", &[&values, &scale], vec![AttributeProto::int("axis", axis as i64)], shape)
            }
            _ => {
                let bytes = || in_order(&tensor.to_f32(), &tensor.shape, order).into_iter().flat_map(|x| x.to_le_bytes()).collect();
                builder.initializer(name, shape, data_type::FLOAT, bytes)
            }
        }
    }

    /// A convolution with all that follows it; the weight is ONNX's.
    #[allow(clippy::too_many_arguments)]
    fn conv(
        &mut self,
        name: &str,
        layer: &Layer,
        window: Window,
        x: &Tensor,
        weight: &Tensor,
        groups: usize,
        (activation, residual): (Activation, Option<&Tensor>),
        shape: &[usize],
    ) -> Result<Tensor> {
        let bias = self.bias(name, layer)?;
        let mut attributes = window_attributes(window, x);
        attributes.push(AttributeProto::ints("dilations", [window.dilation; 2]));
        attributes.push(AttributeProto::int("group", groups as i64));
        let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(&bias).collect();
        let y = self.builder.node("Conv", &inputs, attributes, shape);
        let y = self.end(y, residual, activation);
        if !layer.has_affine() {
            return Ok(y);
        }
        let affine = self.weights.get(&format!("{name}.affine"), &[2])?.to_f32();
        let (scale, shift) = (self.builder.float(affine[0]), self.builder.float(affine[1]));
        let y = self.builder.binary("Mul", &y, &scale);
        Ok(self.builder.binary("Add", &y, &shift))
    }

    /// activation(y + residual)
    fn end(&mut self, y: Tensor, residual: Option<&Tensor>, activation: Activation) -> Tensor {
        let y = match residual {
            Some(residual) => self.builder.binary("Add", &y, residual),
            None => y,
        };
        self.builder.activate(y, activation)
    }

    fn norm(&mut self, name: &str, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let LayerKind::Norm { epsilon, .. } = layer.kind else { return Err(unlike(name)) };
        if x.shape.len() == 4 {
            return Err(Error::Config(format!("ONNX: {name} is a norm on a feature map")));
        }
        let weight = self.layer_weight(name, layer, &[0], &layer.weight)?;
        let builder = &mut self.builder;
        let axis = x.shape.len() - 1;
        if layer.bias().is_none() {
            let square = builder.binary("Mul", x, x);
            let mean = builder.reduce("ReduceMean", &square, axis, true);
            let epsilon = builder.float(epsilon);
            let shifted = builder.binary("Add", &mean, &epsilon);
            let root = builder.unary("Sqrt", &shifted);
            let even = builder.binary("Div", x, &root);
            return Ok(builder.binary("Mul", &even, &weight));
        }
        let bias = self.bias(name, layer)?;
        let inputs: Vec<&Tensor> = [x, &weight].into_iter().chain(&bias).collect();
        let attributes = vec![AttributeProto::int("axis", axis as i64), AttributeProto::float("epsilon", epsilon)];
        Ok(self.builder.node("LayerNormalization", &inputs, attributes, &x.shape))
    }

    fn pool(&mut self, x: &Tensor, window: Window, pool: Pool, shape: &[usize]) -> Tensor {
        let mut attributes = window_attributes(window, x);
        if matches!(pool, Pool::Average | Pool::AverageWithin) {
            if window.kernel == x.shape[2..] && shape[2..] == [1, 1] {
                return self.builder.node("GlobalAveragePool", &[x], Vec::new(), shape);
            }
            attributes.push(AttributeProto::int("count_include_pad", i64::from(pool == Pool::Average)));
            return self.builder.node("AveragePool", &[x], attributes, shape);
        }
        if pool == Pool::Max {
            return self.builder.node("MaxPool", &[x], attributes, shape);
        }
        // ONNX's maximum passes over padding; here it counts.
        let [top, left, bottom, right] = padding(window, x);
        let [batch, channels, height, width] = x.shape[..] else { return x.clone() };
        let pads = self.builder.ints(&[0, 0, top, left, 0, 0, bottom, right]);
        let padded = self.builder.node("Pad", &[x, &pads], Vec::new(), &[batch, channels, height + top + bottom, width + left + right]);
        attributes.retain(|attribute| attribute.name.as_deref() != Some("pads"));
        self.builder.node("MaxPool", &[&padded], attributes, shape)
    }

    /// The `k` largest along an axis, the largest first, of equals the first: their values and places.
    fn top(&mut self, x: &Tensor, axis: usize, k: usize) -> (Tensor, Tensor) {
        let mut shape = x.shape.clone();
        shape[axis] = k;
        let k = self.builder.ints(&[k]);
        let axis = vec![AttributeProto::int("axis", axis as i64)];
        let [values, places] = self.builder.outputs("TopK", &[x, &k], axis, [(&shape, data_type::FLOAT), (&shape, data_type::INT64)]);
        (values, places)
    }

    /// The rows of chosen tokens.
    fn gather(&mut self, x: &Tensor, indices: &Tensor, shape: &[usize]) -> Tensor {
        let builder = &mut self.builder;
        let x = match x.shape[0] == shape[0] {
            true => x.clone(),
            false => {
                let whole = [&shape[..1], &x.shape[1..]].concat();
                let to = builder.ints(&whole);
                builder.node("Expand", &[x, &to], Vec::new(), &whole)
            }
        };
        let rows = builder.reshape(indices, &[shape[0], shape[1], 1]);
        let to = builder.ints(shape);
        let rows = builder.typed("Expand", &[&rows, &to], Vec::new(), shape, data_type::INT64);
        builder.node("GatherElements", &[&x, &rows], vec![AttributeProto::int("axis", 1)], shape)
    }

    /// `from` and `to` are the shapes channels-last.
    fn reshape(&mut self, x: &Tensor, from: &[usize], to: &[usize]) -> Tensor {
        let builder = &mut self.builder;
        match (from, to) {
            // A map becomes tokens, and the reverse.
            (&[batch, _, _, channels], &[same, tokens, width]) if batch == same && channels == width => {
                let flat = builder.reshape(x, &[batch, channels, tokens]);
                builder.transpose(&flat, &[0, 2, 1])
            }
            (&[batch, _, width], &[same, _, _, channels]) if batch == same && channels == width => {
                let turned = builder.transpose(x, &[0, 2, 1]);
                builder.reshape(&turned, &onnx_shape(to))
            }
            _ => {
                let last = if from.len() == 4 { builder.transpose(x, &MAP_AXES) } else { x.clone() };
                let reshaped = builder.reshape(&last, to);
                if to.len() == 4 { builder.transpose(&reshaped, &TO_MAP) } else { reshaped }
            }
        }
    }
}

fn unlike(name: &str) -> Error {
    Error::Config(format!("the graph's layer `{name}` isn't what its node takes it for"))
}

/// Padding above, on the left, below and on the right.
fn padding(window: Window, x: &Tensor) -> [usize; 4] {
    let [height, width] = [x.shape[2], x.shape[3]];
    let place = window.place(height, width);
    let after = |places: usize, kernel: usize, input: usize, before: usize| {
        let reach = (places - 1) * window.stride + (kernel - 1) * window.dilation + 1;
        reach.saturating_sub(input + before)
    };
    let below = after(place.out_height, window.kernel[0], height, place.top);
    [place.top, place.left, below, after(place.out_width, window.kernel[1], width, place.left)]
}

fn window_attributes(window: Window, x: &Tensor) -> Vec<AttributeProto> {
    vec![
        AttributeProto::ints("kernel_shape", window.kernel),
        AttributeProto::ints("strides", [window.stride; 2]),
        AttributeProto::ints("pads", padding(window, x)),
    ]
}

/// `data` of this shape with its axes in another order.
fn in_order<T: Copy>(data: &[T], shape: &[usize], order: &[usize]) -> Vec<T> {
    let new: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    let strides: Vec<usize> = order.iter().map(|&axis| shape[axis + 1..].iter().product()).collect();
    let mut out = Vec::with_capacity(data.len());
    let mut place = vec![0; new.len()];
    for _ in 0..data.len() {
        out.push(data[place.iter().zip(&strides).map(|(place, stride)| place * stride).sum::<usize>()]);
        for axis in (0..new.len()).rev() {
            place[axis] += 1;
            if place[axis] < new[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    out
}
