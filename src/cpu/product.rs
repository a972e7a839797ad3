//! The matrix product that convolutions, linear maps and attention share, with its epilogue.
//!
//! The left side is never copied together: each of its rows is a few runs of numbers wherever they lie in memory (for a convolution one
//! run a tap, as in XNNPACK's indirect convolution), so that there is no im2col. The right side is packed in panels (`panels.rs`).
//! A tile of [`TILE`] rows by one panel is summed in registers; a panel passes all tiles of a block before the next one comes,
//! so that it stays in the first-level cache, and the block's left side in the second.

use super::lanes::{Ending, dispatch, vectors, vectors_mut};
use super::threads;
use pulp::{Simd, WithSimd};

/// Rows of a tile. With two vectors a row, six fill the 16 registers of AVX2; V8 makes the fastest code from four.
pub const TILE: usize = if cfg!(target_arch = "wasm32") { 4 } else { 6 };

/// Bytes that a block may have on its left side and in its output together: what a small second-level cache holds.
const BLOCK_BYTES: usize = 256 << 10;

/// How a product ends: `activation(product + bias + residual)`, scaled and shifted where there is an affine.
#[derive(Clone, Copy, Default)]
pub struct End<'a> {
    /// One for each output.
    pub bias: Option<&'a [f32]>,
    /// As the product, without gaps between its rows.
    pub residual: Option<&'a [f32]>,
    pub ending: Ending,
}

/// The right side: packed `[taps * run, outputs]`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub packed: &'a [f32],
    pub taps: usize,
    pub run: usize,
    pub outputs: usize,
}

/// The left side of some rows, in the order in which tiles read it: `[tiles][taps][TILE]` runs. Rows past the last repeat it. `begin(row)` says
/// where a row's runs are, once for all of its taps: it divides, which takes as long as a short run.
pub fn runs<'a, P>(rows: usize, taps: usize, begin: impl Fn(usize) -> P, at: impl Fn(&P, usize) -> &'a [f32]) -> Vec<[&'a [f32]; TILE]> {
    let mut runs = Vec::with_capacity(rows.div_ceil(TILE) * taps);
    for first in (0..rows).step_by(TILE) {
        let places: [P; TILE] = std::array::from_fn(|row| begin((first + row).min(rows - 1)));
        runs.extend((0..taps).map(|tap| std::array::from_fn(|row| at(&places[row], tap))));
    }
    runs
}

/// All rows of a product, in parallel: `at(begin(row), tap)` gives a run of the left side.
pub fn product<'a, P>(right: Right, end: End, begin: impl Fn(usize) -> P + Sync, at: impl Fn(&P, usize) -> &'a [f32] + Sync, out: &mut [f32]) {
    let Right { taps, run, outputs, .. } = right;
    let rows = out.len() / outputs;
    let row = run + outputs * if end.residual.is_some() { 2 } else { 1 };
    let most = (BLOCK_BYTES / (row * size_of::<f32>())).clamp(8 * TILE, 4096);
    let block = threads::block(rows, most, taps * run * outputs).next_multiple_of(TILE);
    threads::each_block(out, block * outputs, |index, out| {
        let first = index * block;
        let rows = out.len() / outputs;
        let residual = end.residual.map(|residual| &residual[first * outputs..][..out.len()]);
        let left = runs(rows, taps, |row| begin(first + row), &at);
        multiply(&left, right, End { residual, ..end }, out, outputs, rows);
        end.ending.late(out);
    });
}

/// `rows` rows of a product into `out`, where they begin `stride` apart; of the ending only what is [`early`](Ending::early).
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
        let Self { end: End { bias, residual, ending }, stride, .. } = self;
        let ending = ending.early();
        let width = 2 * S::F32_LANES;
        for (panel, column) in packed.chunks_exact(taps * run * width).zip((0..outputs).step_by(width)) {
            let panel = vectors::<S>(panel).as_chunks().0;
            let columns = width.min(outputs - column);
            let mut first = [simd.splat_f32s(0.0); 2];
            if let Some(bias) = bias {
                bytemuck::cast_slice_mut(&mut first)[..columns].copy_from_slice(&bias[column..][..columns]);
            }
            for (tile, left) in self.left.chunks_exact(taps).enumerate() {
                let mut sums = sum(simd, first, left, panel, run);
                let row = tile * TILE;
                if columns == width && row + TILE <= self.rows {
                    let out = &mut self.out[row * stride + column..];
                    for r in 0..TILE {
                        for (v, sum) in sums[r].iter_mut().enumerate() {
                            if let Some(residual) = residual {
                                *sum = simd.add_f32s(*sum, pair::<S>(&residual[(row + r) * outputs + column..])[v]);
                            }
                            *sum = ending.apply(simd, *sum);
                        }
                        *pair_mut::<S>(&mut out[r * stride..]) = sums[r];
                    }
                } else {
                    // At the edge, number by number. On a copy, so that the sums themselves needn't lie in memory.
                    let sums = sums;
                    for (row, sums) in (row..self.rows).zip(&sums) {
                        let out = &mut self.out[row * stride + column..][..columns];
                        out.copy_from_slice(&bytemuck::cast_slice(sums)[..columns]);
                        for (c, x) in out.iter_mut().enumerate() {
                            let residual = residual.map_or(0.0, |residual| residual[row * outputs + column + c]);
                            *x = ending.apply(pulp::Scalar, *x + residual);
                        }
                    }
                }
            }
        }
    }
}

/// One tile: `first` + the sum over all runs of (run of a row) · (rows of the panel).
#[inline(always)]
fn sum<S: Simd>(simd: S, first: [S::f32s; 2], left: &[[&[f32]; TILE]], panel: &[[S::f32s; 2]], run: usize) -> [[S::f32s; 2]; TILE] {
    let mut sums = [first; TILE];
    for (runs, panel) in left.iter().zip(panel.chunks_exact(run)) {
        let runs = runs.map(|r| &r[..run]);
        for (i, &[left, right]) in panel.iter().enumerate() {
            for (sums, run) in sums.iter_mut().zip(runs) {
                let x = simd.splat_f32s(run[i]);
                sums[0] = simd.mul_add_e_f32s(x, left, sums[0]);
                sums[1] = simd.mul_add_e_f32s(x, right, sums[1]);
            }
        }
    }
    sums
}

#[inline(always)]
fn pair<S: Simd>(x: &[f32]) -> [S::f32s; 2] {
    let x = vectors::<S>(x);
    [x[0], x[1]]
}

#[inline(always)]
fn pair_mut<S: Simd>(x: &mut [f32]) -> &mut [S::f32s; 2] {
    let (pairs, _) = vectors_mut::<S>(x).as_chunks_mut();
    &mut pairs[0]
}
