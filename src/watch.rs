//! A backend that shows an observer every layer's input and output on their way, and every stage of the network: for statistics, parity,
//! heat maps and tests.
//!
//! The network is the same on it, and what it computes is what the backend below computes.

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::Activation;
use crate::error::Result;
use crate::graph::Node;
use crate::weights::HostTensor;
use std::cell::RefCell;

/// What an observer is shown of a layer with weights (norms excepted).
pub struct Seen<'a, T> {
    /// The layer's name in `weights.rs`, as `encoder.0.ffn2`.
    pub layer: &'a str,
    /// `[…, in]`, or a feature map `[batch, height, width, in]`.
    pub input: &'a T,
    /// What was added before the activation.
    pub residual: Option<&'a T>,
    /// After the activation.
    pub output: &'a T,
    /// How a convolution moves over its input; a linear map has none.
    pub window: Option<Window>,
    pub activation: Activation,
}

/// Is shown what a [`Watch`] computes.
pub trait Observe<T> {
    fn layer(&mut self, _seen: Seen<T>) -> Result<()> {
        Ok(())
    }

    /// A node of the graph is about to be computed.
    fn node(&mut self, _node: &Node) -> Result<()> {
        Ok(())
    }

    /// What a deformable attention looks with: `offsets`, `weights` and `boxes` as in [`Backend::deformable_attention`].
    fn deformable(&mut self, _offsets: &T, _weights: &T, _boxes: &T, _deformable: &Deformable) -> Result<()> {
        Ok(())
    }

    /// A stage of the network by its name in [`Backend::stage`]; feature maps are channels-last.
    fn stage(&mut self, _name: &str, _x: &T) -> Result<()> {
        Ok(())
    }
}

/// A backend whose layers are watched.
pub struct Watch<B, O> {
    backend: B,
    observer: RefCell<O>,
}

/// A layer that knows its name.
pub struct Named<L> {
    name: String,
    window: Option<Window>,
    layer: L,
}

impl<B, O> Watch<B, O> {
    pub fn new(backend: B, observer: O) -> Self {
        Self { backend, observer: RefCell::new(observer) }
    }

    /// What the observer has gathered.
    pub fn into_observer(self) -> O {
        self.observer.into_inner()
    }

    /// Calls `ask` with the observer, between two pictures.
    pub fn with_observer<R>(&self, ask: impl FnOnce(&mut O) -> R) -> R {
        ask(&mut self.observer.borrow_mut())
    }
}

impl<B: Backend, O: Observe<B::Tensor>> Watch<B, O> {
    fn show<L>(
        &self,
        layer: &Named<L>,
        input: &B::Tensor,
        residual: Option<&B::Tensor>,
        activation: Activation,
        output: B::Tensor,
    ) -> Result<B::Tensor> {
        let seen = Seen { layer: &layer.name, input, residual, output: &output, window: layer.window, activation };
        self.observer.borrow_mut().layer(seen)?;
        Ok(output)
    }
}

impl<B: Backend, O: Observe<B::Tensor>> Backend for Watch<B, O> {
    type Tensor = B::Tensor;
    type Indices = B::Indices;
    type Conv = Named<B::Conv>;
    type Depthwise = Named<B::Depthwise>;
    type Linear = Named<B::Linear>;
    type Norm = B::Norm;

    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Self::Conv> {
        Ok(Named { name: name.into(), window: Some(window), layer: self.backend.load_conv(name, weight, bias, affine, window)? })
    }

    fn load_depthwise(
        &self,
        name: &str,
        weight: &HostTensor,
        bias: &HostTensor,
        affine: Option<&HostTensor>,
        window: Window,
    ) -> Result<Self::Depthwise> {
        Ok(Named { name: name.into(), window: Some(window), layer: self.backend.load_depthwise(name, weight, bias, affine, window)? })
    }

    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Self::Linear> {
        Ok(Named { name: name.into(), window: None, layer: self.backend.load_linear(name, weight, bias)? })
    }

    fn load_norm(&self, name: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<B::Norm> {
        self.backend.load_norm(name, weight, bias, epsilon)
    }

    fn constant(&self, tensor: &HostTensor) -> Result<B::Tensor> {
        self.backend.constant(tensor)
    }

    fn shape(&self, x: &B::Tensor) -> Vec<usize> {
        self.backend.shape(x)
    }

    fn reshape(&self, x: &B::Tensor, shape: &[usize]) -> Result<B::Tensor> {
        self.backend.reshape(x, shape)
    }

    fn conv(&self, x: &B::Tensor, conv: &Self::Conv, activation: Activation, residual: Option<&B::Tensor>) -> Result<B::Tensor> {
        self.show(conv, x, residual, activation, self.backend.conv(x, &conv.layer, activation, residual)?)
    }

    fn depthwise(&self, x: &B::Tensor, conv: &Self::Depthwise, activation: Activation) -> Result<B::Tensor> {
        self.show(conv, x, None, activation, self.backend.depthwise(x, &conv.layer, activation)?)
    }

    fn pool(&self, x: &B::Tensor, window: Window, pool: Pool) -> Result<B::Tensor> {
        self.backend.pool(x, window, pool)
    }

    fn upsample(&self, x: &B::Tensor) -> Result<B::Tensor> {
        self.backend.upsample(x)
    }

    fn concat(&self, parts: &[&B::Tensor], axis: usize) -> Result<B::Tensor> {
        self.backend.concat(parts, axis)
    }

    fn narrow(&self, x: &B::Tensor, start: usize, length: usize) -> Result<B::Tensor> {
        self.backend.narrow(x, start, length)
    }

    fn linear(&self, x: &B::Tensor, linear: &Self::Linear, activation: Activation, residual: Option<&B::Tensor>) -> Result<B::Tensor> {
        self.show(linear, x, residual, activation, self.backend.linear(x, &linear.layer, activation, residual)?)
    }

    fn attention(&self, q: &B::Tensor, k: &B::Tensor, v: &B::Tensor, heads: usize, bias: Option<&B::Tensor>) -> Result<B::Tensor> {
        self.backend.attention(q, k, v, heads, bias)
    }

    fn deformable_attention(
        &self,
        value: &B::Tensor,
        offsets: &B::Tensor,
        weights: &B::Tensor,
        boxes: &B::Tensor,
        deformable: &Deformable,
    ) -> Result<B::Tensor> {
        self.observer.borrow_mut().deformable(offsets, weights, boxes, deformable)?;
        self.backend.deformable_attention(value, offsets, weights, boxes, deformable)
    }

    fn norm(&self, x: &B::Tensor, norm: &B::Norm) -> Result<B::Tensor> {
        self.backend.norm(x, norm)
    }

    fn add(&self, a: &B::Tensor, b: &B::Tensor, activation: Activation) -> Result<B::Tensor> {
        self.backend.add(a, b, activation)
    }

    fn multiply(&self, a: &B::Tensor, b: &B::Tensor) -> Result<B::Tensor> {
        self.backend.multiply(a, b)
    }

    fn activate(&self, x: &B::Tensor, activation: Activation) -> Result<B::Tensor> {
        self.backend.activate(x, activation)
    }

    fn clamp(&self, x: &B::Tensor, min: f32, max: f32) -> Result<B::Tensor> {
        self.backend.clamp(x, min, max)
    }

    fn softmax(&self, x: &B::Tensor) -> Result<B::Tensor> {
        self.backend.softmax(x)
    }

    fn top_values(&self, x: &B::Tensor, k: usize) -> Result<B::Tensor> {
        self.backend.top_values(x, k)
    }

    fn top_tokens(&self, scores: &B::Tensor, k: usize) -> Result<B::Indices> {
        self.backend.top_tokens(scores, k)
    }

    fn gather(&self, x: &B::Tensor, indices: &B::Indices) -> Result<B::Tensor> {
        self.backend.gather(x, indices)
    }

    fn index_values(&self, indices: &B::Indices) -> Result<B::Tensor> {
        self.backend.index_values(indices)
    }

    fn stage(&self, name: &str, x: &B::Tensor) -> Result<()> {
        self.observer.borrow_mut().stage(name, x)
    }
}
