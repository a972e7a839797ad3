//! Bilinear resizing that gives the very bytes that Pillow gives: antialiased, in fixed point, rounded after each direction.
//!
//! DETR was trained on pictures resized by Pillow, and its processors still do what Pillow does
//! (`src/libImaging/Resample.c`: `precompute_coeffs`, `normalize_coeffs_8bpc`, `ImagingResample`).

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;

/// Bits after the point of a weight: what is left of 32 after 8 for the value and 2 for overshoot.
pub const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Which input places make each output place of one direction, and how much each of them counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taps {
    /// Weights of one output place; those that aren't needed are zero.
    pub count: usize,
    /// First input place of each output place. `start + count` never passes the input's end.
    pub starts: Vec<u32>,
    /// `starts.len() * count` weights, times 2^[`PRECISION_BITS`].
    pub weights: Vec<i32>,
}

impl Taps {
    /// The triangle filter, as wide as needed so that every input place counts.
    ///
    /// # Panics
    /// If `input` or `output` is zero.
    pub fn new(input: usize, output: usize) -> Self {
        assert!(input > 0 && output > 0, "nothing can be resized from {input} to {output} places");
        let scale = input as f64 / output as f64;
        let reach = scale.max(1.0);
        let count = input.min(reach.ceil() as usize * 2 + 1);
        let (mut starts, mut weights) = (Vec::with_capacity(output), vec![0; output * count]);
        for (out, weights) in weights.chunks_exact_mut(count).enumerate() {
            let centre = (out as f64 + 0.5) * scale;
            // Casts truncate and stop at zero, as Pillow's do.
            let first = (centre - reach + 0.5) as usize;
            let end = ((centre + reach + 0.5) as usize).min(input);
            let triangle = |place: usize| (1.0 - ((place as f64 - centre + 0.5) * (1.0 / reach)).abs()).max(0.0);
            let sum: f64 = (first..end).map(triangle).sum();
            let start = first.min(input - count);
            for place in first..end {
                weights[place - start] = (triangle(place) / sum * f64::from(1u32 << PRECISION_BITS) + 0.5) as i32;
            }
            starts.push(start as u32);
        }
        Self { count, starts, weights }
    }

    /// Each output place's first input place and weights.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts.iter().map(|&start| start as usize).zip(self.weights.chunks_exact(self.count))
    }
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Never overflows, since an output place's weights make 2^[`PRECISION_BITS`]; but a check for it would keep loops from being vectorised.
fn add(sum: &mut i32, value: u8, weight: i32) {
    *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// RGBA `width` × `height` → RGB `out_width` × `out_height`, `[height, width, 3]`; no side may be zero.
pub fn resize(rgba: &[u8], [width, height]: [usize; 2], [out_width, out_height]: [usize; 2]) -> Vec<u8> {
    let mut narrow = vec![0; out_width * height * 3];
    let across = (width != out_width).then(|| Taps::new(width, out_width));
    let row = |(to, from): (&mut [u8], &[u8])| match &across {
        Some(taps) => resize_row(from, to, taps),
        None => to.chunks_exact_mut(3).zip(from.chunks_exact(4)).for_each(|(to, from)| to.copy_from_slice(&from[..3])),
    };
    #[cfg(not(target_arch = "wasm32"))]
    narrow.par_chunks_exact_mut(out_width * 3).zip(rgba.par_chunks_exact(width * 4)).for_each(row);
    #[cfg(target_arch = "wasm32")]
    narrow.chunks_exact_mut(out_width * 3).zip(rgba.chunks_exact(width * 4)).for_each(row);
    if height == out_height {
        return narrow;
    }

    let stride = out_width * 3;
    let down = Taps::new(height, out_height);
    let mut out = vec![0; stride * out_height];
    let mut sums = vec![0i32; stride];
    for (to, (start, weights)) in out.chunks_exact_mut(stride).zip(down.iter()) {
        sums.fill(HALF);
        for (from, &weight) in narrow[start * stride..].chunks_exact(stride).zip(weights) {
            if weight != 0 {
                sums.iter_mut().zip(from).for_each(|(sum, &value)| add(sum, value, weight));
            }
        }
        to.iter_mut().zip(&sums).for_each(|(to, &sum)| *to = to_byte(sum));
    }
    out
}

/// One row, RGBA → RGB. Four lanes are summed, since four fill a vector register and three don't.
fn resize_row(from: &[u8], to: &mut [u8], taps: &Taps) {
    for (to, (start, weights)) in to.chunks_exact_mut(3).zip(taps.iter()) {
        let mut sums = [HALF; 4];
        for (pixel, &weight) in from[start * 4..].chunks_exact(4).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                add(sum, value, weight);
            }
        }
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to = to_byte(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_place_make_one_and_lie_inside() {
        for (input, output) in [(1, 1), (1, 7), (7, 1), (2, 5), (5, 2), (640, 384), (384, 640), (3000, 800), (3, 1000)] {
            let taps = Taps::new(input, output);
            assert_eq!((taps.starts.len(), taps.weights.len()), (output, output * taps.count));
            for (start, weights) in taps.iter() {
                assert!(start + taps.count <= input, "{input}→{output}: {start} + {} taps", taps.count);
                let sum: i32 = weights.iter().sum();
                assert!((sum - (1 << PRECISION_BITS)).unsigned_abs() <= taps.count as u32, "{input}→{output}: {sum}");
            }
        }
    }

    #[test]
    fn doubling_and_halving() {
        // PIL.Image.fromarray(np.array([[0, 100, 200]], np.uint8)).resize((6, 1), BILINEAR) and .resize((2, 1), …)
        let rgba: Vec<u8> = [0, 100, 200].iter().flat_map(|&v| [v, v, v, 255]).collect();
        let grey = |width| resize(&rgba, [3, 1], [width, 1]).chunks(3).map(|p| p[0]).collect::<Vec<_>>();
        assert_eq!(grey(6), [0, 25, 75, 125, 175, 200]);
        assert_eq!(grey(2), [38, 163]);
        assert_eq!(grey(3), [0, 100, 200]);
    }
}
