//! Multi-head attention as one operation of candle's autograd. The scores are computed again for the backward pass, so that
//! nothing as large as they are is kept, and heads are read where they lie, so that nothing is transposed.

use super::{contiguous, gradient, of};
use crate::cpu::Floats;
use crate::cpu::lanes::{dispatch, exp};
use crate::cpu::rows::sum;
use crate::matrix::{Matrix, product};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

/// softmax(q·kᵀ/√width + bias)·v in each head; shapes as in [`Backend::attention`](crate::backend::Backend::attention).
pub struct Attention {
    pub heads: usize,
    /// `[batch or 1, queries or 1, keys]`
    pub bias: Option<Tensor>,
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    /// All heads' widths together, of queries and keys and of values.
    row: usize,
    value_row: usize,
}

impl Attention {
    fn sizes(&self, q: &[usize], k: &[usize], v: &[usize]) -> Result<Sizes> {
        match (q, k, v) {
            (&[batch, queries, row], &[b, keys, r], &[c, values, value_row])
                if (b, r) == (batch, row)
                    && (c, values) == (batch, keys)
                    && ![batch, queries, keys, row, value_row].contains(&0)
                    && row.is_multiple_of(self.heads)
                    && value_row.is_multiple_of(self.heads) =>
            {
                let sizes = Sizes { batch, queries, keys, row, value_row };
                match &self.bias {
                    Some(bias) => {
                        let &[b, q, k] = bias.dims() else { candle_core::bail!("a bias {:?}", bias.shape()) };
                        if !([1, batch].contains(&b) && [1, queries].contains(&q) && k == keys) {
                            candle_core::bail!("a bias {:?} doesn't go with scores {:?}", bias.shape(), [batch, queries, keys]);
                        }
                        Ok(sizes)
                    }
                    None => Ok(sizes),
                }
            }
            _ => candle_core::bail!("queries {q:?}, keys {k:?} and values {v:?} don't go together in {} heads", self.heads),
        }
    }

    /// The attention weights `[queries, keys]` of a head of a picture, into `weights`.
    fn weights(&self, s: Sizes, q: &[f32], k: &[f32], bias: Option<&[f32]>, picture: usize, weights: &mut [f32]) {
        let width = s.row / self.heads;
        let scale = 1.0 / (width as f32).sqrt();
        product(weights, s.keys, Matrix::new(q, s.queries, width, s.row), Matrix::new(k, s.keys, width, s.row).transposed(), scale, false);
        let bias = bias.map(|bias| {
            let rows = self.bias.as_ref().map_or(1, |bias| bias.dims()[1]);
            let picture = if bias.len() > rows * s.keys { picture } else { 0 };
            &bias[picture * rows * s.keys..][..rows * s.keys]
        });
        dispatch(Softmax { scores: weights, keys: s.keys, bias });
    }

    fn bias(&self) -> Result<Option<Floats<'_>>> {
        self.bias.as_ref().map(Floats::of).transpose()
    }
}

/// Scores `[queries, keys]` become weights; `bias` is of one row or of all.
struct Softmax<'a> {
    scores: &'a mut [f32],
    keys: usize,
    bias: Option<&'a [f32]>,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (i, row) in self.scores.chunks_exact_mut(self.keys).enumerate() {
            if let Some(bias) = self.bias {
                let bias = if bias.len() > self.keys { &bias[i * self.keys..] } else { bias };
                row.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            let most = largest(row);
            row.iter_mut().for_each(|score| *score = exp(*score - most));
            let total = sum(row, |weight| weight).recip();
            row.iter_mut().for_each(|weight| *weight *= total);
        }
    }
}

/// The gradient by the weights becomes the one by the scores.
struct Backward<'a> {
    slopes: &'a mut [f32],
    weights: &'a [f32],
    keys: usize,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (slopes, weights) in self.slopes.chunks_exact_mut(self.keys).zip(self.weights.chunks_exact(self.keys)) {
            let mean = dot(slopes, weights);
            slopes.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = (*slope - mean) * weight);
        }
    }
}

/// Σ a·b by several partial sums, which become vectors.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.into_iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// By several partial results, which become vectors.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut most = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for i in 0..16 {
            most[i] = if chunk[i] > most[i] { chunk[i] } else { most[i] };
        }
    }
    most.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, k: &CpuStorage, lk: &Layout, v: &CpuStorage, lv: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(lq.dims(), lk.dims(), lv.dims())?;
        let (q, k, v, bias) = (of(q, lq)?, of(k, lk)?, of(v, lv)?, self.bias()?);
        let (width, value_width) = (s.row / self.heads, s.value_row / self.heads);
        let mut out = vec![0.0; s.batch * s.queries * s.value_row];
        let mut weights = vec![0.0; s.queries * s.keys];
        for n in 0..s.batch {
            for h in 0..self.heads {
                let (at_q, at_k) = (n * s.queries * s.row + h * width, n * s.keys * s.row + h * width);
                let (at_v, at_out) = (n * s.keys * s.value_row + h * value_width, n * s.queries * s.value_row + h * value_width);
                self.weights(s, &q[at_q..], &k[at_k..], bias.as_deref(), n, &mut weights);
                let values = Matrix::new(&v[at_v..], s.keys, value_width, s.value_row);
                product(&mut out[at_out..], s.value_row, Matrix::new(&weights, s.queries, s.keys, s.keys), values, 1.0, false);
            }
        }
        Ok((CpuStorage::F32(out), (s.batch, s.queries, s.value_row).into()))
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, v: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.sizes(q.dims(), k.dims(), v.dims())?;
        let [qt, kt, vt, grad] = [contiguous(q)?, contiguous(k)?, contiguous(v)?, contiguous(grad)?];
        let (qs, ks, vs, g, bias) = (Floats::of(&qt)?, Floats::of(&kt)?, Floats::of(&vt)?, Floats::of(&grad)?, self.bias()?);
        let (width, value_width) = (s.row / self.heads, s.value_row / self.heads);
        let scale = 1.0 / (width as f32).sqrt();
        let (mut by_q, mut by_k, mut by_v) = (vec![0.0; qs.len()], vec![0.0; ks.len()], vec![0.0; vs.len()]);
        let mut weights = vec![0.0; s.queries * s.keys];
        let mut slopes = vec![0.0; s.queries * s.keys];
        for n in 0..s.batch {
            for h in 0..self.heads {
                let (at_q, at_k) = (n * s.queries * s.row + h * width, n * s.keys * s.row + h * width);
                let (at_v, at_out) = (n * s.keys * s.value_row + h * value_width, n * s.queries * s.value_row + h * value_width);
                self.weights(s, &qs[at_q..], &ks[at_k..], bias.as_deref(), n, &mut weights);
                let out = Matrix::new(&g[at_out..], s.queries, value_width, s.value_row);
                product(&mut by_v[at_v..], s.value_row, Matrix::new(&weights, s.queries, s.keys, s.keys).transposed(), out, 1.0, false);
                let values = Matrix::new(&vs[at_v..], s.keys, value_width, s.value_row);
                product(&mut slopes, s.keys, out, values.transposed(), 1.0, false);
                dispatch(Backward { slopes: &mut slopes, weights: &weights, keys: s.keys });
                let slopes = Matrix::new(&slopes, s.queries, s.keys, s.keys);
                product(&mut by_q[at_q..], s.row, slopes, Matrix::new(&ks[at_k..], s.keys, width, s.row), scale, false);
                product(&mut by_k[at_k..], s.row, slopes.transposed(), Matrix::new(&qs[at_q..], s.queries, width, s.row), scale, false);
            }
        }
        Ok((gradient(by_q, q)?, gradient(by_k, k)?, gradient(by_v, v)?))
    }
}
