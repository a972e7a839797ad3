//! The [`Backend`] whose operations have gradients, on candle's autograd.
//!
//! On the CPU what takes the time (linear maps, attention, norms, depthwise convolution) is one operation each, with its
//! own backward pass. Elsewhere, and for what is rarely trained, `composed.rs` makes operations of candle's own.

mod affine;
mod attention;
mod composed;
mod deformable;
mod depthwise;
mod linear;
mod norm;
mod unfold;

use crate::backend::{Backend, Deformable, Pool, Window};
use crate::config::Activation;
use crate::cpu::check_norm;
use crate::cpu::elementwise::Pair;
use crate::cpu::lanes::{bounds, dispatch};
use crate::cpu::operators;
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use candle_core::{CpuStorage, D, DType, Device, Layout, Tensor, Var};
use pulp::{Simd, WithSimd};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Makes layers whose weights are variables, and remembers these by their names.
pub struct Autograd {
    device: Device,
    /// Whether what takes the time is done by operations of our own, which work on the CPU.
    own: bool,
    /// Which layers are trained.
    trained: Box<dyn Fn(&str) -> bool + Send + Sync>,
    variables: Mutex<BTreeMap<String, Var>>,
}

/// A convolution or a linear map: `[out, …, in]` as `[out, all that a place sees]`.
pub struct Map {
    weight: Tensor,
    bias: Tensor,
    /// `[2]`: scale and shift after the activation.
    affine: Option<Tensor>,
    window: Option<Window>,
}

pub struct Depthwise {
    /// `[kernel height * kernel width, channels]`
    weight: Tensor,
    bias: Tensor,
    affine: Option<Tensor>,
    window: Window,
}

pub struct Norm {
    weight: Tensor,
    /// None: an RMS norm.
    bias: Option<Tensor>,
    epsilon: f32,
}

impl Autograd {
    /// `trained` tells by a tensor's name whether it is a variable.
    pub fn new(device: Device, trained: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { own: device.is_cpu(), device, trained: Box::new(trained), variables: Mutex::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All variables so far, by their names (those of `weights.rs`). Their numbers are in the file's order, if not in its shape.
    pub fn variables(&self) -> BTreeMap<String, Var> {
        self.variables.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// A named tensor of a given shape: a variable if it is trained, which no other may be by that name.
    pub fn parameter(&self, name: &str, host: &HostTensor, shape: &[usize]) -> Result<Tensor> {
        let tensor = Tensor::from_vec(host.to_f32().into_owned(), shape, &self.device)?;
        if !(self.trained)(name) {
            return Ok(tensor);
        }
        let variable = Var::from_tensor(&tensor)?;
        let tensor = variable.as_tensor().clone();
        match self.variables.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(name.into(), variable) {
            // The first one's gradients would be lost.
            Some(_) => Err(Error::Config(format!("{name} is loaded twice, and can be trained once only"))),
            None => Ok(tensor),
        }
    }

    fn map(&self, name: &str, weight: &HostTensor, bias: &HostTensor, window: Option<Window>) -> Result<Map> {
        let outputs = weight.shape.first().copied().unwrap_or_default();
        if weight.is_empty() || bias.shape != [outputs] {
            return Err(Error::Config(format!("{name}: a weight {:?} doesn't go with a bias {:?}", weight.shape, bias.shape)));
        }
        let shape = [outputs, weight.len() / outputs];
        Ok(Map {
            weight: self.parameter(&format!("{name}.weight"), weight, &shape)?,
            bias: self.vector(&format!("{name}.bias"), bias)?,
            affine: None,
            window,
        })
    }

    /// A layer's scale and shift after the activation, if it has these: one parameter of two numbers.
    fn affine(&self, name: &str, host: Option<&HostTensor>) -> Result<Option<Tensor>> {
        match host {
            Some(host) if host.shape != [2] => {
                Err(Error::Config(format!("{name}: an affine has shape {:?}, expected [2]: a scale and a shift", host.shape)))
            }
            host => host.map(|host| self.vector(&format!("{name}.affine"), host)).transpose(),
        }
    }

    fn vector(&self, name: &str, host: &HostTensor) -> Result<Tensor> {
        self.parameter(name, host, &host.shape)
    }

    /// `x` scaled and shifted, if that is what a layer's affine does.
    fn scaled(&self, x: Tensor, affine: Option<&Tensor>) -> Result<Tensor> {
        Ok(match affine {
            Some(affine) if self.own => contiguous(&x)?.apply_op2(affine, affine::Affine)?,
            Some(affine) => composed::affine(&x, affine)?,
            None => x,
        })
    }
}

/// The numbers of a custom operation's argument, which must lie without gaps.
fn of<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => candle_core::bail!("an operation of the training step needs f32 without gaps"),
    }
}

fn contiguous(x: &Tensor) -> candle_core::Result<Cow<'_, Tensor>> {
    Ok(if x.is_contiguous() { Cow::Borrowed(x) } else { Cow::Owned(x.contiguous()?) })
}

/// A gradient by `x`, where one is wanted.
fn gradient(values: Vec<f32>, x: &Tensor) -> candle_core::Result<Option<Tensor>> {
    x.track_op().then(|| Tensor::from_vec(values, x.shape(), x.device())).transpose()
}

/// The gradient before an activation that only bounds its results: nothing where these are at a bound.
fn within<'a>(gradient: &'a [f32], out: &[f32], bounds: Option<[f32; 2]>) -> Cow<'a, [f32]> {
    match bounds {
        Some(bounds) => {
            let mut within = vec![0.0; gradient.len()];
            dispatch(Within { gradient, out, bounds, within: &mut within });
            within.into()
        }
        None => gradient.into(),
    }
}

struct Within<'a> {
    gradient: &'a [f32],
    out: &'a [f32],
    bounds: [f32; 2],
    within: &'a mut [f32],
}

impl WithSimd for Within<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [least, most] = self.bounds;
        for ((within, &g), &y) in self.within.iter_mut().zip(self.gradient).zip(self.out) {
            // Both asked without a branch: that becomes vectors.
            *within = if (y > least) & (y < most) { g } else { 0.0 };
        }
    }
}

impl Backend for Autograd {
    type Tensor = Tensor;
    type Indices = Tensor;
    type Conv = Map;
    type Depthwise = Depthwise;
    type Linear = Map;
    type Norm = Norm;

    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Map> {
        match weight.shape[..] {
            [_, height, width, _] if window.kernel == [height, width] => {
                Ok(Map { affine: self.affine(name, affine)?, ..self.map(name, weight, bias, Some(window))? })
            }
            _ => Err(Error::Config(format!("{name}: a weight {:?} doesn't go with a kernel {:?}", weight.shape, window.kernel))),
        }
    }

    fn load_depthwise(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Depthwise> {
        match weight.shape[..] {
            [height, width, channels] if window.kernel == [height, width] && bias.shape == [channels] => Ok(Depthwise {
                affine: self.affine(name, affine)?,
                weight: self.parameter(&format!("{name}.weight"), weight, &[height * width, channels])?,
                bias: self.vector(&format!("{name}.bias"), bias)?,
                window,
            }),
            _ => Err(Error::Config(format!("{name}: a weight {:?} doesn't go with a kernel {:?}", weight.shape, window.kernel))),
        }
    }

    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Map> {
        self.map(name, weight, bias, None)
    }

    fn load_norm(&self, name: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Norm> {
        check_norm(name, weight, bias)?;
        let bias = bias.map(|bias| self.vector(&format!("{name}.bias"), bias)).transpose()?;
        Ok(Norm { weight: self.vector(&format!("{name}.weight"), weight)?, bias, epsilon })
    }

    fn constant(&self, host: &HostTensor) -> Result<Tensor> {
        Ok(Tensor::from_vec(host.to_f32().into_owned(), &host.shape[..], &self.device)?)
    }

    fn detach(&self, x: &Tensor) -> Tensor {
        x.detach()
    }

    fn shape(&self, x: &Tensor) -> Vec<usize> {
        x.dims().to_vec()
    }

    fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        Ok(x.reshape(shape)?)
    }

    fn conv(&self, x: &Tensor, conv: &Map, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let x = match conv.window {
            Some(window) if !window.is_pointwise() => {
                let seen = if self.own { contiguous(x)?.apply_op1(unfold::Unfold { window })? } else { composed::unfold(x, window)? };
                self.linear(&seen, conv, activation, residual)?
            }
            _ => self.linear(x, conv, activation, residual)?,
        };
        self.scaled(x, conv.affine.as_ref())
    }

    fn depthwise(&self, x: &Tensor, conv: &Depthwise, activation: Activation) -> Result<Tensor> {
        if !self.own {
            let x = composed::depthwise(x, &conv.weight, &conv.bias, conv.window, activation)?;
            return self.scaled(x, conv.affine.as_ref());
        }
        let bounds = bounds(activation);
        let x = contiguous(x)?.apply_op3(&conv.weight, &conv.bias, depthwise::Depthwise { window: conv.window, bounds })?;
        let x = composed::activate(x, if bounds.is_some() { Activation::None } else { activation })?;
        self.scaled(x, conv.affine.as_ref())
    }

    fn pool(&self, x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
        Ok(composed::pool(x, window, pool)?)
    }

    fn upsample(&self, x: &Tensor) -> Result<Tensor> {
        Ok(composed::upsample(x)?)
    }

    fn concat(&self, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        operators::concat_shape(parts, axis)?;
        Ok(Tensor::cat(parts, axis)?)
    }

    fn narrow(&self, x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
        operators::narrowed(x, start, length)?;
        Ok(x.narrow(D::Minus1, start, length)?)
    }

    /// x·Wᵀ + b with its activation and residual.
    fn linear(&self, x: &Tensor, map: &Map, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        if !self.own {
            return Ok(composed::linear(x, &map.weight, &map.bias, activation, residual)?);
        }
        let bounds = bounds(activation).filter(|_| residual.is_none());
        let mut x = contiguous(x)?.apply_op3(&map.weight, &map.bias, linear::Linear { bounds })?;
        if let Some(residual) = residual {
            x = (x + residual)?;
        }
        Ok(composed::activate(x, if bounds.is_some() { Activation::None } else { activation })?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        if !self.own {
            return Ok(composed::attention(q, k, v, heads, bias)?);
        }
        let bias = bias.map(Tensor::contiguous).transpose()?;
        Ok(contiguous(q)?.apply_op3(&*contiguous(k)?, &*contiguous(v)?, attention::Attention { heads, bias })?)
    }

    fn deformable_attention(&self, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
        let sampler = operators::sampler(value, offsets, weights, boxes, deformable)?;
        let (batch, queries, _) = boxes.dims3()?;
        let [centers, sizes] = [boxes.narrow(2, 0, 2)?, boxes.narrow(2, 2, 2)?].map(|x| x.unsqueeze(2));
        let scales = Tensor::from_vec(sampler.scales.repeat(deformable.heads), (1, 1, sampler.all_points(), 1), &self.device)?;
        let offsets = offsets.reshape((batch, queries, sampler.all_points(), 2))?.broadcast_mul(&scales)?;
        let locations = offsets.broadcast_mul(&sizes?)?.broadcast_add(&centers?)?;
        let weights = composed::softmax(&weights.reshape((batch, queries, deformable.heads, ()))?)?.reshape((batch, queries, ()))?;
        if !self.own {
            return Ok(composed::sample(value, &locations, &weights, deformable)?);
        }
        Ok(contiguous(value)?.apply_op3(&*contiguous(&locations)?, &*contiguous(&weights)?, deformable::Sample { sampler })?)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let Norm { weight, bias, epsilon } = norm;
        Ok(match bias {
            Some(bias) if self.own => contiguous(x)?.apply_op3(weight, bias, norm::LayerNorm { epsilon: *epsilon })?,
            None if self.own => contiguous(x)?.apply_op2(weight, norm::RmsNorm { epsilon: *epsilon })?,
            Some(bias) => composed::layer_norm(x, weight, bias, *epsilon)?,
            None => composed::rms_norm(x, weight, *epsilon)?,
        })
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        operators::check_pair(Pair::Add, a, b)?;
        let sum = if a.dims() == b.dims() { (a + b)? } else { a.broadcast_add(b)? };
        Ok(composed::activate(sum, activation)?)
    }

    fn multiply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        operators::check_pair(Pair::Multiply, a, b)?;
        Ok(if a.dims() == b.dims() { (a * b)? } else { a.broadcast_mul(b)? })
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(composed::activate(x.clone(), activation)?)
    }

    fn clamp(&self, x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
        operators::check_bounds(min, max)?;
        Ok(x.clamp(min, max)?)
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        operators::last_axis(x)?;
        Ok(composed::softmax(x)?)
    }

    fn top_values(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        let width = operators::of_which(x, k)?;
        // Which ones they are has no gradient, what they are has.
        let rows = x.contiguous()?.reshape(((), width))?;
        let chosen = self.top_tokens(&rows.unsqueeze(2)?, k)?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = k;
        }
        Ok(rows.gather(&chosen, 1)?.reshape(shape)?)
    }

    fn top_tokens(&self, scores: &Tensor, k: usize) -> Result<Tensor> {
        Ok(operators::top_tokens(&scores.detach().to_device(&Device::Cpu)?, k)?.to_device(&self.device)?)
    }

    fn gather(&self, x: &Tensor, indices: &Tensor) -> Result<Tensor> {
        let mut chosen = operators::chosen(x, indices)?;
        let ((pictures, tokens, width), (batch, k)) = (x.dims3()?, indices.dims2()?);
        if pictures > 1 {
            for (n, chosen) in chosen.chunks_exact_mut(k).enumerate() {
                chosen.iter_mut().for_each(|token| *token += (n * tokens) as u32);
            }
        }
        let chosen = Tensor::from_vec(chosen, batch * k, &self.device)?;
        Ok(x.contiguous()?.reshape((pictures * tokens, width))?.index_select(&chosen, 0)?.reshape((batch, k, width))?)
    }

    fn index_values(&self, indices: &Tensor) -> Result<Tensor> {
        Ok(indices.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::SamplingMethod;

    fn random(rng: &mut fastrand::Rng, shape: &[usize]) -> HostTensor {
        HostTensor::f32(shape, (0..shape.iter().product()).map(|_| 4.0 * rng.f32() - 2.0).collect())
    }

    /// What an operation gives, and the gradients by its argument and its variables.
    fn run(own: bool, x: &HostTensor, operation: impl Fn(&Autograd, &Tensor) -> Result<Tensor>) -> Vec<Vec<f32>> {
        let backend = Autograd { own, ..Autograd::new(Device::Cpu, |_| true) };
        let x = Var::from_tensor(&backend.constant(x).unwrap()).unwrap();
        let y = operation(&backend, x.as_tensor()).unwrap();
        // Squares, so that each place has a gradient of its own.
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let variables = backend.variables().into_values().chain([x]);
        let gradients = variables.map(|variable| gradients.get(&variable).unwrap().clone());
        [y].into_iter().chain(gradients).map(|tensor| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    type Operation<'a> = &'a dyn Fn(&Autograd, &Tensor, &[HostTensor]) -> Result<Tensor>;

    #[test]
    fn other_devices_compute_what_the_cpu_does() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut check = |name: &str, shape: &[usize], weights: &[&[usize]], operation: Operation| {
            let (x, weights) = (random(&mut rng, shape), weights.iter().map(|shape| random(&mut rng, shape)).collect::<Vec<_>>());
            let [own, composed] = [true, false].map(|own| run(own, &x, |backend, x| operation(backend, x, &weights)));
            assert_eq!(own.len(), composed.len());
            for (own, composed) in own.iter().flatten().zip(composed.iter().flatten()) {
                assert!((own - composed).abs() <= 1e-4 * (1.0 + own.abs()), "{name}: {own} {composed}");
            }
        };
        for activation in [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu] {
            check("linear", &[2, 3, 5], &[&[7, 5], &[7]], &|backend, x, w| {
                backend.linear(x, &backend.load_linear("map", &w[0], &w[1])?, activation, None)
            });
        }
        check("attention", &[2, 3, 8], &[&[2, 4, 8], &[2, 4, 8], &[2, 3, 4]], &|backend, x, w| {
            let [k, v] = [("k", &w[0]), ("v", &w[1])].map(|(name, w)| backend.parameter(name, w, &w.shape));
            backend.attention(x, &k?, &v?, 2, Some(&backend.constant(&w[2])?))
        });
        check("layer norm", &[2, 3, 8], &[&[8], &[8]], &|backend, x, w| backend.norm(x, &backend.load_norm("norm", &w[0], Some(&w[1]), 1e-5)?));
        check("RMS norm", &[2, 3, 8], &[&[8]], &|backend, x, w| backend.norm(x, &backend.load_norm("norm", &w[0], None, 1e-5)?));
        let window = Window::new(3, 1, crate::backend::Padding::Even(1));
        check("depthwise", &[1, 5, 4, 3], &[&[3, 3, 3], &[3], &[2]], &|backend, x, w| {
            backend.depthwise(x, &backend.load_depthwise("depthwise", &w[0], &w[1], Some(&w[2]), window)?, Activation::Relu6)
        });
        let padded = Window { padding: crate::backend::Padding::Same, ..Window::new(2, 1, crate::backend::Padding::Even(0)) };
        let strided = Window::new(3, 2, crate::backend::Padding::Even(1));
        for window in [window, padded, strided, window.dilated(2), Window::new(1, 2, crate::backend::Padding::Even(0))] {
            let side = window.kernel[0];
            check(&format!("{window:?}"), &[2, 5, 4, 3], &[&[4, side, side, 3], &[4], &[2]], &|backend, x, w| {
                backend.conv(x, &backend.load_conv("conv", &w[0], &w[1], Some(&w[2]), window)?, Activation::Relu, None)
            });
        }
        for method in [SamplingMethod::Default, SamplingMethod::Discrete] {
            let deformable = Deformable { heads: 2, levels: vec![[4, 3], [2, 4]], points: vec![1, 2], offset_scale: 0.5, method };
            check(&format!("deformable attention {method:?}"), &[2, 20, 10], &[&[2, 5, 12], &[2, 5, 6], &[2, 5, 4]], &|backend, x, w| {
                // Where a location is rounded there is no gradient.
                let all = [("offsets", &w[0]), ("weights", &w[1]), ("boxes", &w[2])];
                let [offsets, weights, boxes] = all.map(|(name, w)| match (method, name) {
                    (SamplingMethod::Discrete, "offsets" | "boxes") => backend.constant(w),
                    _ => backend.parameter(name, w, &w.shape),
                });
                backend.deformable_attention(x, &offsets?, &weights?, &boxes?, &deformable)
            });
        }
    }
}
