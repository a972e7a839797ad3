//! Layer norm as one operation of candle's autograd (candle's own has no backward).

use super::{contiguous, of};
use crate::cpu::Floats;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Layer norm over the last dimension: `x` `[…, width]`, scale and shift `[width]`.
pub struct LayerNorm {
    pub epsilon: f32,
}

impl LayerNorm {
    /// A row's mean, and the reciprocal of its deviation.
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let mean = sum(x.iter().copied()) / x.len() as f32;
        let variance = sum(x.iter().map(|x| (x - mean) * (x - mean))) / x.len() as f32;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }
}

/// By several partial sums, which become vectors.
fn sum(numbers: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut sums = [0.0; 16];
    for (i, x) in numbers.enumerate() {
        sums[i % 16] += x;
    }
    sums.iter().sum()
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
        let mut out = Vec::with_capacity(x.len());
        for x in x.chunks_exact(w.len()) {
            let (mean, scale) = self.moments(x);
            out.extend(x.iter().zip(w).zip(b).map(|((x, w), b)| (x - mean) * scale * w + b));
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xt, grad) = (contiguous(x)?, contiguous(grad)?);
        let (xs, g, weight) = (Floats::of(&xt)?, Floats::of(&grad)?, Floats::of(w)?);
        let width = weight.len();
        let (mut by_x, mut by_w, mut by_b) = (Vec::with_capacity(xs.len()), vec![0.0; width], vec![0.0; width]);
        let mut normed = vec![0.0; width];
        let mut pulled = vec![0.0; width];
        for (x, g) in xs.chunks_exact(width).zip(g.chunks_exact(width)) {
            let (mean, scale) = self.moments(x);
            for i in 0..width {
                normed[i] = (x[i] - mean) * scale;
                pulled[i] = g[i] * weight[i];
                by_w[i] += g[i] * normed[i];
                by_b[i] += g[i];
            }
            // What a shift and a stretch of the whole row would do is undone by the norm.
            let shift = sum(pulled.iter().copied()) / width as f32;
            let stretch = sum(pulled.iter().zip(&normed).map(|(p, n)| p * n)) / width as f32;
            by_x.extend(pulled.iter().zip(&normed).map(|(p, n)| scale * (p - shift - n * stretch)));
        }
        let tensor = |values: Vec<f32>, of: &Tensor| of.track_op().then(|| Tensor::from_vec(values, of.shape(), of.device())).transpose();
        Ok((tensor(by_x, x)?, tensor(by_w, w)?, tensor(by_b, b)?))
    }
}
