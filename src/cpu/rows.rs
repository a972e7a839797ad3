//! Layer norm and RMS norm, by vectors.

use super::lanes::dispatch;
use super::threads;
use pulp::{Simd, WithSimd};

/// Numbers of a block: it stays in the second-level cache.
const BLOCK: usize = 1 << 15;

/// The norm of each row of `x`, which is as long as `weight`: a layer norm, or without a bias an RMS norm.
pub fn norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    let width = weight.len();
    let block = threads::block(x.len() / width, (BLOCK / width).max(1), width) * width;
    threads::each_block(&mut out, block, |index, out| {
        let x = &x[index * block..][..out.len()];
        match bias {
            Some(bias) => dispatch(LayerNorm { x, weight, bias, epsilon, out }),
            None => dispatch(RmsNorm { x, weight, epsilon, out }),
        }
    });
    out
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl WithSimd for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = sum(x, |x| x) / width as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            for ((out, x), (weight, bias)) in out.iter_mut().zip(x).zip(self.weight.iter().zip(self.bias)) {
                *out = (x - mean) * scale * weight + bias;
            }
        }
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let scale = 1.0 / (sum(x, |x| x * x) / width as f32 + self.epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

/// The sum of `value` of each, by several partial sums, which become vectors.
#[inline(always)]
pub fn sum(x: &[f32], value: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for chunk in chunks {
        for i in 0..16 {
            sums[i] += value(chunk[i]);
        }
    }
    sums.into_iter().sum::<f32>() + rest.iter().map(|&x| value(x)).sum::<f32>()
}
