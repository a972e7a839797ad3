//! Depthwise convolution and max pool: a window over each channel by itself, several channels to a vector.

use super::conv::Map;
use super::lanes::{bend, bounds, dispatch, vectors, vectors_mut};
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

fn slide(map: Map, window: Window, kind: Kind) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let place = window.place(height, width);
    let line = place.out_width * channels;
    let mut out = vec![0.0; batch * place.out_height * line];
    let block = threads::block(batch * place.out_height, 16, line * window.kernel[0] * window.kernel[1]);
    threads::each_block(&mut out, block * line, |index, out| {
        for (i, out) in out.chunks_exact_mut(line).enumerate() {
            dispatch(Line { map, window, place, kind, line: index * block + i, out });
        }
    });
    out
}

/// One line of the output.
struct Line<'a> {
    map: Map<'a>,
    window: Window,
    place: Placement,
    kind: Kind<'a>,
    line: usize,
    out: &'a mut [f32],
}

impl WithSimd for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Line { map: Map { x, shape: [_, height, width, channels] }, window, place, .. } = self;
        let [rows, columns] = window.kernel;
        let (n, y) = (self.line / place.out_height, self.line % place.out_height);
        // Of the taps that lie on the map: where their input begins, and their number.
        let mut taps: Vec<(usize, usize)> = Vec::with_capacity(rows * columns);
        for (column, out) in self.out.chunks_exact_mut(channels).enumerate() {
            taps.clear();
            for tap in 0..rows * columns {
                let y = (y * window.stride + tap / columns * window.dilation).wrapping_sub(place.top);
                let x = (column * window.stride + tap % columns * window.dilation).wrapping_sub(place.left);
                if y < height && x < width {
                    taps.push((((n * height + y) * width + x) * channels, tap));
                }
            }
            let mut channel = 0;
            while channel + 4 * S::F32_LANES <= channels {
                group::<S, 4>(simd, x, self.kind, &taps, channel, channels, &mut out[channel..]);
                channel += 4 * S::F32_LANES;
            }
            while channel + S::F32_LANES <= channels {
                group::<S, 1>(simd, x, self.kind, &taps, channel, channels, &mut out[channel..]);
                channel += S::F32_LANES;
            }
            while channel < channels {
                group::<pulp::Scalar, 1>(pulp::Scalar, x, self.kind, &taps, channel, channels, &mut out[channel..]);
                channel += 1;
            }
        }
    }
}

/// `V` vectors of channels of one output, from `channel` on.
#[inline(always)]
fn group<S: Simd, const V: usize>(simd: S, x: &[f32], kind: Kind, taps: &[(usize, usize)], channel: usize, channels: usize, out: &mut [f32]) {
    let some = |values: &[f32], from: usize| -> [S::f32s; V] {
        let values = &vectors::<S>(&values[from..][..V * S::F32_LANES])[..V];
        std::array::from_fn(|v| values[v])
    };
    let mut result = match kind {
        Kind::Weighted { bias, .. } => some(bias, channel),
        Kind::Largest => [simd.splat_f32s(f32::NEG_INFINITY); V],
    };
    for &(from, tap) in taps {
        let x = some(x, from + channel);
        match kind {
            Kind::Weighted { weight, .. } => {
                let weight = some(weight, tap * channels + channel);
                for v in 0..V {
                    result[v] = simd.mul_add_e_f32s(x[v], weight[v], result[v]);
                }
            }
            Kind::Largest => {
                for v in 0..V {
                    result[v] = simd.max_f32s(x[v], result[v]);
                }
            }
        }
    }
    if let Kind::Weighted { bounds: Some([least, most]), .. } = kind {
        for result in &mut result {
            *result = simd.min_f32s(simd.max_f32s(*result, simd.splat_f32s(least)), simd.splat_f32s(most));
        }
    }
    vectors_mut::<S>(out)[..V].copy_from_slice(&result);
}
