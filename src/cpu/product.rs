//! The matrix product that convolutions, linear maps and attention share, with its epilogue.
//!
//! The left side is never copied together: each of its rows is a few runs of numbers wherever they lie in memory (for a convolution one
//! run a tap, as in XNNPACK's indirect convolution), so that there is no im2col. The right side is packed in panels (`panels.rs`).
//! A tile of [`TILE`] rows by one panel is summed in registers; a panel passes all tiles of a block before the next one comes,
//! so that it stays in the first-level cache, and the block's left side in the second.

use super::lanes::{bend, bounds, dispatch, vectors, vectors_mut};
use super::threads;
use crate::config::Activation;
use pulp::{Simd, WithSimd};

/// Rows of a tile. With two vectors a row, six fill the 16 registers of AVX2; V8 makes the fastest code from four.
pub const TILE: usize = if cfg!(target_arch = "wasm32") { 4 } else { 6 };

/// Bytes of the left side that a block may have: half of a small second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// How a product ends: `activation(product + bias + residual)`.
#[derive(Clone, Copy, Default)]
pub struct End<'a> {
    /// One for each output.
    pub bias: Option<&'a [f32]>,
    /// As the product, without gaps between its rows.
    pub residual: Option<&'a [f32]>,
    pub activation: Activation,
}

/// The right side: packed `[taps * run, outputs]`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub packed: &'a [f32],
    pub taps: usize,
    pub run: usize,
    pub outputs: usize,
}

/// The left side of some rows, in the order in which tiles read it: `[tiles][taps][TILE]` runs. Rows past the last repeat it.
pub fn runs<'a>(rows: usize, taps: usize, at: impl Fn(usize, usize) -> &'a [f32]) -> Vec<[&'a [f32]; TILE]> {
    let mut runs = Vec::with_capacity(rows.div_ceil(TILE) * taps);
    for first in (0..rows).step_by(TILE) {
        runs.extend((0..taps).map(|tap| std::array::from_fn(|row| at((first + row).min(rows - 1), tap))));
    }
    runs
}

/// All rows of a product, in parallel: `at(row, tap)` gives a run of the left side.
pub fn product<'a>(right: Right, end: End, at: impl Fn(usize, usize) -> &'a [f32] + Sync, out: &mut [f32]) {
    let Right { taps, run, outputs, .. } = right;
    let rows = out.len() / outputs;
    let most = (BLOCK_BYTES / (run * size_of::<f32>())).clamp(8 * TILE, 4096);
    let block = threads::block(rows, most, taps * run * outputs).next_multiple_of(TILE);
    threads::each_block(out, block * outputs, |index, out| {
        let first = index * block;
        let rows = out.len() / outputs;
        let residual = end.residual.map(|residual| &residual[first * outputs..][..out.len()]);
        let left = runs(rows, taps, |row, tap| at(first + row, tap));
        multiply(&left, right, End { residual, ..end }, out, outputs, rows);
        bend(out, end.activation);
    });
}

/// `rows` rows of a product into `out`, where they begin `stride` apart; of the activation only its [`bounds`].
pub fn multiply(left: &[[&[f32]; TILE]], right: Right, end: End, out: &mut [f32], stride: usize, rows: usize) {
    dispatch(Multiply { left, right, end, out, stride, rows });
}

struct Multiply<'a, 'b> {
    left: &'a [[&'b [f32]; TILE]],
    right: Right<'a>,
    end: End<'a>,
    out: &'a mut [f32],
    stride: usize,
    rows: usize,
}

impl WithSimd for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Right { packed, taps, run, outputs } = self.right;
        let width = 2 * S::F32_LANES;
        for (panel, column) in packed.chunks_exact(taps * run * width).zip((0..outputs).step_by(width)) {
            let panel = vectors::<S>(panel).as_chunks().0;
            let columns = width.min(outputs - column);
            for (tile, left) in self.left.chunks_exact(taps).enumerate() {
                let sums = sum(simd, left, panel, run);
                for (row, sums) in (tile * TILE..).zip(sums) {
                    if row < self.rows {
                        let out = &mut self.out[row * self.stride + column..][..columns];
                        let bias = self.end.bias.map(|bias| &bias[column..][..columns]);
                        let residual = self.end.residual.map(|residual| &residual[row * outputs + column..][..columns]);
                        finish(simd, sums, bias, residual, bounds(self.end.activation), out);
                    }
                }
            }
        }
    }
}

/// One tile: the sum over all runs of (run of a row) · (rows of the panel).
#[inline(always)]
fn sum<S: Simd>(simd: S, left: &[[&[f32]; TILE]], panel: &[[S::f32s; 2]], run: usize) -> [[S::f32s; 2]; TILE] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; TILE];
    for (runs, panel) in left.iter().zip(panel.chunks_exact(run)) {
        let runs = runs.map(|r| &r[..run]);
        for (i, &[first, second]) in panel.iter().enumerate() {
            for (sums, run) in sums.iter_mut().zip(runs) {
                let x = simd.splat_f32s(run[i]);
                sums[0] = simd.mul_add_e_f32s(x, first, sums[0]);
                sums[1] = simd.mul_add_e_f32s(x, second, sums[1]);
            }
        }
    }
    sums
}

/// Bias, residual and bounds of one row of a tile.
#[inline(always)]
fn finish<S: Simd>(simd: S, sums: [S::f32s; 2], bias: Option<&[f32]>, residual: Option<&[f32]>, bounds: Option<[f32; 2]>, out: &mut [f32]) {
    let width = 2 * S::F32_LANES;
    if out.len() < width {
        // The last panel's: put together in a full one.
        let mut padded = [[simd.splat_f32s(0.0); 2]; 3];
        let [bias_row, residual_row, out_row] = padded.each_mut().map(|row| bytemuck::cast_slice_mut::<S::f32s, f32>(row));
        for (row, values) in [(&mut *bias_row, bias), (&mut *residual_row, residual)] {
            if let Some(values) = values {
                row[..values.len()].copy_from_slice(values);
            }
        }
        finish_full(simd, sums, Some(bias_row), Some(residual_row), bounds, out_row);
        out.copy_from_slice(&out_row[..out.len()]);
    } else {
        finish_full(simd, sums, bias, residual, bounds, out);
    }
}

#[inline(always)]
fn finish_full<S: Simd>(simd: S, sums: [S::f32s; 2], bias: Option<&[f32]>, residual: Option<&[f32]>, bounds: Option<[f32; 2]>, out: &mut [f32]) {
    let out = vectors_mut::<S>(out);
    let bounds = bounds.map(|bounds| bounds.map(|bound| simd.splat_f32s(bound)));
    for v in 0..2 {
        let mut x = sums[v];
        for term in [bias, residual].into_iter().flatten() {
            x = simd.add_f32s(x, vectors::<S>(term)[v]);
        }
        if let Some([least, most]) = bounds {
            x = simd.min_f32s(simd.max_f32s(x, least), most);
        }
        out[v] = x;
    }
}
