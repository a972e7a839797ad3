//! The same kernel cases for every backend, each held against [`Naive`]: prime sizes, single ones, strides, dilation,
//! uneven padding, f16 and int8 weights, heads of odd widths, masks.

mod operators;
mod refusals;

pub use refusals::check_refusals;

use crate::naive::{self, Naive};
use detrim::HostTensor;
use detrim::backend::{Backend, Padding, Pool, Window};
use detrim::config::Activation;
use detrim::weights::{Channels, Data, Int8};
use std::cell::Cell;

const ACTIVATIONS: [Activation; 6] = [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu, Activation::Silu, Activation::Sigmoid];

/// Runs every case on `backend`; `read` gives a tensor's numbers.
pub fn check_kernels<B: Backend>(backend: &B, read: impl Fn(&B::Tensor) -> Vec<f32>) {
    let bench = Bench { backend, read: &read, layers: Cell::new(0) };
    bench.products();
    bench.depthwise_convolutions();
    bench.bytes();
    bench.pools();
    bench.norms();
    bench.operators();
    bench.reuse();
}

/// The cases of matrix products, convolutions and attention, of which a backend may have several implementations.
pub fn check_products<B: Backend>(backend: &B, read: impl Fn(&B::Tensor) -> Vec<f32>) {
    Bench { backend, read: &read, layers: Cell::new(0) }.products();
}

/// Numbers between -1 and 1 that depend on nothing but `seed` (splitmix64).
pub fn random(shape: &[usize], seed: u64) -> HostTensor {
    let data = (0..shape.iter().product::<usize>() as u64).map(|i| {
        let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    HostTensor::f32(shape, data.collect())
}

/// [`random`] numbers between -1 and 1 become such between `low` and `high`.
pub fn spread(tensor: HostTensor, [low, high]: [f32; 2]) -> HostTensor {
    HostTensor::f32(&tensor.shape, tensor.to_f32().iter().map(|x| low + (x + 1.0) / 2.0 * (high - low)).collect())
}

/// Fails where `found` is not `expected`, but for rounding.
pub fn compare(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = 1.0 + expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
    let (worst, error) = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .enumerate()
        .fold((0, 0.0), |top, (i, e)| if e > top.1 || e.is_nan() { (i, e) } else { top });
    assert!(error <= 2e-5 * scale, "{what}: value {worst} is {}, expected {} (scale {scale})", found[worst], expected[worst]);
}

/// A scale and a shift after an activation.
fn affine() -> HostTensor {
    HostTensor::f32(&[2], vec![0.75, -0.3])
}

/// How weights are stored.
const STORED: [&str; 3] = ["f32", "f16", "int8"];

fn stored(weight: HostTensor, stored: &str, channels: Channels) -> HostTensor {
    match stored {
        "f16" => weight.to_f16(),
        "int8" => weight.to_i8(channels),
        _ => weight,
    }
}

struct Bench<'a, B: Backend> {
    backend: &'a B,
    read: &'a dyn Fn(&B::Tensor) -> Vec<f32>,
    layers: Cell<usize>,
}

impl<B: Backend> Bench<'_, B> {
    /// Another for each layer: a variable can be loaded once only.
    fn name(&self) -> String {
        format!("layer{}", self.layers.replace(self.layers.get() + 1))
    }

    /// A random tensor on both backends.
    fn tensor(&self, shape: &[usize], seed: u64) -> (B::Tensor, naive::Tensor) {
        self.upload(&random(shape, seed))
    }

    /// A random tensor on both backends, of numbers between `low` and `high`.
    fn between(&self, [low, high]: [f32; 2], shape: &[usize], seed: u64) -> (B::Tensor, naive::Tensor) {
        self.upload(&spread(random(shape, seed), [low, high]))
    }

    fn upload(&self, tensor: &HostTensor) -> (B::Tensor, naive::Tensor) {
        (self.backend.constant(tensor).unwrap(), Naive.constant(tensor).unwrap())
    }

    fn check(&self, what: &str, found: &B::Tensor, expected: &naive::Tensor) {
        assert_eq!(self.backend.shape(found), expected.shape, "{what}: shape");
        compare(what, &(self.read)(found), &expected.data);
    }

    fn products(&self) {
        self.linears();
        self.convolutions();
        self.attentions();
    }

    fn linears(&self) {
        let sizes = [(1, 1, 1), (1, 7, 3), (5, 3, 4), (13, 31, 17), (64, 64, 64), (65, 33, 67), (100, 128, 92), (3, 127, 128), (128, 16, 1)];
        for (i, (rows, input, output)) in sizes.into_iter().enumerate() {
            for (j, kind) in STORED.into_iter().enumerate() {
                let weight = stored(random(&[output, input], 1), kind, Channels::First);
                let bias = random(&[output], 2);
                let activation = ACTIVATIONS[i % ACTIVATIONS.len()];
                let (x, expected_x) = self.tensor(&[1, rows, input], 3);
                let (residual, expected_residual) = self.tensor(&[1, rows, output], 4);
                let residuals = ((i + j) % 2 == 1).then_some((&residual, &expected_residual));
                let linear = self.backend.load_linear(&self.name(), &weight, &bias).unwrap();
                let found = self.backend.linear(&x, &linear, activation, residuals.map(|r| r.0)).unwrap();
                let expected = Naive.load_linear("layer", &weight, &bias).unwrap();
                let expected = Naive.linear(&expected_x, &expected, activation, residuals.map(|r| r.1)).unwrap();
                let what = format!("linear {rows}x{input}x{output} {kind} {activation:?} residual {}", residuals.is_some());
                self.check(&what, &found, &expected);
            }
        }
    }

    fn convolutions(&self) {
        let even = |kernel, stride, padding| Window::new(kernel, stride, Padding::Even(padding));
        let same = |kernel, stride| Window::new(kernel, stride, Padding::Same);
        let oblong = Window { kernel: [1, 3], stride: 2, dilation: 2, padding: Padding::Even(1) };
        #[rustfmt::skip]
        let cases = [
            ([1, 1, 1, 1], 1, even(1, 1, 0)), ([1, 29, 23, 3], 16, even(7, 2, 3)), ([1, 32, 32, 3], 8, same(3, 2)), ([2, 17, 13, 5], 7, even(3, 1, 1)),
            ([1, 16, 11, 8], 12, even(3, 2, 1)), ([1, 9, 12, 16], 32, even(3, 1, 2).dilated(2)), ([2, 7, 5, 12], 9, even(1, 2, 0)),
            ([1, 10, 9, 4], 5, same(5, 2)), ([1, 6, 6, 24], 40, even(1, 1, 0)), ([1, 3, 2, 64], 70, even(3, 1, 1)), ([1, 8, 9, 6], 11, oblong),
            ([1, 12, 12, 36], 66, even(3, 1, 1)),
        ];
        for (i, (shape, output, window)) in cases.into_iter().enumerate() {
            for (j, kind) in STORED.into_iter().enumerate() {
                let [height, width] = window.kernel;
                let weight = stored(random(&[output, height, width, shape[3]], 1), kind, Channels::First);
                let bias = random(&[output], 2);
                let activation = ACTIVATIONS[(i + j) % ACTIVATIONS.len()];
                let (x, expected_x) = self.tensor(&shape, 3);
                let place = window.place(shape[1], shape[2]);
                let (residual, expected_residual) = self.tensor(&[shape[0], place.out_height, place.out_width, output], 4);
                let residuals = (i % 3 == 0).then_some((&residual, &expected_residual));
                let affine = (j == 1 || i % 4 == 0).then(affine);
                let conv = self.backend.load_conv(&self.name(), &weight, &bias, affine.as_ref(), window).unwrap();
                let found = self.backend.conv(&x, &conv, activation, residuals.map(|r| r.0)).unwrap();
                let expected = Naive.load_conv("layer", &weight, &bias, affine.as_ref(), window).unwrap();
                let expected = Naive.conv(&expected_x, &expected, activation, residuals.map(|r| r.1)).unwrap();
                let what = format!("conv {shape:?} to {output} {window:?} {kind} {activation:?} affine {}", affine.is_some());
                self.check(&what, &found, &expected);
            }
        }
    }

    fn depthwise_convolutions(&self) {
        let even = |kernel, stride, padding| Window::new(kernel, stride, Padding::Even(padding));
        let same = |kernel, stride| Window::new(kernel, stride, Padding::Same);
        let cases = [
            ([1, 1, 1, 1], same(3, 1)),
            ([1, 14, 11, 32], same(3, 1)),
            ([2, 13, 10, 24], same(3, 2)),
            ([1, 12, 12, 7], same(5, 2)),
            ([1, 9, 16, 18], same(5, 1)),
            ([1, 11, 8, 12], even(3, 1, 2).dilated(2)),
        ];
        for (i, (shape, window)) in cases.into_iter().enumerate() {
            for (j, kind) in STORED.into_iter().enumerate() {
                let weight = stored(random(&[window.kernel[0], window.kernel[1], shape[3]], 1), kind, Channels::Last);
                let bias = random(&[shape[3]], 2);
                let activation = ACTIVATIONS[i % ACTIVATIONS.len()];
                let (x, expected_x) = self.tensor(&shape, 3);
                let affine = (j == 1).then(affine);
                let conv = self.backend.load_depthwise(&self.name(), &weight, &bias, affine.as_ref(), window).unwrap();
                let found = self.backend.depthwise(&x, &conv, activation).unwrap();
                let expected = Naive.load_depthwise("layer", &weight, &bias, affine.as_ref(), window).unwrap();
                let expected = Naive.depthwise(&expected_x, &expected, activation).unwrap();
                self.check(&format!("depthwise {shape:?} {window:?} {kind} {activation:?} affine {}", affine.is_some()), &found, &expected);
            }
        }
    }

    /// Every int8 there is, even the one that has no counterpart.
    fn bytes(&self) {
        for width in [256, 255] {
            let values: Vec<i8> = (0..width).map(|i| i as u8 as i8).rev().collect();
            let data = |channels| Data::I8(Int8 { values: values.clone(), scales: (1..=width).map(|i| i as f32).collect(), channels });
            let (bias, one) = (HostTensor::f32(&[width], vec![0.0; width]), HostTensor::f32(&[1], vec![1.0]));
            let expected: Vec<f32> = values.iter().enumerate().map(|(i, &value)| f32::from(value) * (i + 1) as f32).collect();
            let weight = HostTensor { shape: vec![width, 1], data: data(Channels::First) };
            let linear = self.backend.load_linear(&self.name(), &weight, &bias).unwrap();
            let found = self.backend.linear(&self.backend.constant(&one).unwrap(), &linear, Activation::None, None).unwrap();
            assert_eq!((self.read)(&found), expected, "linear");
            let weight = HostTensor { shape: vec![1, 1, width], data: data(Channels::Last) };
            let depthwise = self.backend.load_depthwise(&self.name(), &weight, &bias, None, Window::new(1, 1, Padding::Even(0))).unwrap();
            let ones = self.backend.constant(&HostTensor::f32(&[1, 1, 1, width], vec![1.0; width])).unwrap();
            assert_eq!((self.read)(&self.backend.depthwise(&ones, &depthwise, Activation::None).unwrap()), expected, "depthwise");
        }
    }

    fn pools(&self) {
        let even = |kernel, stride, padding| Window::new(kernel, stride, Padding::Even(padding));
        for (shape, window) in [
            ([1, 1, 1, 1], even(1, 1, 0)),
            ([1, 13, 11, 8], even(3, 2, 1)),
            ([2, 6, 7, 5], Window::new(3, 2, Padding::Same)),
            ([1, 4, 4, 3], even(2, 2, 0)),
            ([2, 7, 5, 36], even(3, 1, 1)),
            // Padded below and on the right only.
            ([1, 5, 9, 19], Window::new(2, 1, Padding::Same)),
            // The whole map.
            ([2, 7, 9, 20], Window { kernel: [7, 9], stride: 1, dilation: 1, padding: Padding::Even(0) }),
            ([1, 9, 8, 4], even(3, 1, 2).dilated(2)),
        ] {
            for pool in [Pool::Max, Pool::MaxOfZeroPadded, Pool::Average, Pool::AverageWithin] {
                // All below zero, so that padding shows wherever it counts.
                let (x, expected) = self.between([-3.0, -1.0], &shape, 1);
                let found = self.backend.pool(&x, window, pool).unwrap();
                self.check(&format!("pool {pool:?} {shape:?} {window:?}"), &found, &Naive.pool(&expected, window, pool).unwrap());
            }
        }
    }

    fn attentions(&self) {
        // Batch, queries, keys, heads, widths of a head's keys and values, shape of the bias.
        let cases = [
            (1, 1, 1, 1, [1, 1], None),
            (1, 20, 20, 4, [32, 32], None),
            (1, 7, 127, 8, [8, 8], Some((1, 1))),
            (2, 13, 37, 3, [5, 5], Some((2, 1))),
            (2, 11, 9, 2, [31, 31], Some((1, 11))),
            (1, 5, 83, 5, [12, 12], Some((1, 1))),
            (3, 17, 70, 1, [64, 64], Some((3, 17))),
            (1, 9, 35, 3, [8, 4], None),
            (2, 5, 33, 2, [4, 36], Some((2, 5))),
            (1, 6, 17, 4, [8, 3], Some((1, 1))),
            (2, 7, 40, 3, [1, 50], None),
        ];
        for (batch, queries, keys, heads, [head_width, value_width], bias_shape) in cases {
            let width = heads * head_width;
            let (q, expected_q) = self.tensor(&[batch, queries, width], 1);
            let (k, expected_k) = self.tensor(&[batch, keys, width], 2);
            let (v, expected_v) = self.tensor(&[batch, keys, heads * value_width], 3);
            let bias = bias_shape.map(|(n, rows)| {
                let mut bias = random(&[n, rows, keys], 4).to_f32().into_owned();
                // Every third key hidden, as by a mask.
                bias.iter_mut().enumerate().filter(|(i, _)| i % keys % 3 == 2).for_each(|(_, b)| *b = -1e30);
                self.upload(&HostTensor::f32(&[n, rows, keys], bias))
            });
            let found = self.backend.attention(&q, &k, &v, heads, bias.as_ref().map(|b| &b.0)).unwrap();
            let expected = Naive.attention(&expected_q, &expected_k, &expected_v, heads, bias.as_ref().map(|b| &b.1)).unwrap();
            self.check(
                &format!("attention {batch}x{queries}x{keys}, {heads} heads of {head_width} and {value_width}, bias {bias_shape:?}"),
                &found,
                &expected,
            );
        }
        // Scores too large for exp() must not overflow.
        let large = HostTensor::f32(&[1, 3, 4], random(&[1, 3, 4], 5).to_f32().iter().map(|x| x * 100.0).collect());
        let (q, expected_q) = self.upload(&large);
        let (v, expected_v) = self.tensor(&[1, 3, 4], 6);
        let found = self.backend.attention(&q, &q, &v, 1, None).unwrap();
        self.check("attention with large scores", &found, &Naive.attention(&expected_q, &expected_q, &expected_v, 1, None).unwrap());
    }

    fn norms(&self) {
        for (rows, width) in [(1, 1), (3, 5), (29, 64), (7, 100), (2, 128)] {
            for shift in [true, false] {
                let (weight, bias) = (random(&[width], 1), random(&[width], 2));
                let bias = shift.then_some(&bias);
                // Far from zero: the variance must not be computed from squares.
                let (x, expected) = self.between([99.0, 101.0], &[1, rows, width], 3);
                let found = self.backend.norm(&x, &self.backend.load_norm(&self.name(), &weight, bias, 1e-5).unwrap()).unwrap();
                let expected = Naive.norm(&expected, &Naive.load_norm("layer", &weight, bias, 1e-5).unwrap()).unwrap();
                assert_eq!(self.backend.shape(&found), expected.shape);
                // At 100 an f32 has steps of 8e-6, which the norm magnifies where a row is short.
                let worst = (self.read)(&found).iter().zip(expected.data.iter()).fold(0.0f32, |top, (f, e)| top.max((f - e).abs()));
                assert!(worst < 2e-4, "norm {rows}x{width}, with a bias: {shift}: off by {worst}");
            }
        }
        // Rows of zeros are divided by the epsilon alone.
        let weight = random(&[6], 1);
        for shift in [true, false] {
            let bias = shift.then_some(&weight);
            let norm = self.backend.load_norm(&self.name(), &weight, bias, 1e-6).unwrap();
            let (zeros, expected) = self.between([0.0, 0.0], &[1, 2, 6], 1);
            let expected = Naive.norm(&expected, &Naive.load_norm("layer", &weight, bias, 1e-6).unwrap()).unwrap();
            self.check("norm of zeros", &self.backend.norm(&zeros, &norm).unwrap(), &expected);
        }
    }

    /// Memory of dropped tensors is used again, but never while somebody still holds a tensor or a view of it.
    fn reuse(&self) {
        let (weight, bias) = (random(&[24, 24], 1), random(&[24], 2));
        let (linear, expected_linear) =
            (self.backend.load_linear(&self.name(), &weight, &bias).unwrap(), Naive.load_linear("layer", &weight, &bias).unwrap());
        let (x, expected_x) = self.tensor(&[1, 4, 6, 24], 3);
        let kept = self.backend.linear(&x, &linear, Activation::Relu, None).unwrap();
        let expected_kept = Naive.linear(&expected_x, &expected_linear, Activation::Relu, None).unwrap();
        let view = self.backend.reshape(&kept, &[1, 24, 24]).unwrap();
        let expected_view = Naive.reshape(&expected_kept, &[1, 24, 24]).unwrap();
        drop(kept);
        let (mut y, mut expected) = (view.clone(), expected_view.clone());
        for _ in 0..5 {
            y = self.backend.linear(&y, &linear, Activation::Sigmoid, Some(&view)).unwrap();
            expected = Naive.linear(&expected, &expected_linear, Activation::Sigmoid, Some(&expected_view)).unwrap();
        }
        self.check("the last of a chain", &y, &expected);
        self.check("a view that outlives the chain", &view, &expected_view);
    }
}

/// What everything is held against is itself held against numbers of PyTorch's.
#[test]
fn naive_agrees_with_pytorch() {
    // F.conv2d(torch.arange(9.).reshape(1, 1, 3, 3), torch.arange(4.).reshape(1, 1, 2, 2), torch.tensor([0.5]), stride=2, padding=1)
    let x = Naive.constant(&HostTensor::f32(&[1, 3, 3, 1], (0..9).map(|i| i as f32).collect())).unwrap();
    let weight = HostTensor::f32(&[1, 2, 2, 1], vec![0.0, 1.0, 2.0, 3.0]);
    let conv = Naive.load_conv("layer", &weight, &HostTensor::f32(&[1], vec![0.5]), None, Window::new(2, 2, Padding::Even(1))).unwrap();
    compare("conv2d", &Naive.conv(&x, &conv, Activation::None, None).unwrap().data, &[0.5, 8.5, 21.5, 43.5]);

    // q = torch.arange(8.).reshape(1, 2, 4) / 8; split = lambda x: x.reshape(1, 2, 2, 2).transpose(1, 2)
    // F.scaled_dot_product_attention(split(q), split(q * 2), split(q - 0.5), attn_mask=torch.tensor([[[[0., 0.5]]]])).transpose(1, 2)
    let tensor = |scale: f32, offset: f32| {
        let data = (0..8).map(|i| i as f32 / 8.0 * scale + offset).collect();
        Naive.constant(&HostTensor::f32(&[1, 2, 4], data)).unwrap()
    };
    let bias = Naive.constant(&HostTensor::f32(&[1, 1, 2], vec![0.0, 0.5])).unwrap();
    let mixed = Naive.attention(&tensor(1.0, 0.0), &tensor(2.0, 0.0), &tensor(1.0, -0.5), 2, Some(&bias)).unwrap();
    let expected = [-0.178_502_37, -0.053_502_37, 0.109_745_86, 0.234_745_85, -0.107_462_086, 0.017_537_924, 0.169_381_2, 0.294_381_2];
    compare("attention", &mixed.data, &expected);

    // F.layer_norm(torch.tensor([1., 2., 4.]), [3], torch.tensor([1., 2., 3.]), torch.tensor([0., 1., 0.]), 1e-5)
    let (weight, bias) = (HostTensor::f32(&[3], vec![1.0, 2.0, 3.0]), HostTensor::f32(&[3], vec![0.0, 1.0, 0.0]));
    let x = Naive.constant(&HostTensor::f32(&[1, 1, 3], vec![1.0, 2.0, 4.0])).unwrap();
    let normed = Naive.norm(&x, &Naive.load_norm("layer", &weight, Some(&bias), 1e-5).unwrap()).unwrap();
    compare("layer norm", &normed.data, &[-1.069_041_4, 0.465_479_43, 4.008_905_4]);

    // F.gelu(torch.tensor([-1., 0.5, 2.]))
    let gelu = [-1.0, 0.5, 2.0].map(|x| naive::activate(Activation::Gelu, x) as f32);
    compare("gelu", &gelu, &[-0.158_655_26, 0.345_731_23, 1.954_499_7]);
}
