//! Puts an ONNX graph together node by node: unique names, shapes, constants that are stored once, and what differs between opsets.

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, data_type};
use crate::config::Activation;
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of the ONNX graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// One of [`data_type`].
    pub element: i32,
}

pub struct Builder {
    pub opset: i64,
    graph: GraphProto,
    names: BTreeSet<String>,
    /// Initialisers by their names, and unnamed constants by their content.
    constants: BTreeMap<(i32, Vec<usize>, Vec<u8>), Tensor>,
    initializers: BTreeMap<String, Tensor>,
    /// The last layer that was entered.
    layer: String,
    /// What the names of new nodes begin with.
    scope: String,
}

impl Builder {
    pub fn new(opset: i64) -> Self {
        let (names, constants, initializers) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { opset, graph: GraphProto::default(), names, constants, initializers, layer: String::new(), scope: String::new() }
    }

    /// Nodes from now on are named after a layer; without one, after the part of the network that the last layer belongs to.
    pub fn enter(&mut self, layer: Option<&str>) {
        self.scope = match layer {
            Some(layer) => layer.into(),
            None => self.layer.rsplit_once('.').map_or(String::new(), |(part, _)| part.into()),
        };
        self.layer = layer.map_or(std::mem::take(&mut self.layer), Into::into);
    }

    fn unique(&mut self, name: String) -> String {
        let mut unique = name.clone();
        let mut count = 1;
        while !self.names.insert(unique.clone()) {
            unique = format!("{name}_{count}");
            count += 1;
        }
        unique
    }

    pub fn input(&mut self, name: &str, shape: &[usize]) -> Tensor {
        self.names.insert(name.into());
        self.graph.input.push(ValueInfoProto::new(name, data_type::FLOAT, shape));
        Tensor { name: name.into(), shape: shape.to_vec(), element: data_type::FLOAT }
    }

    /// A node with one output, of floats unless `element` says otherwise. An input without a name is one that isn't given.
    pub fn typed(&mut self, op: &str, inputs: &[&Tensor], attributes: Vec<AttributeProto>, shape: &[usize], element: i32) -> Tensor {
        let [output] = self.outputs(op, inputs, attributes, [(shape, element)]);
        output
    }

    pub fn node(&mut self, op: &str, inputs: &[&Tensor], attributes: Vec<AttributeProto>, shape: &[usize]) -> Tensor {
        self.typed(op, inputs, attributes, shape, data_type::FLOAT)
    }

    /// A node with several outputs, of these shapes and element types.
    pub fn outputs<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[&Tensor],
        attribute: Vec<AttributeProto>,
        outputs: [(&[usize], i32); N],
    ) -> [Tensor; N] {
        let separator = if self.scope.is_empty() { "" } else { "/" };
        let name = self.unique(format!("{}{separator}{op}", self.scope));
        let mut number = 0;
        let outputs = outputs.map(|(shape, element)| {
            let tensor = Tensor { name: self.unique(format!("{name}_output_{number}")), shape: shape.to_vec(), element };
            number += 1;
            tensor
        });
        for tensor in &outputs {
            self.graph.value_info.push(ValueInfoProto::new(&tensor.name, tensor.element, &tensor.shape));
        }
        let input = inputs.iter().map(|input| input.name.clone()).collect();
        let output = outputs.iter().map(|output| output.name.clone()).collect();
        self.graph.node.push(NodeProto { input, output, name: Some(name), op_type: Some(op.into()), attribute });
        outputs
    }

    /// A stored tensor; of a name that there is already, that one.
    pub fn initializer(&mut self, name: &str, shape: &[usize], element: i32, bytes: impl FnOnce() -> Vec<u8>) -> Tensor {
        if let Some(tensor) = self.initializers.get(name) {
            return tensor.clone();
        }
        let tensor = Tensor { name: self.unique(name.into()), shape: shape.to_vec(), element };
        let dims = shape.iter().map(|&side| side as i64).collect();
        let proto = TensorProto { dims, data_type: Some(element), name: Some(tensor.name.clone()), raw_data: Some(bytes()) };
        self.graph.initializer.push(proto);
        self.initializers.insert(name.into(), tensor.clone());
        tensor
    }

    fn constant(&mut self, shape: &[usize], element: i32, bytes: Vec<u8>) -> Tensor {
        let key = (element, shape.to_vec(), bytes);
        if let Some(tensor) = self.constants.get(&key) {
            return tensor.clone();
        }
        let tensor = self.initializer(&format!("constant_{}", self.constants.len()), shape, element, || key.2.clone());
        self.constants.insert(key, tensor.clone());
        tensor
    }

    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> Tensor {
        self.constant(shape, data_type::FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn float(&mut self, value: f32) -> Tensor {
        self.floats(&[], &[value])
    }

    pub fn ints(&mut self, values: &[usize]) -> Tensor {
        self.constant(&[values.len()], data_type::INT64, values.iter().flat_map(|&value| (value as i64).to_le_bytes()).collect())
    }

    /// An input that isn't given.
    pub fn absent() -> Tensor {
        Tensor { name: String::new(), shape: Vec::new(), element: data_type::FLOAT }
    }

    /// An operation on two tensors of which one has the result's shape, or both give it together.
    pub fn binary(&mut self, op: &str, a: &Tensor, b: &Tensor) -> Tensor {
        let rank = a.shape.len().max(b.shape.len());
        let side = |x: &Tensor, axis: usize| (axis + x.shape.len()).checked_sub(rank).map_or(1, |axis| x.shape[axis]);
        let shape: Vec<usize> = (0..rank).map(|axis| side(a, axis).max(side(b, axis))).collect();
        self.node(op, &[a, b], Vec::new(), &shape)
    }

    /// `op` on each element.
    pub fn unary(&mut self, op: &str, x: &Tensor) -> Tensor {
        self.node(op, &[x], Vec::new(), &x.shape)
    }

    pub fn reshape(&mut self, x: &Tensor, shape: &[usize]) -> Tensor {
        if x.shape == shape {
            return x.clone();
        }
        let to = self.ints(shape);
        self.typed("Reshape", &[x, &to], Vec::new(), shape, x.element)
    }

    pub fn transpose(&mut self, x: &Tensor, order: &[usize]) -> Tensor {
        let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
        self.typed("Transpose", &[x], vec![AttributeProto::ints("perm", order.iter().copied())], &shape, x.element)
    }

    /// Places `start..start + length` of an axis.
    pub fn slice(&mut self, x: &Tensor, axis: usize, start: usize, length: usize) -> Tensor {
        if length == x.shape[axis] {
            return x.clone();
        }
        let mut shape = x.shape.clone();
        shape[axis] = length;
        let [starts, ends, axes] = [start, start + length, axis].map(|number| self.ints(&[number]));
        self.node("Slice", &[x, &starts, &ends, &axes], Vec::new(), &shape)
    }

    pub fn concat(&mut self, parts: &[Tensor], axis: usize) -> Tensor {
        if let [part] = parts {
            return part.clone();
        }
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
        self.node("Concat", &parts.iter().collect::<Vec<_>>(), vec![AttributeProto::int("axis", axis as i64)], &shape)
    }

    pub fn clip(&mut self, x: &Tensor, min: f32, max: f32) -> Tensor {
        let (min, max) = (self.float(min), self.float(max));
        self.node("Clip", &[x, &min, &max], Vec::new(), &x.shape)
    }

    pub fn softmax(&mut self, x: &Tensor, axis: usize) -> Tensor {
        self.node("Softmax", &[x], vec![AttributeProto::int("axis", axis as i64)], &x.shape)
    }

    /// `ReduceMax`, `ReduceMean` or `ReduceSum` over one axis.
    pub fn reduce(&mut self, op: &str, x: &Tensor, axis: usize, keep: bool) -> Tensor {
        let mut shape = x.shape.clone();
        if keep {
            shape[axis] = 1;
        } else {
            shape.remove(axis);
        }
        let mut attributes = vec![AttributeProto::int("keepdims", i64::from(keep))];
        // Opset 13 made the sum's axes an input, opset 18 those of the others.
        if self.opset >= 18 || op == "ReduceSum" {
            let axes = self.ints(&[axis]);
            return self.node(op, &[x, &axes], attributes, &shape);
        }
        attributes.push(AttributeProto::ints("axes", [axis]));
        self.node(op, &[x], attributes, &shape)
    }

    pub fn activate(&mut self, x: Tensor, activation: Activation) -> Tensor {
        match activation {
            Activation::None => x,
            Activation::Relu => self.unary("Relu", &x),
            Activation::Relu6 => self.clip(&x, 0.0, 6.0),
            Activation::Sigmoid => self.unary("Sigmoid", &x),
            Activation::Silu => {
                let gate = self.unary("Sigmoid", &x);
                self.binary("Mul", &x, &gate)
            }
            // An operator of its own since opset 20.
            Activation::Gelu if self.opset >= 20 => self.unary("Gelu", &x),
            Activation::Gelu => {
                let (root, half, one) = (self.float(std::f32::consts::FRAC_1_SQRT_2), self.float(0.5), self.float(1.0));
                let scaled = self.binary("Mul", &x, &root);
                let erf = self.unary("Erf", &scaled);
                let share = self.binary("Add", &erf, &one);
                let product = self.binary("Mul", &x, &share);
                self.binary("Mul", &product, &half)
            }
        }
    }

    /// The graph, whose outputs get these names.
    pub fn finish(mut self, name: &str, outputs: &[(&str, &Tensor)]) -> GraphProto {
        for (name, tensor) in outputs {
            for node in &mut self.graph.node {
                node.input.iter_mut().chain(&mut node.output).filter(|own| **own == tensor.name).for_each(|own| *own = (*name).into());
            }
            self.graph.value_info.retain(|info| info.name.as_ref() != Some(&tensor.name));
            self.graph.output.push(ValueInfoProto::new(name, tensor.element, &tensor.shape));
        }
        self.graph.name = Some(name.into());
        self.graph
    }
}
