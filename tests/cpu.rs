//! The CPU backend against the naive one: its own kernels, and the operations that have gradients.

use crate::kernels::{check_kernels, random};
use candle_core::{Tensor, Var};
use detrim::backend::{Backend, Window};
use detrim::config::*;
use detrim::cpu::{self, Cpu};
use detrim::model::Detr;
use detrim::{HostTensor, Result};

fn numbers(x: &Tensor) -> Vec<f32> {
    cpu::to_host(x).unwrap().to_f32().into_owned()
}

#[test]
fn kernels_agree_with_the_naive_backend() {
    check_kernels(&Cpu, numbers);
}

#[test]
fn operations_with_gradients_agree_with_the_naive_backend() {
    check_kernels(&Training, numbers);
}

/// The CPU backend whose tensors are all variables, so that every operation must be one with a gradient.
struct Training;

impl Backend for Training {
    type Tensor = Tensor;
    type Conv = cpu::Conv;
    type Depthwise = cpu::Depthwise;
    type Linear = cpu::Linear;
    type Norm = cpu::Norm;

    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<cpu::Conv> {
        Cpu.load_conv(name, weight, bias, window)
    }
    fn load_depthwise(&self, name: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<cpu::Depthwise> {
        Cpu.load_depthwise(name, weight, bias, window)
    }
    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<cpu::Linear> {
        Cpu.load_linear(name, weight, bias)
    }
    fn load_norm(&self, name: &str, weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<cpu::Norm> {
        Cpu.load_norm(name, weight, bias, epsilon)
    }
    fn constant(&self, tensor: &HostTensor) -> Result<Tensor> {
        Ok(Var::from_tensor(&Cpu.constant(tensor)?)?.as_tensor().clone())
    }
    fn shape(&self, x: &Tensor) -> Vec<usize> {
        Cpu.shape(x)
    }
    fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        Cpu.reshape(x, shape)
    }
    fn conv(&self, x: &Tensor, conv: &cpu::Conv, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        differentiable(x, Cpu.conv(x, conv, activation, residual))
    }
    fn depthwise(&self, x: &Tensor, conv: &cpu::Depthwise, activation: Activation) -> Result<Tensor> {
        differentiable(x, Cpu.depthwise(x, conv, activation))
    }
    fn max_pool(&self, x: &Tensor, window: Window) -> Result<Tensor> {
        differentiable(x, Cpu.max_pool(x, window))
    }
    fn linear(&self, x: &Tensor, linear: &cpu::Linear, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        differentiable(x, Cpu.linear(x, linear, activation, residual))
    }
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        let mixed = Cpu.attention(q, k, v, heads, bias);
        for x in [q, k, v] {
            differentiable(x, mixed.as_ref().map(Tensor::clone).map_err(|e| detrim::Error::Config(e.to_string())))?;
        }
        mixed
    }
    fn layer_norm(&self, x: &Tensor, norm: &cpu::Norm) -> Result<Tensor> {
        differentiable(x, Cpu.layer_norm(x, norm))
    }
    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        differentiable(b, Cpu.add(a, b, activation))
    }
}

/// Asserts that `result` has a finite gradient by `x`.
fn differentiable(x: &Tensor, result: Result<Tensor>) -> Result<Tensor> {
    let result = result?;
    if x.is_variable() {
        let gradients = result.sum_all()?.backward()?;
        let gradient = gradients.get(x).expect("a gradient");
        assert!(numbers(gradient).iter().all(|g| g.is_finite()));
    }
    Ok(result)
}

/// The gradient of the whole network's output by its pixels agrees with what a small step in its direction changes.
#[test]
fn the_network_has_gradients() {
    let numbers = |x: &Tensor| numbers(x).iter().map(|&x| f64::from(x)).sum::<f64>();
    let attention = Attention { heads: 2, head_width: 3 };
    let config = Config {
        backbone: Backbone::EfficientNetLite(EfficientNetLite {
            stem: 6,
            stages: vec![vec![InvertedResidual { expansion: Some(8), kernel: 5, stride: 2, channels: 6, residual: false }]],
        }),
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 12 }],
        decoder: vec![DecoderLayer { self_attention: attention, cross_attention: attention, ffn: 12 }],
        queries: 5,
        classes: 3,
        activation: Activation::Gelu,
        class_activation: ClassActivation::Sigmoid,
        query_content: true,
        box_reference: true,
        labels: (0..3).map(|id| Label { id, name: format!("label {id}") }).collect(),
        pixels: Pixels::detr(),
    };
    let weights = detrim::checkpoint::random(config.clone(), "test", 1).weights;
    let network = Detr::load(&Cpu, &config, &weights).unwrap();
    let forward = |pixels: &Tensor| {
        let output = network.forward(&Cpu, pixels, None, &mut |_, _| {}).unwrap();
        (output.logits.sum_all().unwrap() + output.boxes.sum_all().unwrap()).unwrap()
    };
    let pixels = Var::from_tensor(&Cpu.constant(&random(&[2, 9, 11, 3], 2)).unwrap()).unwrap();
    let start = forward(&pixels);
    let gradient = start.backward().unwrap().get(&pixels).unwrap().detach();
    let steepness = numbers(&gradient.sqr().unwrap());
    assert!(steepness > 1e-6, "the gradient vanishes: {steepness}");
    // By the kernels without gradients, which must compute the same.
    let step = 1e-2 / steepness.sqrt();
    let at = |step: f64| numbers(&forward(&(pixels.detach() + (&gradient * step).unwrap()).unwrap()));
    assert!((at(0.0) - numbers(&start)).abs() < 1e-4);
    let slope = (at(step) - at(-step)) / (2.0 * step);
    assert!((slope / steepness - 1.0).abs() < 0.02, "slope {slope}, squared gradient {steepness}");
}
