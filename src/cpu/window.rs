//! Depthwise convolution and pools: a window over each channel by itself, several channels to a vector.

use super::conv::Map;
use super::lanes::{Ending, dispatch, vectors, vectors_mut};
use super::threads;
use crate::backend::{Placement, Pool, Window};
use pulp::{Simd, WithSimd};

/// `weight` `[taps, channels]`, `bias` `[channels]`.
pub fn depthwise(map: Map, window: Window, weight: &[f32], bias: &[f32], ending: Ending) -> Vec<f32> {
    slide(map, window, Kind::Weighted { weight, bias, ending })
}

pub fn pool(map: Map, window: Window, pool: Pool) -> Vec<f32> {
    let [_, height, width, _] = map.shape;
    let whole = Placement { top: 0, left: 0, out_height: 1, out_width: 1 };
    let is_whole = window.kernel == [height, width] && window.dilation == 1 && window.place(height, width) == whole;
    match pool {
        Pool::Average | Pool::AverageWithin if is_whole => whole_mean(map),
        Pool::Max if window.stride == 1 => largest_of_lines(map, window, f32::NEG_INFINITY),
        Pool::MaxOfZeroPadded if window.stride == 1 => largest_of_lines(map, window, 0.0),
        Pool::Max => slide(map, window, Kind::Largest { outside: f32::NEG_INFINITY }),
        Pool::MaxOfZeroPadded => slide(map, window, Kind::Largest { outside: 0.0 }),
        Pool::Average => slide(map, window, Kind::Mean { within: false }),
        Pool::AverageWithin => slide(map, window, Kind::Mean { within: true }),
    }
}

/// What becomes of the values in a window.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Weighted { weight: &'a [f32], bias: &'a [f32], ending: Ending },
    Largest { outside: f32 },
    Mean { within: bool },
}

impl Kind<'_> {
    /// What the window sees outside of the map.
    fn outside(&self) -> f32 {
        match *self {
            Kind::Largest { outside } => outside,
            Kind::Weighted { .. } | Kind::Mean { .. } => 0.0,
        }
    }
}

/// Outputs side by side that are computed together, so that a weight is loaded once for all of them.
const COLUMNS: usize = 4;

fn slide(map: Map, window: Window, kind: Kind) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let place = window.place(height, width);
    let line = place.out_width * channels;
    let mut out = vec![0.0; batch * place.out_height * line];
    let outside = vec![kind.outside(); channels];
    let block = threads::block(batch * place.out_height, 16, line * window.kernel[0] * window.kernel[1]);
    threads::each_block(&mut out, block * line, |index, out| {
        dispatch(Lines { map, window, place, kind, outside: &outside, first: index * block, out });
        if let Kind::Weighted { ending, .. } = kind {
            ending.late(out);
        }
    });
    out
}

/// Without a stride, a line of outputs is the maximum of the map's lines, each shifted by a tap: whatever the channels, long vectors.
fn largest_of_lines(map: Map, window: Window, outside: f32) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let place = window.place(height, width);
    let line = place.out_width * channels;
    let mut out = vec![0.0; batch * place.out_height * line];
    let [rows, columns] = window.kernel;
    let block = threads::block(batch * place.out_height, 16, line * rows * columns);
    threads::each_block(&mut out, block * line, |index, out| {
        for (number, out) in (index * block..).zip(out.chunks_exact_mut(line)) {
            let (n, y) = (number / place.out_height, number % place.out_height);
            out.fill(f32::NEG_INFINITY);
            for tap in 0..rows * columns {
                // What lies above or on the left has wrapped around to a large number.
                let y = (y + tap / columns * window.dilation).wrapping_sub(place.top);
                let right = tap % columns * window.dilation;
                // Columns for which the tap lies within the map.
                let first = place.left.saturating_sub(right).min(place.out_width);
                let end = if y < height { (width + place.left).saturating_sub(right).clamp(first, place.out_width) } else { first };
                let (before, rest) = out.split_at_mut(first * channels);
                let (within, after) = rest.split_at_mut((end - first) * channels);
                if end > first {
                    let from = ((n * height + y) * width + first + right - place.left) * channels;
                    dispatch(Larger { x: &map.x[from..][..within.len()], out: within });
                }
                for x in before.iter_mut().chain(after) {
                    *x = if *x < outside { outside } else { *x };
                }
            }
        }
    });
    out
}

/// The larger of two numbers each, in place.
struct Larger<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
}

impl WithSimd for Larger<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = if *out < x { x } else { *out };
        }
    }
}

/// The mean of each channel over a whole map: `[batch, channels]`.
fn whole_mean(map: Map) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let mut out = vec![0.0; batch * channels];
    for (out, x) in out.chunks_exact_mut(channels).zip(map.x.chunks_exact(height * width * channels)) {
        dispatch(WholeMean { x, line: width * channels, out });
    }
    out
}

struct WholeMean<'a> {
    x: &'a [f32],
    /// Numbers of a line of the map.
    line: usize,
    out: &'a mut [f32],
}

impl WithSimd for WholeMean<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let channels = self.out.len();
        // Line by line, so that no sum is so long that it loses digits.
        let mut sums = vec![0.0; channels];
        for line in self.x.chunks_exact(self.line) {
            sums.copy_from_slice(&line[..channels]);
            for x in line[channels..].chunks_exact(channels) {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += x;
                }
            }
            for (out, sum) in self.out.iter_mut().zip(&sums) {
                *out += sum;
            }
        }
        let scale = channels as f32 / self.x.len() as f32;
        for out in self.out {
            *out *= scale;
        }
    }
}

/// Some lines of the output, from `first` on.
struct Lines<'a> {
    map: Map<'a>,
    window: Window,
    place: Placement,
    kind: Kind<'a>,
    /// What the window sees outside of the map.
    outside: &'a [f32],
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Lines<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Lines { map: Map { x, shape: [_, height, width, channels] }, window, place, kind, .. } = self;
        // What each tap sees at each of the columns.
        let taps = window.kernel[0] * window.kernel[1];
        let mut seen: Vec<[&[f32]; COLUMNS]> = Vec::with_capacity(taps);
        for (line, out) in (self.first..).zip(self.out.chunks_exact_mut(place.out_width * channels)) {
            let (n, y) = (line / place.out_height, line % place.out_height);
            for (columns, out) in (0..).step_by(COLUMNS).zip(out.chunks_mut(COLUMNS * channels)) {
                seen.clear();
                let mut inside_counts = [0; COLUMNS];
                for tap in 0..taps {
                    let y = (y * window.stride + tap / window.kernel[1] * window.dilation).wrapping_sub(place.top);
                    seen.push(std::array::from_fn(|column| {
                        let x_place = (columns + column) * window.stride + tap % window.kernel[1] * window.dilation;
                        let x_place = x_place.wrapping_sub(place.left);
                        // What lies above or on the left has wrapped around to a large number.
                        let inside = y < height && x_place < width;
                        inside_counts[column] += usize::from(inside);
                        if inside { &x[((n * height + y) * width + x_place) * channels..][..channels] } else { self.outside }
                    }));
                }
                // By what a mean is divided; a window that sees nothing of the map has the mean zero.
                let within = matches!(kind, Kind::Mean { within: true });
                let scales = inside_counts.map(|count| 1.0 / if within { count.max(1) } else { taps } as f32);
                let window = Seen { taps: &seen, scales, kind, channels };
                let mut channel = 0;
                while channel + 2 * S::F32_LANES <= channels {
                    window.group::<S, 2>(simd, channel, out);
                    channel += 2 * S::F32_LANES;
                }
                while channel + S::F32_LANES <= channels {
                    window.group::<S, 1>(simd, channel, out);
                    channel += S::F32_LANES;
                }
                while channel < channels {
                    window.group::<pulp::Scalar, 1>(pulp::Scalar, channel, out);
                    channel += 1;
                }
            }
        }
    }
}

/// What some columns of the output see.
struct Seen<'a> {
    /// Each tap's channels at each of the columns.
    taps: &'a [[&'a [f32]; COLUMNS]],
    /// By which a mean's sum is multiplied.
    scales: [f32; COLUMNS],
    kind: Kind<'a>,
    channels: usize,
}

impl Seen<'_> {
    /// `V` vectors of channels, from `channel` on.
    #[inline(always)]
    fn group<S: Simd, const V: usize>(&self, simd: S, channel: usize, out: &mut [f32]) {
        let first = match self.kind {
            Kind::Weighted { bias, .. } => take::<S, V>(simd, bias, channel),
            Kind::Largest { .. } => [simd.splat_f32s(f32::NEG_INFINITY); V],
            Kind::Mean { .. } => [simd.splat_f32s(0.0); V],
        };
        let mut results = [first; COLUMNS];
        match self.kind {
            Kind::Weighted { weight, ending, .. } => {
                for (tap, weight) in self.taps.iter().zip(weight.chunks_exact(self.channels)) {
                    let weight = take::<S, V>(simd, weight, channel);
                    for column in 0..COLUMNS {
                        let x = take::<S, V>(simd, tap[column], channel);
                        for v in 0..V {
                            results[column][v] = simd.mul_add_e_f32s(x[v], weight[v], results[column][v]);
                        }
                    }
                }
                let ending = ending.early();
                for result in results.iter_mut().flatten() {
                    *result = ending.apply(simd, *result);
                }
            }
            Kind::Largest { .. } => {
                for tap in self.taps {
                    for column in 0..COLUMNS {
                        let x = take::<S, V>(simd, tap[column], channel);
                        for v in 0..V {
                            let result = &mut results[column][v];
                            *result = simd.select_f32s(simd.less_than_f32s(*result, x[v]), x[v], *result);
                        }
                    }
                }
            }
            Kind::Mean { .. } => {
                for tap in self.taps {
                    for column in 0..COLUMNS {
                        let x = take::<S, V>(simd, tap[column], channel);
                        for v in 0..V {
                            results[column][v] = simd.add_f32s(results[column][v], x[v]);
                        }
                    }
                }
                for (results, scale) in results.iter_mut().zip(self.scales) {
                    for result in results {
                        *result = simd.mul_f32s(*result, simd.splat_f32s(scale));
                    }
                }
            }
        }
        for (out, result) in out.chunks_exact_mut(self.channels).zip(&results) {
            vectors_mut::<S>(&mut out[channel..])[..V].copy_from_slice(result);
        }
    }
}

/// `V` vectors of `values`, from `from` on. No closure, since those aren't compiled for the vectors at hand unless they are inlined.
#[inline(always)]
fn take<S: Simd, const V: usize>(simd: S, values: &[f32], from: usize) -> [S::f32s; V] {
    let mut taken = [simd.splat_f32s(0.0); V];
    taken.copy_from_slice(vectors::<S>(&values[from..][..V * S::F32_LANES]));
    taken
}
