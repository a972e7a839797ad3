//! Softmax of rows, by vectors.

use super::lanes::{dispatch, exp};
use super::threads;
use pulp::{Simd, WithSimd};

/// Numbers of a block: it stays in the second-level cache.
const BLOCK: usize = 1 << 15;

/// Softmax of each row of `width` numbers.
pub fn softmax(x: &[f32], width: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    // An exponential costs about ten multiplications.
    let block = threads::block(x.len() / width, (BLOCK / width).max(1), 10 * width) * width;
    threads::each_block(&mut out, block, |_, scores| dispatch(Softmax { scores, width }));
    out
}

/// Softmax of each row of `width` scores, in place.
pub struct Softmax<'a> {
    pub scores: &'a mut [f32],
    pub width: usize,
}

/// Partial results side by side, so that a loop over them becomes vectors.
const SIDE_BY_SIDE: usize = 16;

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.scores.chunks_exact_mut(self.width) {
            softmax_row(row);
        }
    }
}

/// Softmax in place.
#[inline(always)]
pub fn softmax_row(row: &mut [f32]) {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = row.as_chunks::<SIDE_BY_SIDE>();
    let mut tops = [f32::NEG_INFINITY; SIDE_BY_SIDE];
    for chunk in chunks {
        for i in 0..SIDE_BY_SIDE {
            tops[i] = larger(tops[i], chunk[i]);
        }
    }
    let top = tops.iter().chain(rest).fold(f32::NEG_INFINITY, |top, &x| larger(top, x));

    let (chunks, rest) = row.as_chunks_mut::<SIDE_BY_SIDE>();
    let mut sums = [0.0; SIDE_BY_SIDE];
    for chunk in chunks {
        for i in 0..SIDE_BY_SIDE {
            chunk[i] = exp(chunk[i] - top);
            sums[i] += chunk[i];
        }
    }
    // By itself, so that this loop too becomes vectors: a head of a deformable attention has 4 to 12 points.
    for x in &mut *rest {
        *x = exp(*x - top);
    }
    let scale = 1.0 / (sums.iter().sum::<f32>() + rest.iter().sum::<f32>());
    for x in row {
        *x *= scale;
    }
}
