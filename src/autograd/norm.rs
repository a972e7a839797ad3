//! Layer norm and RMS norm, each as one operation of candle's autograd (candle's own have no backward).

use super::attention::dot;
use super::{contiguous, gradient, of};
use crate::cpu::Floats;
use crate::cpu::lanes::dispatch;
use crate::cpu::rows::{norm, sum};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

/// Layer norm over the last dimension: `x` `[…, width]`, scale and shift `[width]`.
pub struct LayerNorm {
    pub epsilon: f32,
}

impl LayerNorm {
    /// A row's mean, and the reciprocal of its deviation.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let mean = sum(x, |x| x) / x.len() as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }
}

/// Each row of the gradient by the output, pulled back to the input; by scale and shift it is summed.
struct Backward<'a> {
    norm: &'a LayerNorm,
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    by_x: &'a mut [f32],
    by_w: &'a mut [f32],
    by_b: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.weight.len();
        let mut normed = vec![0.0; width];
        for ((x, grad), by_x) in self.x.chunks_exact(width).zip(self.grad.chunks_exact(width)).zip(self.by_x.chunks_exact_mut(width)) {
            let (mean, scale) = self.norm.moments(x);
            for ((normed, x), (grad, (by_w, by_b))) in normed.iter_mut().zip(x).zip(grad.iter().zip(self.by_w.iter_mut().zip(self.by_b.iter_mut()))) {
                *normed = (x - mean) * scale;
                *by_w += grad * *normed;
                *by_b += grad;
            }
            by_x.iter_mut().zip(grad).zip(self.weight).for_each(|((pulled, grad), weight)| *pulled = grad * weight);
            // What a shift and a stretch of the whole row would do is undone by the norm.
            let shift = sum(by_x, |pulled| pulled) / width as f32;
            let stretch = dot(by_x, &normed) / width as f32;
            by_x.iter_mut().zip(&normed).for_each(|(by_x, normed)| *by_x = scale * (*by_x - shift - normed * stretch));
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (of(x, lx)?, of(w, lw)?, of(b, lb)?);
        if w.is_empty() || w.len() != b.len() || lx.dims().last() != Some(&w.len()) {
            candle_core::bail!("a layer norm {:?} can't act on {:?}", lw.shape(), lx.shape());
        }
        let out = norm(x, w, Some(b), self.epsilon);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xt, grad) = (contiguous(x)?, contiguous(grad)?);
        let (xs, g, weight) = (Floats::of(&xt)?, Floats::of(&grad)?, Floats::of(w)?);
        let width = weight.len();
        let (mut by_x, mut by_w, mut by_b) = (vec![0.0; xs.len()], vec![0.0; width], vec![0.0; width]);
        dispatch(Backward { norm: self, x: &xs, grad: &g, weight: &weight, by_x: &mut by_x, by_w: &mut by_w, by_b: &mut by_b });
        Ok((gradient(by_x, x)?, gradient(by_w, w)?, gradient(by_b, b)?))
    }
}

/// RMS norm over the last dimension: `x` `[…, width]`, scale `[width]`.
pub struct RmsNorm {
    pub epsilon: f32,
}

struct RmsBackward<'a> {
    epsilon: f32,
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    by_x: &'a mut [f32],
    by_w: &'a mut [f32],
}

impl WithSimd for RmsBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.weight.len();
        for ((x, grad), by_x) in self.x.chunks_exact(width).zip(self.grad.chunks_exact(width)).zip(self.by_x.chunks_exact_mut(width)) {
            let scale = 1.0 / (sum(x, |x| x * x) / width as f32 + self.epsilon).sqrt();
            for ((by_w, by_x), ((x, grad), weight)) in self.by_w.iter_mut().zip(&mut *by_x).zip(x.iter().zip(grad).zip(self.weight)) {
                *by_w += grad * x * scale;
                *by_x = grad * weight;
            }
            // What a stretch of the whole row would do is undone by the norm.
            let stretch = dot(by_x, x) * scale * scale / width as f32;
            by_x.iter_mut().zip(x).for_each(|(by_x, x)| *by_x = scale * (*by_x - x * stretch));
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (of(x, lx)?, of(w, lw)?);
        if w.is_empty() || lx.dims().last() != Some(&w.len()) {
            candle_core::bail!("an RMS norm {:?} can't act on {:?}", lw.shape(), lx.shape());
        }
        Ok((CpuStorage::F32(norm(x, w, None, self.epsilon)), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xt, grad) = (contiguous(x)?, contiguous(grad)?);
        let (xs, g, weight) = (Floats::of(&xt)?, Floats::of(&grad)?, Floats::of(w)?);
        let (mut by_x, mut by_w) = (vec![0.0; xs.len()], vec![0.0; weight.len()]);
        dispatch(RmsBackward { epsilon: self.epsilon, x: &xs, grad: &g, weight: &weight, by_x: &mut by_x, by_w: &mut by_w });
        Ok((gradient(by_x, x)?, gradient(by_w, w)?))
    }
}
