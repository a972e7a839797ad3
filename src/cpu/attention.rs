//! Multi-head attention on keys and values packed once; scores exist only for a block of queries and one head at a time.

use super::lanes::{dispatch, exp};
use super::panels::pack;
use super::product::{End, Right, TILE, multiply, runs};
use super::threads;
use pulp::{Simd, WithSimd};

/// Bytes of scores that a block may have.
const BLOCK_BYTES: usize = 128 << 10;

/// Sizes of an attention; `width` and `value_width` are one head's.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub width: usize,
    pub value_width: usize,
}

/// What is added to the scores: `[batch or 1, queries or 1, keys]`.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    pub values: &'a [f32],
    pub per_picture: bool,
    pub per_query: bool,
}

/// `q`, `k`, `v` `[batch, tokens, heads * width]` → `[batch, queries, heads * value_width]`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], sizes: Sizes, bias: Option<Bias>) -> Vec<f32> {
    let Sizes { batch, queries, keys, heads, width, value_width } = sizes;
    let (in_row, out_row) = (heads * width, heads * value_width);
    let mut out = vec![0.0; batch * queries * out_row];
    let scale = 1.0 / (width as f32).sqrt();
    let most = (BLOCK_BYTES / (keys * size_of::<f32>())).clamp(2 * TILE, 512);
    let block = threads::block(queries, most, keys * in_row).next_multiple_of(TILE);
    for (n, out) in out.chunks_exact_mut(queries * out_row).enumerate() {
        let (q, k, v) = (&q[n * queries * in_row..], &k[n * keys * in_row..], &v[n * keys * out_row..]);
        let heads: Vec<[Vec<f32>; 2]> = (0..heads)
            .map(|h| {
                let keys_across = pack(width, keys, |i, key| k[key * in_row + h * width + i] * scale);
                [keys_across, pack(keys, value_width, |key, i| v[key * out_row + h * value_width + i])]
            })
            .collect();
        let bias = bias.map(|bias| {
            let rows = if bias.per_query { queries } else { 1 };
            (bias.per_query, &bias.values[if bias.per_picture { n * rows * keys } else { 0 }..][..rows * keys])
        });
        threads::each_block(out, block * out_row, |index, out| {
            let (first, rows) = (index * block, out.len() / out_row);
            let mut scores = vec![0.0; rows * keys];
            for (h, [k, v]) in heads.iter().enumerate() {
                let left = runs(rows, 1, |row, _| &q[(first + row) * in_row + h * width..][..width]);
                let end = match bias {
                    Some((true, bias)) => End { residual: Some(&bias[first * keys..][..rows * keys]), ..End::default() },
                    Some((false, bias)) => End { bias: Some(bias), ..End::default() },
                    None => End::default(),
                };
                multiply(&left, Right { packed: k, taps: 1, run: width, outputs: keys }, end, &mut scores, keys, rows);
                dispatch(Softmax { scores: &mut scores, keys });
                let left = runs(rows, 1, |row, _| &scores[row * keys..][..keys]);
                let right = Right { packed: v, taps: 1, run: keys, outputs: value_width };
                multiply(&left, right, End::default(), &mut out[h * value_width..], out_row, rows);
            }
        });
    }
    out
}

/// Softmax of each row of `keys` scores, in place.
struct Softmax<'a> {
    scores: &'a mut [f32],
    keys: usize,
}

/// Partial results side by side, so that a loop over them becomes vectors.
const SIDE_BY_SIDE: usize = 16;

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        for row in self.scores.chunks_exact_mut(self.keys) {
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
            let mut sum: f32 = sums.iter().sum();
            for x in rest {
                *x = exp(*x - top);
                sum += *x;
            }
            let scale = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
}
