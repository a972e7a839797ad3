//! The largest values, the best tokens, and the rows of chosen tokens.
//!
//! What is compared is one integer for each candidate, which holds its score and, below it, its place: so that of equals the first wins,
//! and no comparison needs to ask whether there are numbers at all.

use super::lanes::dispatch;
use pulp::{Simd, WithSimd};

/// So few are kept in order one by one, without sorting.
const FEW: usize = 8;

/// The smaller, the larger the score; of equal scores that of the lower place is smaller. What is no number counts as the lowest score.
fn key(score: f32, place: usize) -> u64 {
    // Zero has two signs.
    let bits = (if score.is_nan() { f32::NEG_INFINITY } else { score } + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!ascending) << 32 | place as u64
}

/// Places of the `k` largest scores, the largest first.
fn largest(scores: impl Iterator<Item = f32>, k: usize, keys: &mut Vec<u64>) -> impl Iterator<Item = usize> {
    keys.clear();
    keys.extend(scores.enumerate().map(|(place, score)| key(score, place)));
    if k < keys.len() {
        keys.select_nth_unstable(k);
    }
    let keys = &mut keys[..k];
    keys.sort_unstable();
    keys.iter().map(|&key| key as u32 as usize)
}

/// The `k` largest of each row of `width`, the largest first.
pub fn top_values(x: &[f32], width: usize, k: usize) -> Vec<f32> {
    let mut out = vec![f32::NEG_INFINITY; x.len() / width * k];
    let mut keys = Vec::new();
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(k)) {
        if k <= FEW {
            for &value in row {
                // What is no number is never larger.
                if value > out[k - 1] {
                    let after = out.partition_point(|&kept| kept >= value);
                    out.copy_within(after..k - 1, after + 1);
                    out[after] = value;
                }
            }
        } else {
            for (out, place) in out.iter_mut().zip(largest(row.iter().copied(), k, &mut keys)) {
                // As it was compared.
                *out = if row[place].is_nan() { f32::NEG_INFINITY } else { row[place] };
            }
        }
    }
    out
}

/// For each picture the `k` tokens whose best score of `classes` is highest, the best first.
pub fn top_tokens(scores: &[f32], tokens: usize, classes: usize, k: usize) -> Vec<u32> {
    let mut out = Vec::with_capacity(scores.len() / (tokens * classes) * k);
    let (mut best, mut keys) = (vec![0.0; tokens], Vec::new());
    for scores in scores.chunks_exact(tokens * classes) {
        dispatch(Best { scores, classes, best: &mut best });
        out.extend(largest(best.iter().copied(), k, &mut keys).map(|place| place as u32));
    }
    out
}

/// The largest of each row of `classes` scores.
struct Best<'a> {
    scores: &'a [f32],
    classes: usize,
    best: &'a mut [f32],
}

impl WithSimd for Best<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // What is no number is never larger.
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        for (best, scores) in self.best.iter_mut().zip(self.scores.chunks_exact(self.classes)) {
            let (chunks, rest) = scores.as_chunks::<16>();
            let mut tops = [f32::NEG_INFINITY; 16];
            for chunk in chunks {
                for i in 0..16 {
                    tops[i] = larger(tops[i], chunk[i]);
                }
            }
            let top = if chunks.is_empty() { f32::NEG_INFINITY } else { tops.into_iter().fold(f32::NEG_INFINITY, larger) };
            *best = rest.iter().fold(top, |top, &score| larger(top, score));
        }
    }
}

/// Rows of `width` by their numbers, which must exist: `k` of each picture; `x` is one picture for all, or each has its own `tokens`.
pub fn gather(x: &[f32], [tokens, width]: [usize; 2], indices: &[u32], k: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(indices.len() * width);
    let pictures = x.len() / (tokens * width);
    for (n, indices) in indices.chunks_exact(k).enumerate() {
        let x = &x[n % pictures * tokens * width..][..tokens * width];
        for &token in indices {
            out.extend_from_slice(&x[token as usize * width..][..width]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_scores_and_places() {
        let descending = [f32::INFINITY, 3.0, 1.0, f32::MIN_POSITIVE, 0.0, -f32::MIN_POSITIVE, -1.0, f32::MIN, f32::NEG_INFINITY];
        assert!(descending.windows(2).all(|pair| key(pair[0], 9) < key(pair[1], 0)));
        assert_eq!(key(0.0, 5), key(-0.0, 5));
        assert_eq!(key(f32::NAN, 5), key(f32::NEG_INFINITY, 5));
        assert!(key(1.0, 5) < key(1.0, 6));
    }

    #[test]
    fn what_is_no_number_never_wins() {
        let nan = f32::NAN;
        assert_eq!(top_values(&[nan, 1.0, nan, -2.0, 3.0, nan], 3, 2), [1.0, f32::NEG_INFINITY, 3.0, -2.0]);
        let many: Vec<f32> = (0..20).map(|i| if i % 2 == 0 { nan } else { -(i as f32) }).collect();
        assert_eq!(top_values(&many, 20, 9)[..], [-1.0, -3.0, -5.0, -7.0, -9.0, -11.0, -13.0, -15.0, -17.0]);
        assert_eq!(top_tokens(&[nan, nan, nan, -5.0, 2.0, nan, f32::NEG_INFINITY, nan], 4, 2, 4), [2, 1, 0, 3]);
    }
}
