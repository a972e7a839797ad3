//! The plainest possible [`Backend`]: loops over `Vec`s with f64 sums, nothing clever. Every other backend is held against it.

use detrim::backend::{Backend, Window};
use detrim::config::Activation;
use detrim::{HostTensor, Result};
use std::rc::Rc;

#[derive(Default)]
pub struct Naive;

#[derive(Clone)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Rc<Vec<f32>>,
}

/// Weights and bias of a layer.
pub struct Layer {
    shape: Vec<usize>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

pub struct Conv {
    layer: Layer,
    window: Window,
}

pub struct Norm {
    layer: Layer,
    epsilon: f64,
}

pub fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x * sigmoid(x),
        Activation::Sigmoid => sigmoid(x),
    }
}

impl Layer {
    fn new(weight: &HostTensor, bias: &HostTensor) -> Self {
        Self { shape: weight.shape.clone(), weight: weight.to_f32().into_owned(), bias: bias.to_f32().into_owned() }
    }
}

impl Tensor {
    pub fn new(shape: &[usize], data: impl IntoIterator<Item = f32>) -> Self {
        let data: Vec<f32> = data.into_iter().collect();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "data must fill {shape:?}");
        Self { shape: shape.to_vec(), data: Rc::new(data) }
    }

    fn at(&self, index: usize) -> f64 {
        f64::from(self.data[index])
    }
}

/// Calls `visit(input index of channel 0, kernel place)` for each place of the window that lies on the picture.
fn window_places(window: Window, shape: &[usize], [n, y, x]: [usize; 3], mut visit: impl FnMut(usize, usize)) {
    let place = window.place(shape[1], shape[2]);
    for ky in 0..window.kernel[0] {
        for kx in 0..window.kernel[1] {
            let Some(row) = (y * window.stride + ky * window.dilation).checked_sub(place.top) else { continue };
            let Some(column) = (x * window.stride + kx * window.dilation).checked_sub(place.left) else { continue };
            if row < shape[1] && column < shape[2] {
                visit(((n * shape[1] + row) * shape[2] + column) * shape[3], ky * window.kernel[1] + kx);
            }
        }
    }
}

/// The output of a window on `x`, whose value at a place and channel `value` computes.
fn slide(x: &Tensor, window: Window, channels: usize, value: impl Fn([usize; 3], usize) -> f64) -> Tensor {
    let place = window.place(x.shape[1], x.shape[2]);
    let mut out = Vec::new();
    for n in 0..x.shape[0] {
        for row in 0..place.out_height {
            for column in 0..place.out_width {
                out.extend((0..channels).map(|c| value([n, row, column], c) as f32));
            }
        }
    }
    Tensor::new(&[x.shape[0], place.out_height, place.out_width, channels], out)
}

impl Naive {
    fn end(x: Tensor, activation: Activation, residual: Option<&Tensor>) -> Tensor {
        if let Some(residual) = residual {
            assert_eq!(residual.shape, x.shape);
        }
        let data = (0..x.data.len()).map(|i| activate(activation, x.at(i) + residual.map_or(0.0, |r| r.at(i))) as f32);
        Tensor::new(&x.shape, data)
    }
}

impl Backend for Naive {
    type Tensor = Tensor;
    type Conv = Conv;
    type Depthwise = Conv;
    type Linear = Layer;
    type Norm = Norm;

    fn load_conv(&self, _: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Conv> {
        Ok(Conv { layer: Layer::new(weight, bias), window })
    }

    fn load_depthwise(&self, _: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Conv> {
        Ok(Conv { layer: Layer::new(weight, bias), window })
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Layer> {
        Ok(Layer::new(weight, bias))
    }

    fn load_norm(&self, _: &str, weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<Norm> {
        Ok(Norm { layer: Layer::new(weight, bias), epsilon: f64::from(epsilon) })
    }

    fn constant(&self, tensor: &HostTensor) -> Result<Tensor> {
        Ok(Tensor::new(&tensor.shape, tensor.to_f32().iter().copied()))
    }

    fn shape(&self, x: &Tensor) -> Vec<usize> {
        x.shape.clone()
    }

    fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor { shape: shape.to_vec(), ..x.clone() })
    }

    fn conv(&self, x: &Tensor, conv: &Conv, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let Layer { shape, weight, bias } = &conv.layer;
        let (kernel, input) = (shape[1] * shape[2], shape[3]);
        let y = slide(x, conv.window, shape[0], |place, c| {
            let mut sum = f64::from(bias[c]);
            window_places(conv.window, &x.shape, place, |from, k| {
                let weight = &weight[(c * kernel + k) * input..][..input];
                sum += weight.iter().enumerate().map(|(i, &w)| f64::from(w) * x.at(from + i)).sum::<f64>();
            });
            sum
        });
        Ok(Self::end(y, activation, residual))
    }

    fn depthwise(&self, x: &Tensor, conv: &Conv, activation: Activation) -> Result<Tensor> {
        let Layer { shape, weight, bias } = &conv.layer;
        let y = slide(x, conv.window, shape[2], |place, c| {
            let mut sum = f64::from(bias[c]);
            window_places(conv.window, &x.shape, place, |from, k| sum += f64::from(weight[k * shape[2] + c]) * x.at(from + c));
            sum
        });
        Ok(Self::end(y, activation, None))
    }

    fn max_pool(&self, x: &Tensor, window: Window) -> Result<Tensor> {
        Ok(slide(x, window, x.shape[3], |place, c| {
            let mut best = f64::NEG_INFINITY;
            window_places(window, &x.shape, place, |from, _| best = best.max(x.at(from + c)));
            best
        }))
    }

    fn linear(&self, x: &Tensor, linear: &Layer, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let (output, input) = (linear.shape[0], linear.shape[1]);
        let [places @ .., last] = &x.shape[..] else { panic!("a linear map of a scalar") };
        assert_eq!(*last, input);
        let rows: usize = places.iter().product();
        let data = (0..rows * output).map(|i| {
            let (row, o) = (i / output, i % output);
            let sum: f64 = (0..input).map(|k| x.at(row * input + k) * f64::from(linear.weight[o * input + k])).sum();
            (sum + f64::from(linear.bias[o])) as f32
        });
        Ok(Self::end(Tensor::new(&[places, &[output]].concat(), data), activation, residual))
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        let (batch, queries, keys) = (q.shape[0], q.shape[1], k.shape[1]);
        let (width, value_width) = (q.shape[2] / heads, v.shape[2] / heads);
        let bias_at = |n: usize, i: usize, j: usize| {
            bias.map_or(0.0, |bias| {
                let (n, i) = (n.min(bias.shape[0] - 1), i.min(bias.shape[1] - 1));
                bias.at((n * bias.shape[1] + i) * keys + j)
            })
        };
        let mut out = Vec::new();
        for n in 0..batch {
            for i in 0..queries {
                for h in 0..heads {
                    let scores = (0..keys).map(|j| {
                        let row = |x: &Tensor, r: usize| (n * x.shape[1] + r) * x.shape[2] + h * width;
                        let dot: f64 = (0..width).map(|d| q.at(row(q, i) + d) * k.at(row(k, j) + d)).sum();
                        dot / (width as f64).sqrt() + bias_at(n, i, j)
                    });
                    let scores: Vec<f64> = scores.collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let exponents: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                    let total: f64 = exponents.iter().sum();
                    out.extend((0..value_width).map(|d| {
                        let value = |j: usize| v.at((n * keys + j) * v.shape[2] + h * value_width + d);
                        (exponents.iter().enumerate().map(|(j, e)| e * value(j)).sum::<f64>() / total) as f32
                    }));
                }
            }
        }
        Ok(Tensor::new(&[batch, queries, v.shape[2]], out))
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let width = norm.layer.weight.len();
        let mut out = Vec::new();
        for row in x.data.chunks(width) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = (variance + norm.epsilon).sqrt().recip();
            out.extend(
                row.iter()
                    .enumerate()
                    .map(|(i, &x)| ((f64::from(x) - mean) * scale * f64::from(norm.layer.weight[i]) + f64::from(norm.layer.bias[i])) as f32),
            );
        }
        Ok(Tensor::new(&x.shape, out))
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        assert!(a.shape[1..] == b.shape[1..] && (b.shape[0] == a.shape[0] || b.shape[0] == 1));
        let data = (0..a.data.len()).map(|i| activate(activation, a.at(i) + b.at(i % b.data.len())) as f32);
        Ok(Tensor::new(&a.shape, data))
    }
}
