//! Multi-scale deformable attention ("Deformable DETR", Zhu et al., 2020) in one pass: softmax over a head's points, their locations, and the
//! sum of what lies there, without any sampled value in memory.
//!
//! A head's points become a list of places of the value and weights, at most four for each point; then the sum goes over the head's
//! channels, as many at a time as stay in registers.

use super::lanes::dispatch;
use super::softmax::softmax_row;
use super::threads;
use crate::backend::{Deformable, SamplingMethod};
use pulp::{Simd, WithSimd};

/// Queries of a block.
const BLOCK: usize = 64;

/// A level's feature map among the tokens.
#[derive(Clone, Copy)]
pub struct Level {
    pub height: usize,
    pub width: usize,
    /// The number of its first token.
    pub first: usize,
}

/// What stays the same for all queries.
pub struct Sampler {
    pub heads: usize,
    pub head_width: usize,
    pub method: SamplingMethod,
    pub tokens: usize,
    pub levels: Vec<Level>,
    /// The level of each of a head's points.
    pub points: Vec<usize>,
    /// What a point's offset is multiplied by beside the box's size.
    pub scales: Vec<f32>,
}

impl Sampler {
    pub fn new(deformable: &Deformable, head_width: usize) -> Self {
        let Deformable { heads, ref levels, ref points, offset_scale, method } = *deformable;
        let mut tokens = 0;
        let levels = levels.iter().map(|&[height, width]| {
            let first = tokens;
            tokens += height * width;
            Level { height, width, first }
        });
        let levels: Vec<Level> = levels.collect();
        let of_level = |(level, &count): (usize, &usize)| std::iter::repeat_n((level, offset_scale / count as f32), count);
        let (points, scales) = points.iter().enumerate().flat_map(of_level).unzip();
        Self { heads, head_width, method, tokens, levels, points, scales }
    }

    /// Numbers of a token of the value, and of a query's output.
    pub fn row(&self) -> usize {
        self.heads * self.head_width
    }

    /// Points of all heads.
    pub fn all_points(&self) -> usize {
        self.heads * self.points.len()
    }

    /// Where the points of all heads lie, in fractions of the picture.
    #[inline(always)]
    fn locate(&self, bounds: &[f32], offsets: &[f32], locations: &mut [[f32; 2]]) {
        let [x, y, width, height] = [0, 1, 2, 3].map(|i| bounds[i]);
        let heads = locations.chunks_exact_mut(self.points.len()).zip(offsets.as_chunks().0.chunks_exact(self.points.len()));
        for (locations, offsets) in heads {
            for ((location, [right, down]), scale) in locations.iter_mut().zip(offsets).zip(&self.scales) {
                *location = [x + right * scale * width, y + down * scale * height];
            }
        }
    }

    /// A query's output: of `value`, its picture's tokens, what lies at the locations, weighted.
    #[inline(always)]
    pub fn sample(&self, value: &[f32], locations: &[[f32; 2]], weights: &[f32], places: &mut Vec<Weighted>, out: &mut [f32]) {
        let points = self.points.len();
        for (head, out) in out.chunks_exact_mut(self.head_width).enumerate() {
            places.clear();
            let first = head * points..(head + 1) * points;
            for ((location, &weight), &level) in locations[first.clone()].iter().zip(&weights[first]).zip(&self.points) {
                self.places(self.levels[level], *location, weight, places);
            }
            let (row, from) = (self.row(), head * self.head_width);
            let mut channel = 0;
            // Heads of 32 and of 12 channels are the usual ones.
            while channel < self.head_width {
                let (value, out) = (&value[from + channel..], &mut out[channel..]);
                channel += match self.head_width - channel {
                    32.. => mix::<32>(value, row, places, out),
                    16.. => mix::<16>(value, row, places, out),
                    12.. => mix::<12>(value, row, places, out),
                    8.. => mix::<8>(value, row, places, out),
                    4.. => mix::<4>(value, row, places, out),
                    _ => mix::<1>(value, row, places, out),
                };
            }
        }
    }

    /// The places that a location takes its value from. Integers are the nearest ones where a location is too far for them.
    #[inline(always)]
    fn places(&self, Level { height, width, first }: Level, [x, y]: [f32; 2], weight: f32, places: &mut Vec<Weighted>) {
        match self.method {
            SamplingMethod::Default => {
                let (x, y) = (x * width as f32 - 0.5, y * height as f32 - 0.5);
                let (left, top) = (x.floor(), y.floor());
                let (right, down) = (x - left, y - top);
                let (left, top) = (left as i32, top as i32);
                for (row, share) in [(top, 1.0 - down), (top.wrapping_add(1), down)] {
                    for (column, share) in [(left, share * (1.0 - right)), (left.wrapping_add(1), share * right)] {
                        // What lies above or on the left is a large number without its sign.
                        if (row as u32 as usize) < height && (column as u32 as usize) < width {
                            places.push(Weighted { token: first + row as usize * width + column as usize, weight: weight * share });
                        }
                    }
                }
            }
            SamplingMethod::Discrete => places.push(Weighted { token: first + nearest(y, height) * width + nearest(x, width), weight }),
        }
    }
}

/// The nearest of `size` places, as RT-DETRv2 has it. The conversion cuts off towards zero, which is no different within the map.
#[inline(always)]
pub fn nearest(x: f32, size: usize) -> usize {
    (((x * size as f32 + 0.5) as i32).max(0) as usize).min(size - 1)
}

/// A token of the value, and how much of it.
#[derive(Clone, Copy)]
pub struct Weighted {
    pub token: usize,
    pub weight: f32,
}

/// The first `L` channels of the weighted sum of tokens; `row` is the distance from a token to the next. Returns `L`.
#[inline(always)]
fn mix<const L: usize>(value: &[f32], row: usize, places: &[Weighted], out: &mut [f32]) -> usize {
    let mut sums = [0.0; L];
    for &Weighted { token, weight } in places {
        let value = &value[token * row..][..L];
        for i in 0..L {
            sums[i] += weight * value[i];
        }
    }
    out[..L].copy_from_slice(&sums);
    L
}

/// Arguments as in [`Backend::deformable_attention`](crate::backend::Backend::deformable_attention), for `queries` of each picture.
pub fn attention(sampler: &Sampler, queries: usize, value: &[f32], offsets: &[f32], weights: &[f32], boxes: &[f32]) -> Vec<f32> {
    let all_points = sampler.all_points();
    let all_queries = boxes.len() / 4;
    let mut out = vec![0.0; all_queries * sampler.row()];
    let block = threads::block(all_queries, BLOCK, 4 * sampler.row() * sampler.points.len());
    threads::each_block(&mut out, block * sampler.row(), |index, out| {
        let first = index * block;
        let count = out.len() / sampler.row();
        let (offsets, weights) = (&offsets[first * all_points * 2..][..count * all_points * 2], &weights[first * all_points..][..count * all_points]);
        dispatch(Queries { sampler, queries, first, value, offsets, weights, boxes: &boxes[first * 4..][..count * 4], out });
    });
    out
}

/// Some queries, from `first` on; everything but the value is theirs.
struct Queries<'a> {
    sampler: &'a Sampler,
    queries: usize,
    first: usize,
    value: &'a [f32],
    offsets: &'a [f32],
    weights: &'a [f32],
    boxes: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { sampler, queries, first, value, .. } = self;
        let (all_points, picture) = (sampler.all_points(), sampler.tokens * sampler.row());
        let (mut locations, mut shares, mut places) =
            (vec![[0.0; 2]; all_points], vec![0.0; all_points], Vec::with_capacity(4 * sampler.points.len()));
        let given = self.boxes.chunks_exact(4).zip(self.offsets.chunks_exact(2 * all_points)).zip(self.weights.chunks_exact(all_points));
        for (query, (((bounds, offsets), weights), out)) in (first..).zip(given.zip(self.out.chunks_exact_mut(sampler.row()))) {
            sampler.locate(bounds, offsets, &mut locations);
            shares.copy_from_slice(weights);
            for shares in shares.chunks_exact_mut(sampler.points.len()) {
                softmax_row(shares);
            }
            sampler.sample(&value[query / queries * picture..][..picture], &locations, &shares, &mut places, out);
        }
    }
}
