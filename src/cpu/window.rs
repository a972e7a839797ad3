//! Depthwise convolution and max pool: a window over each channel by itself, several channels to a vector.

use super::conv::Map;
use super::lanes::{bend, bounds, clamp, dispatch, vectors, vectors_mut};
use super::threads;
use crate::backend::{Placement, Window};
use crate::config::Activation;
use pulp::{Simd, WithSimd};

/// `weight` `[taps, channels]`, `bias` `[channels]`.
pub fn depthwise(map: Map, window: Window, weight: &[f32], bias: &[f32], activation: Activation) -> Vec<f32> {
    let mut out = slide(map, window, Kind::Weighted { weight, bias, bounds: bounds(activation) });
    bend(&mut out, activation);
    out
}

pub fn max_pool(map: Map, window: Window) -> Vec<f32> {
    slide(map, window, Kind::Largest)
}

/// What becomes of the values in a window.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Weighted { weight: &'a [f32], bias: &'a [f32], bounds: Option<[f32; 2]> },
    Largest,
}

/// Outputs side by side that are computed together, so that a weight is loaded once for all of them.
const COLUMNS: usize = 4;

fn slide(map: Map, window: Window, kind: Kind) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let place = window.place(height, width);
    let line = place.out_width * channels;
    let mut out = vec![0.0; batch * place.out_height * line];
    let outside = vec![if matches!(kind, Kind::Largest) { f32::NEG_INFINITY } else { 0.0 }; channels];
    let block = threads::block(batch * place.out_height, 16, line * window.kernel[0] * window.kernel[1]);
    threads::each_block(&mut out, block * line, |index, out| {
        dispatch(Lines { map, window, place, kind, outside: &outside, first: index * block, out });
    });
    out
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
        let mut seen: Vec<[&[f32]; COLUMNS]> = Vec::with_capacity(window.kernel[0] * window.kernel[1]);
        for (line, out) in (self.first..).zip(self.out.chunks_exact_mut(place.out_width * channels)) {
            let (n, y) = (line / place.out_height, line % place.out_height);
            for (columns, out) in (0..).step_by(COLUMNS).zip(out.chunks_mut(COLUMNS * channels)) {
                seen.clear();
                for tap in 0..window.kernel[0] * window.kernel[1] {
                    let y = (y * window.stride + tap / window.kernel[1] * window.dilation).wrapping_sub(place.top);
                    seen.push(std::array::from_fn(|column| {
                        let x_place = (columns + column) * window.stride + tap % window.kernel[1] * window.dilation;
                        let x_place = x_place.wrapping_sub(place.left);
                        // What lies above or on the left has wrapped around to a large number.
                        let inside = y < height && x_place < width;
                        if inside { &x[((n * height + y) * width + x_place) * channels..][..channels] } else { self.outside }
                    }));
                }
                let mut channel = 0;
                while channel + 2 * S::F32_LANES <= channels {
                    group::<S, 2>(simd, &seen, kind, channels, channel, out);
                    channel += 2 * S::F32_LANES;
                }
                while channel + S::F32_LANES <= channels {
                    group::<S, 1>(simd, &seen, kind, channels, channel, out);
                    channel += S::F32_LANES;
                }
                while channel < channels {
                    group::<pulp::Scalar, 1>(pulp::Scalar, &seen, kind, channels, channel, out);
                    channel += 1;
                }
            }
        }
    }
}

/// `V` vectors of channels, from `channel` on, of some columns of the output.
#[inline(always)]
fn group<S: Simd, const V: usize>(simd: S, seen: &[[&[f32]; COLUMNS]], kind: Kind, channels: usize, channel: usize, out: &mut [f32]) {
    let first = match kind {
        Kind::Weighted { bias, .. } => take::<S, V>(simd, bias, channel),
        Kind::Largest => [simd.splat_f32s(f32::NEG_INFINITY); V],
    };
    let mut results = [first; COLUMNS];
    match kind {
        Kind::Weighted { weight, bounds, .. } => {
            for (seen, weight) in seen.iter().zip(weight.chunks_exact(channels)) {
                let weight = take::<S, V>(simd, weight, channel);
                for column in 0..COLUMNS {
                    let x = take::<S, V>(simd, seen[column], channel);
                    for v in 0..V {
                        results[column][v] = simd.mul_add_e_f32s(x[v], weight[v], results[column][v]);
                    }
                }
            }
            for result in results.iter_mut().flatten() {
                *result = clamp(simd, *result, bounds);
            }
        }
        Kind::Largest => {
            for seen in seen {
                for column in 0..COLUMNS {
                    let x = take::<S, V>(simd, seen[column], channel);
                    for v in 0..V {
                        let result = &mut results[column][v];
                        *result = simd.select_f32s(simd.less_than_f32s(*result, x[v]), x[v], *result);
                    }
                }
            }
        }
    }
    for (out, result) in out.chunks_exact_mut(channels).zip(&results) {
        vectors_mut::<S>(&mut out[channel..])[..V].copy_from_slice(result);
    }
}

/// `V` vectors of `values`, from `from` on. No closure, since those aren't compiled for the vectors at hand unless they are inlined.
#[inline(always)]
fn take<S: Simd, const V: usize>(simd: S, values: &[f32], from: usize) -> [S::f32s; V] {
    let mut taken = [simd.splat_f32s(0.0); V];
    taken.copy_from_slice(vectors::<S>(&values[from..][..V * S::F32_LANES]));
    taken
}
