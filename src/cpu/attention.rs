//! Multi-head attention on keys and values packed once; scores exist only for a block of queries and one head at a time.

use super::lanes::dispatch;
use super::panels::pack;
use super::product::{End, Right, TILE, multiply, runs};
use super::softmax::Softmax;
use super::threads;

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
                let left = runs(rows, 1, |row| (first + row) * in_row + h * width, |&first, _| &q[first..][..width]);
                let end = match bias {
                    Some((true, bias)) => End { residual: Some(&bias[first * keys..][..rows * keys]), ..End::default() },
                    Some((false, bias)) => End { bias: Some(bias), ..End::default() },
                    None => End::default(),
                };
                multiply(&left, Right { packed: k, taps: 1, run: width, outputs: keys }, end, &mut scores, keys, rows);
                dispatch(Softmax { scores: &mut scores, width: keys });
                let left = runs(rows, 1, |row| row * keys, |&first, _| &scores[first..][..keys]);
                let right = Right { packed: v, taps: 1, run: keys, outputs: value_width };
                multiply(&left, right, End::default(), &mut out[h * value_width..], out_row, rows);
            }
        });
    }
    out
}
