//! Linear maps and convolutions as products whose left side lies in the feature map itself.

use super::product::{End, Right, product};
use crate::backend::{Placement, Window};

/// Up to so many input channels, a run of one place is too short to be worth its start-up.
const SHORT_RUN: usize = 64;

/// A feature map `[batch, height, width, channels]`.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    pub x: &'a [f32],
    pub shape: [usize; 4],
}

/// `x` `[rows, depth]` times packed `[depth, outputs]`.
pub fn linear(x: &[f32], packed: &[f32], depth: usize, outputs: usize, end: End) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / depth * outputs];
    product(Right { packed, taps: 1, run: depth, outputs }, end, |row| row * depth, |&first, _| &x[first..][..depth], &mut out);
    out
}

/// The output `[batch, out height, out width, outputs]` of a convolution whose packed weights are `[taps * channels, outputs]`.
pub fn conv(map: Map, window: Window, packed: &[f32], outputs: usize, end: End) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape;
    let place = window.place(height, width);
    let mut out = vec![0.0; batch * place.out_height * place.out_width * outputs];
    let [rows, columns] = window.kernel;
    if columns > 1 && channels <= SHORT_RUN && window.dilation == 1 {
        // On a padded copy, a whole row of the kernel is one run.
        let (padded, [height, width]) = pad(map, window, place);
        let right = Right { packed, taps: rows, run: columns * channels, outputs };
        let begin = |row| {
            let [n, y, x] = split(row, place);
            ((n * height + y * window.stride) * width + x * window.stride) * channels
        };
        let at = |&first: &usize, tap: usize| &padded[first + tap * width * channels..][..columns * channels];
        product(right, end, begin, at, &mut out);
    } else {
        let zeros = vec![0.0; channels];
        let right = Right { packed, taps: rows * columns, run: channels, outputs };
        // Of each tap, how far it is below and on the right of the window's first place.
        let taps: Vec<[usize; 2]> = (0..rows * columns).map(|tap| [tap / columns * window.dilation, tap % columns * window.dilation]).collect();
        let begin = |row| {
            let [n, y, x] = split(row, place);
            [n * height, (y * window.stride).wrapping_sub(place.top), (x * window.stride).wrapping_sub(place.left)]
        };
        let at = |&[line, y, x]: &[usize; 3], tap: usize| {
            let [down, right] = taps[tap];
            let (y, x) = (y.wrapping_add(down), x.wrapping_add(right));
            // What lies above or on the left has wrapped around to a large number.
            if y < height && x < width { &map.x[((line + y) * width + x) * channels..][..channels] } else { &zeros[..] }
        };
        product(right, end, begin, at, &mut out);
    }
    out
}

/// Picture, row and column of an output.
fn split(row: usize, place: Placement) -> [usize; 3] {
    let (line, x) = (row / place.out_width, row % place.out_width);
    [line / place.out_height, line % place.out_height, x]
}

/// The map with zeros all around, as far as the window reaches; and its new height and width.
fn pad(map: Map, window: Window, place: Placement) -> (Vec<f32>, [usize; 2]) {
    let [batch, height, width, channels] = map.shape;
    let reach = |places: usize, kernel: usize| (places - 1) * window.stride + kernel;
    let padded =
        [reach(place.out_height, window.kernel[0]).max(place.top + height), reach(place.out_width, window.kernel[1]).max(place.left + width)];
    let mut out = vec![0.0; batch * padded[0] * padded[1] * channels];
    for (line, from) in map.x.chunks_exact(width * channels).enumerate() {
        let (n, y) = (line / height, line % height);
        out[((n * padded[0] + place.top + y) * padded[1] + place.left) * channels..][..from.len()].copy_from_slice(from);
    }
    (out, padded)
}
