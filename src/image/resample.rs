//! Bilinear resizing that gives the very bytes that Pillow gives: antialiased, in fixed point, rounded after each direction.
//!
//! DETR was trained on pictures resized by Pillow, and its processors still do what Pillow does
//! (`src/libImaging/Resample.c`: `precompute_coeffs`, `normalize_coeffs_8bpc`, `ImagingResample`).

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

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
    /// The triangle filter's weights of all output places.
    ///
    /// # Panics
    /// If `input` or `output` is zero.
    pub fn new(input: usize, output: usize) -> Self {
        let filter = Filter::new(input, output);
        let count = filter.count();
        let (mut starts, mut weights, mut own) = (Vec::with_capacity(output), vec![0; output * count], Vec::new());
        for (out, weights) in weights.chunks_exact_mut(count).enumerate() {
            let places = filter.weights(out, &mut own);
            let start = places.start.min(input - count);
            weights[places.start - start..][..own.len()].copy_from_slice(&own);
            starts.push(start as u32);
        }
        Self { count, starts, weights }
    }

    /// Each output place's first input place and weights.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts.iter().map(|&start| start as usize).zip(self.weights.chunks_exact(self.count))
    }
}

/// The triangle filter, as wide as needed so that every input place counts; the weights of one output place at a time.
struct Filter {
    input: usize,
    scale: f64,
    reach: f64,
}

impl Filter {
    fn new(input: usize, output: usize) -> Self {
        assert!(input > 0 && output > 0, "nothing can be resized from {input} to {output} places");
        let scale = input as f64 / output as f64;
        Self { input, scale, reach: scale.max(1.0) }
    }

    /// How many weights an output place has at most.
    fn count(&self) -> usize {
        self.input.min(self.reach.ceil() as usize * 2 + 1)
    }

    fn centre(&self, out: usize) -> f64 {
        (out as f64 + 0.5) * self.scale
    }

    /// Which input places make an output place. Both ends grow with it.
    fn places(&self, out: usize) -> Range<usize> {
        let centre = self.centre(out);
        // Casts truncate and stop at zero, as Pillow's do.
        (centre - self.reach + 0.5) as usize..((centre + self.reach + 0.5) as usize).min(self.input)
    }

    /// These places, and their weights times 2^[`PRECISION_BITS`] in place of what `weights` holds.
    fn weights(&self, out: usize, weights: &mut Vec<i32>) -> Range<usize> {
        let (places, centre) = (self.places(out), self.centre(out));
        let triangle = |place: usize| (1.0 - ((place as f64 - centre + 0.5) * (1.0 / self.reach)).abs()).max(0.0);
        let sum: f64 = places.clone().map(triangle).sum();
        weights.clear();
        weights.extend(places.clone().map(|place| (triangle(place) / sum * f64::from(1u32 << PRECISION_BITS) + 0.5) as i32));
        places
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
///
/// In bands of output rows, each of which needs memory for few rows only, however many there are and however wide they become.
pub fn resize(rgba: &[u8], [width, height]: [usize; 2], [out_width, out_height]: [usize; 2]) -> Vec<u8> {
    let across = Across::new(width, out_width);
    let down = Filter::new(height, out_height);
    let narrow = |row: usize, to: &mut [u8]| across.resize(&rgba[row * width * 4..][..width * 4], to);
    let stride = out_width * 3;
    let mut out = vec![0; stride * out_height];
    // A band is made of input rows that others hold in part, too; so there are few, and none of less than an input row.
    let band = out_height.div_ceil(bands()).max(out_height / height);
    let resize_band = |(index, out): (usize, &mut [u8])| match height == out_height {
        true => out.chunks_exact_mut(stride).enumerate().for_each(|(row, out)| narrow(index * band + row, out)),
        false => resize_band(&narrow, &down, index * band, out, stride),
    };
    #[cfg(not(target_arch = "wasm32"))]
    out.par_chunks_mut(stride * band).enumerate().for_each(resize_band);
    #[cfg(target_arch = "wasm32")]
    out.chunks_mut(stride * band).enumerate().for_each(resize_band);
    out
}

#[cfg(not(target_arch = "wasm32"))]
fn bands() -> usize {
    2 * rayon::current_num_threads()
}

#[cfg(target_arch = "wasm32")]
fn bands() -> usize {
    1
}

/// How a row is resized.
enum Across {
    Same,
    Taps(Taps),
    /// Of a row so long that the weights are computed anew for each row rather than kept.
    Filter(Filter),
}

/// Weights that are kept: 16 MiB.
const MAX_TAPS: usize = 1 << 22;

impl Across {
    fn new(width: usize, out_width: usize) -> Self {
        if width == out_width {
            return Self::Same;
        }
        let filter = Filter::new(width, out_width);
        if filter.count() * out_width > MAX_TAPS { Self::Filter(filter) } else { Self::Taps(Taps::new(width, out_width)) }
    }

    /// One row, RGBA → RGB.
    fn resize(&self, from: &[u8], to: &mut [u8]) {
        match self {
            Self::Same => to.as_chunks_mut::<3>().0.iter_mut().zip(from.as_chunks::<4>().0).for_each(|(to, from)| to.copy_from_slice(&from[..3])),
            Self::Taps(taps) => {
                to.chunks_exact_mut(3).zip(taps.iter()).for_each(|(to, (start, weights))| resize_pixel(&from[start * 4..], weights, to))
            }
            Self::Filter(filter) => {
                let mut weights = Vec::new();
                for (out, to) in to.chunks_exact_mut(3).enumerate() {
                    let places = filter.weights(out, &mut weights);
                    resize_pixel(&from[places.start * 4..], &weights, to);
                }
            }
        }
    }
}

/// One pixel of a row. Four lanes are summed, since four fill a vector register and three don't.
fn resize_pixel(from: &[u8], weights: &[i32], to: &mut [u8]) {
    let mut sums = [HALF; 4];
    for (pixel, &weight) in from.chunks_exact(4).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            add(sum, value, weight);
        }
    }
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = to_byte(sum));
}

/// An output row that some of its input rows have been added to.
#[derive(Default)]
struct Pending {
    places: Range<usize>,
    weights: Vec<i32>,
    sums: Vec<i32>,
}

/// The output rows from `first` on that fill `out`. Each input row is resized once and added to all output rows that it is part of.
fn resize_band(narrow: impl Fn(usize, &mut [u8]), down: &Filter, first: usize, out: &mut [u8], stride: usize) {
    let end = first + out.len() / stride;
    let (mut next, mut row) = (first, down.places(first).start);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut spare: Vec<Pending> = Vec::new();
    let mut values = vec![0; stride];
    for out in out.chunks_exact_mut(stride) {
        loop {
            while next < end && down.places(next).start <= row {
                let mut new = spare.pop().unwrap_or_default();
                new.places = down.weights(next, &mut new.weights);
                new.sums.clear();
                new.sums.resize(stride, HALF);
                pending.push_back(new);
                next += 1;
            }
            if let Some(done) = pending.pop_front_if(|first| first.places.end <= row) {
                out.iter_mut().zip(&done.sums).for_each(|(to, &sum)| *to = to_byte(sum));
                spare.push(done);
                break;
            }
            narrow(row, &mut values);
            for Pending { places, weights, sums } in &mut pending {
                let weight = weights[row - places.start];
                if weight != 0 {
                    sums.iter_mut().zip(&values).for_each(|(sum, &value)| add(sum, value, weight));
                }
            }
            row += 1;
        }
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

    /// Both directions one after the other, all rows at once.
    fn resize_plainly(rgba: &[u8], [width, height]: [usize; 2], [out_width, out_height]: [usize; 2]) -> Vec<u8> {
        let blend = |taps: &Taps, out: usize, value: &dyn Fn(usize) -> u8| {
            let (start, weights) = taps.iter().nth(out).unwrap();
            to_byte(weights.iter().enumerate().fold(HALF, |sum, (i, weight)| sum + i32::from(value(start + i)) * weight))
        };
        let (across, down) = (Taps::new(width, out_width), Taps::new(height, out_height));
        let narrow: Vec<u8> = (0..height * out_width * 3)
            .map(|at| {
                let (y, x, c) = (at / (out_width * 3), at / 3 % out_width, at % 3);
                if width == out_width { rgba[(y * width + x) * 4 + c] } else { blend(&across, x, &|x| rgba[(y * width + x) * 4 + c]) }
            })
            .collect();
        let stride = out_width * 3;
        let pixel = |at: usize| if height == out_height { narrow[at] } else { blend(&down, at / stride, &|y| narrow[y * stride + at % stride]) };
        (0..stride * out_height).map(pixel).collect()
    }

    #[test]
    fn bands_give_what_the_whole_gives() {
        let mut random = fastrand::Rng::with_seed(5);
        for (from, to) in [
            ([1, 1], [40, 30]),
            ([1, 5000], [17, 90]),
            ([5000, 1], [90, 17]),
            ([64, 48], [64, 20]),
            ([64, 48], [20, 48]),
            ([30, 200], [31, 199]),
            ([7, 3], [5, 300]),
            ([200, 301], [33, 1]),
        ] {
            let rgba: Vec<u8> = (0..from[0] * from[1] * 4).map(|_| random.u8(..)).collect();
            assert!(resize(&rgba, from, to) == resize_plainly(&rgba, from, to), "{from:?} → {to:?}");
        }
    }

    #[test]
    fn weights_that_are_not_kept_are_the_same() {
        let mut random = fastrand::Rng::with_seed(6);
        let row: Vec<u8> = (0..900 * 4).map(|_| random.u8(..)).collect();
        let (mut kept, mut anew) = (vec![0; 70 * 3], vec![0; 70 * 3]);
        Across::Taps(Taps::new(900, 70)).resize(&row, &mut kept);
        Across::Filter(Filter::new(900, 70)).resize(&row, &mut anew);
        assert_eq!(kept, anew);
        assert!(matches!(Across::new(3_000_000, 500), Across::Filter(_)));
        assert!(matches!(Across::new(8000, 1333), Across::Taps(_)));
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
