//! The sampling of a multi-scale deformable attention as one operation of candle's autograd. (Made of candle's operations, it would keep
//! a row of the value for each of four places of each point.)

use super::attention::dot;
use super::{contiguous, gradient, of};
use crate::backend::SamplingMethod;
use crate::cpu::Floats;
use crate::cpu::deformable::{Level, Sampler, nearest};
use crate::cpu::lanes::dispatch;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

/// Value `[batch, tokens, heads * head_width]`, locations `[batch, queries, heads * points, 2]` in fractions of the picture, weights
/// `[batch, queries, heads * points]` → `[batch, queries, heads * head_width]`. Shapes are checked when the [`Sampler`] is made.
pub struct Sample {
    pub sampler: Sampler,
}

impl CustomOp3 for Sample {
    fn name(&self) -> &'static str {
        "deformable-sample"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout, at: &CpuStorage, la: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, queries, _) = lw.shape().dims3()?;
        let mut out = vec![0.0; batch * queries * self.sampler.row()];
        dispatch(Forward { sampler: &self.sampler, queries, value: of(v, lv)?, locations: of(at, la)?, weights: of(w, lw)?, out: &mut out });
        Ok((CpuStorage::F32(out), (batch, queries, self.sampler.row()).into()))
    }

    fn bwd(&self, v: &Tensor, at: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let queries = w.dims3()?.1;
        let [vt, at_t, wt, grad] = [contiguous(v)?, contiguous(at)?, contiguous(w)?, contiguous(grad)?];
        let (value, locations, weights, grad) = (Floats::of(&vt)?, Floats::of(&at_t)?, Floats::of(&wt)?, Floats::of(&grad)?);
        let (mut by_value, mut by_locations, mut by_weights) = (vec![0.0; value.len()], vec![0.0; locations.len()], vec![0.0; weights.len()]);
        dispatch(Backward {
            sampler: &self.sampler,
            queries,
            value: &value,
            locations: locations.as_chunks().0,
            weights: &weights,
            grad: &grad,
            by_value: &mut by_value,
            by_locations: by_locations.as_chunks_mut().0,
            by_weights: &mut by_weights,
        });
        Ok((gradient(by_value, v)?, gradient(by_locations, at)?, gradient(by_weights, w)?))
    }
}

struct Forward<'a> {
    sampler: &'a Sampler,
    queries: usize,
    value: &'a [f32],
    locations: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (row, points) = (self.sampler.row(), self.sampler.all_points());
        let mut places = Vec::with_capacity(4 * self.sampler.points.len());
        let given = self.locations.as_chunks().0.chunks_exact(points).zip(self.weights.chunks_exact(points));
        for (query, ((locations, weights), out)) in given.zip(self.out.chunks_exact_mut(row)).enumerate() {
            let value = &self.value[query / self.queries * self.sampler.tokens * row..][..self.sampler.tokens * row];
            self.sampler.sample(value, locations, weights, &mut places, out);
        }
    }
}

struct Backward<'a> {
    sampler: &'a Sampler,
    queries: usize,
    value: &'a [f32],
    locations: &'a [[f32; 2]],
    weights: &'a [f32],
    grad: &'a [f32],
    by_value: &'a mut [f32],
    by_locations: &'a mut [[f32; 2]],
    by_weights: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let Sampler { heads, head_width, tokens, .. } = *self.sampler;
        let points = self.sampler.points.len();
        for query in 0..self.weights.len() / (heads * points) {
            for head in 0..heads {
                let first = query / self.queries * tokens;
                for point in 0..points {
                    let grad = &self.grad[(query * heads + head) * head_width..][..head_width];
                    self.point(first, head, (query * heads + head) * points + point, self.sampler.levels[self.sampler.points[point]], grad);
                }
            }
        }
    }
}

impl Backward<'_> {
    /// One point of a head; `first` is its picture's first token.
    #[inline(always)]
    fn point(&mut self, first: usize, head: usize, point: usize, level: Level, grad: &[f32]) {
        let (weight, [x, y]) = (self.weights[point], self.locations[point]);
        let Level { height, width, .. } = level;
        match self.sampler.method {
            SamplingMethod::Default => {
                let (x, y) = (x * width as f32 - 0.5, y * height as f32 - 0.5);
                let (left, top) = (x.floor(), y.floor());
                let (right, down) = (x - left, y - top);
                let (rows, columns) = ([top as i32, (top as i32).wrapping_add(1)], [left as i32, (left as i32).wrapping_add(1)]);
                // The slope by each of the four places.
                let mut slopes = [[0.0; 2]; 2];
                for (i, (row, down)) in rows.into_iter().zip([1.0 - down, down]).enumerate() {
                    for (j, (column, right)) in columns.into_iter().zip([1.0 - right, right]).enumerate() {
                        if (row as u32 as usize) < height && (column as u32 as usize) < width {
                            let token = first + level.first + row as usize * width + column as usize;
                            slopes[i][j] = self.place(token, head, weight * down * right, grad);
                        }
                    }
                }
                let [[a, b], [c, d]] = slopes;
                let across = (1.0 - down) * (b - a) + down * (d - c);
                let along = (1.0 - right) * (c - a) + right * (d - b);
                self.by_weights[point] = (1.0 - down) * ((1.0 - right) * a + right * b) + down * ((1.0 - right) * c + right * d);
                self.by_locations[point] = [weight * across * width as f32, weight * along * height as f32];
            }
            SamplingMethod::Discrete => {
                let token = first + level.first + nearest(y, height) * width + nearest(x, width);
                self.by_weights[point] = self.place(token, head, weight, grad);
            }
        }
    }

    /// Adds what a token of the value contributes by `share`; gives the slope by that share.
    #[inline(always)]
    fn place(&mut self, token: usize, head: usize, share: f32, grad: &[f32]) -> f32 {
        let at = token * self.sampler.row() + head * self.sampler.head_width;
        let by_value = &mut self.by_value[at..][..grad.len()];
        by_value.iter_mut().zip(grad).for_each(|(by_value, grad)| *by_value += share * grad);
        dot(&self.value[at..][..grad.len()], grad)
    }
}
