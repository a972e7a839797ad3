//! The plainest possible [`Backend`]: loops over `Vec`s with f64 sums, nothing clever. Every other backend is held against it.

mod deformable;

use detrim::backend::{Backend, Deformable, Pool, Window};
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
    /// Scale and shift after the activation.
    affine: [f64; 2],
    window: Window,
}

pub struct Norm {
    weight: Vec<f32>,
    /// None: an RMS norm.
    bias: Option<Vec<f32>>,
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

    fn last(&self) -> usize {
        *self.shape.last().expect("a tensor with dimensions")
    }

    /// Each value by itself.
    fn map(&self, value: impl Fn(f64) -> f64) -> Self {
        Self::new(&self.shape, (0..self.data.len()).map(|i| value(self.at(i)) as f32))
    }

    /// Each row of the last axis becomes another.
    fn map_rows(&self, length: usize, row: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        let numbers: Vec<f64> = self.data.iter().map(|&x| f64::from(x)).collect();
        let rows = numbers.chunks(self.last()).flat_map(|numbers| row(numbers).into_iter().map(|x| x as f32));
        Self::new(&[&self.shape[..self.shape.len() - 1], &[length]].concat(), rows)
    }

    /// Each value with the one of `b` that belongs to it; each dimension of `b` is as here, or 1.
    fn zip(&self, b: &Self, value: impl Fn(f64, f64) -> f64) -> Self {
        assert!(self.shape.len() == b.shape.len() && self.shape.iter().zip(&b.shape).all(|(a, b)| b == a || *b == 1));
        let data = (0..self.data.len()).map(|i| {
            let (mut rest, mut stride, mut at) = (i, 1, 0);
            for (long, short) in self.shape.iter().zip(&b.shape).rev() {
                at += rest % long % short * stride;
                rest /= long;
                stride *= short;
            }
            value(self.at(i), b.at(at)) as f32
        });
        Self::new(&self.shape, data)
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponents: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = exponents.iter().sum();
    exponents.into_iter().map(|e| e / total).collect()
}

/// Where the `k` largest lie, the largest first, of equals the first. What is no number counts as the lowest.
fn largest(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let key = |i: &usize| if values[*i].is_nan() { f64::NEG_INFINITY } else { values[*i] };
    order.sort_by(|a, b| key(b).partial_cmp(&key(a)).expect("numbers"));
    order.truncate(k);
    assert_eq!(order.len(), k, "there are only {} values", values.len());
    order
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
    fn end(x: Tensor, activation: Activation, residual: Option<&Tensor>, [scale, shift]: [f64; 2]) -> Tensor {
        if let Some(residual) = residual {
            assert_eq!(residual.shape, x.shape);
        }
        let data = (0..x.data.len()).map(|i| (activate(activation, x.at(i) + residual.map_or(0.0, |r| r.at(i))) * scale + shift) as f32);
        Tensor::new(&x.shape, data)
    }

    fn affine(affine: Option<&HostTensor>) -> [f64; 2] {
        affine.map_or([1.0, 0.0], |affine| {
            assert_eq!(affine.shape, [2]);
            [0, 1].map(|i| f64::from(affine.to_f32()[i]))
        })
    }
}

impl Backend for Naive {
    type Tensor = Tensor;
    type Indices = Rc<Vec<Vec<usize>>>;
    type Conv = Conv;
    type Depthwise = Conv;
    type Linear = Layer;
    type Norm = Norm;

    fn load_conv(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Conv> {
        Ok(Conv { layer: Layer::new(weight, bias), affine: Self::affine(affine), window })
    }

    fn load_depthwise(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Conv> {
        Ok(Conv { layer: Layer::new(weight, bias), affine: Self::affine(affine), window })
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Layer> {
        Ok(Layer::new(weight, bias))
    }

    fn load_norm(&self, _: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Norm> {
        Ok(Norm { weight: weight.to_f32().into_owned(), bias: bias.map(|bias| bias.to_f32().into_owned()), epsilon: f64::from(epsilon) })
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
        Ok(Self::end(y, activation, residual, conv.affine))
    }

    fn depthwise(&self, x: &Tensor, conv: &Conv, activation: Activation) -> Result<Tensor> {
        let Layer { shape, weight, bias } = &conv.layer;
        let y = slide(x, conv.window, shape[2], |place, c| {
            let mut sum = f64::from(bias[c]);
            window_places(conv.window, &x.shape, place, |from, k| sum += f64::from(weight[k * shape[2] + c]) * x.at(from + c));
            sum
        });
        Ok(Self::end(y, activation, None, conv.affine))
    }

    fn pool(&self, x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
        let taps = window.kernel[0] * window.kernel[1];
        Ok(slide(x, window, x.shape[3], |place, c| {
            let mut seen = Vec::new();
            window_places(window, &x.shape, place, |from, _| seen.push(x.at(from + c)));
            let largest = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = seen.iter().sum();
            match pool {
                Pool::Max => largest,
                Pool::MaxOfZeroPadded => largest.max(if seen.len() < taps { 0.0 } else { f64::NEG_INFINITY }),
                Pool::Average => sum / taps as f64,
                Pool::AverageWithin => sum / seen.len() as f64,
            }
        }))
    }

    fn upsample(&self, x: &Tensor) -> Result<Tensor> {
        let [batch, height, width, channels] = x.shape[..] else { panic!("a feature map") };
        let mut out = Vec::new();
        for line in 0..batch * height * 2 {
            for column in 0..width * 2 {
                let place = (line / (2 * height) * height + line % (2 * height) / 2) * width + column / 2;
                out.extend_from_slice(&x.data[place * channels..][..channels]);
            }
        }
        Ok(Tensor::new(&[batch, 2 * height, 2 * width, channels], out))
    }

    fn concat(&self, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
        let mut out = Vec::new();
        for outer in 0..shape[..axis].iter().product() {
            for part in parts {
                assert!(part.shape[..axis] == shape[..axis] && part.shape[axis + 1..] == shape[axis + 1..]);
                let length: usize = part.shape[axis..].iter().product();
                out.extend_from_slice(&part.data[outer * length..][..length]);
            }
        }
        Ok(Tensor::new(&shape, out))
    }

    fn narrow(&self, x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
        Ok(x.map_rows(length, |row| row[start..start + length].to_vec()))
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
        Ok(Self::end(Tensor::new(&[places, &[output]].concat(), data), activation, residual, [1.0, 0.0]))
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
                    let weights = softmax(&scores.collect::<Vec<_>>());
                    out.extend((0..value_width).map(|d| {
                        let value = |j: usize| v.at((n * keys + j) * v.shape[2] + h * value_width + d);
                        weights.iter().enumerate().map(|(j, w)| w * value(j)).sum::<f64>() as f32
                    }));
                }
            }
        }
        Ok(Tensor::new(&[batch, queries, v.shape[2]], out))
    }

    fn deformable_attention(&self, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
        Ok(deformable::attention(value, offsets, weights, boxes, deformable))
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let width = norm.weight.len();
        assert_eq!(x.last(), width);
        Ok(x.map_rows(width, |row| {
            let mean = if norm.bias.is_some() { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = (variance + norm.epsilon).sqrt().recip();
            let bias = |i: usize| norm.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            row.iter().enumerate().map(|(i, x)| (x - mean) * scale * f64::from(norm.weight[i]) + bias(i)).collect()
        }))
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(a.zip(b, |a, b| activate(activation, a + b)))
    }

    fn multiply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(a.zip(b, |a, b| a * b))
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(x.map(|x| activate(activation, x)))
    }

    fn clamp(&self, x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
        Ok(x.map(|x| x.clamp(f64::from(min), f64::from(max))))
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.map_rows(x.last(), softmax))
    }

    fn top_values(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        Ok(x.map_rows(k, |row| largest(row, k).into_iter().map(|i| row[i]).collect()))
    }

    fn top_tokens(&self, scores: &Tensor, k: usize) -> Result<Self::Indices> {
        let best = scores.map_rows(1, |classes| vec![classes.iter().copied().fold(f64::NEG_INFINITY, f64::max)]);
        let pictures = best.data.chunks(scores.shape[1]).map(|best| largest(&best.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), k));
        Ok(Rc::new(pictures.collect()))
    }

    fn gather(&self, x: &Tensor, indices: &Self::Indices) -> Result<Tensor> {
        let [pictures, tokens, width] = x.shape[..] else { panic!("tokens") };
        assert!([1, indices.len()].contains(&pictures));
        let mut out = Vec::new();
        for (n, indices) in indices.iter().enumerate() {
            for token in indices {
                out.extend_from_slice(&x.data[(n % pictures * tokens + token) * width..][..width]);
            }
        }
        Ok(Tensor::new(&[indices.len(), indices[0].len(), width], out))
    }

    fn index_values(&self, indices: &Self::Indices) -> Result<Tensor> {
        Ok(Tensor::new(&[indices.len(), indices[0].len()], indices.iter().flatten().map(|&token| token as f32)))
    }
}
