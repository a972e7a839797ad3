//! Numbers as int8, symmetric around zero, with a scale for each output channel.

/// A tensor's numbers as small integers: each is `value * scale`, with the scale of its output channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    /// Row-major.
    pub values: Vec<i8>,
    /// As many as the channels' axis is long; not negative.
    pub scales: Vec<f32>,
    pub channels: Channels,
}

/// Which axis of a weight its output channels are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Of a convolution or a linear map, `[out, …, in]`.
    First,
    /// Of a depthwise convolution, `[height, width, channels]`.
    Last,
}

/// The largest value; -128 has no counterpart.
const MOST: f32 = 127.0;

impl Int8 {
    /// The nearest to `numbers` (finite, row-major, `count` channels), by squared error in each channel. Never worse than with the
    /// scales that map each channel's largest number to 127.
    pub fn nearest(numbers: &[f32], count: usize, channels: Channels) -> Self {
        let mut values = vec![0; numbers.len()];
        let mut scales = Vec::with_capacity(count);
        let mut channel = Vec::new();
        for c in 0..count {
            channel.clear();
            channel.extend(places(c, count, numbers.len(), channels).map(|i| numbers[i]));
            let scale = fit(&channel);
            for (i, &x) in places(c, count, numbers.len(), channels).zip(&channel) {
                values[i] = Self::value(x, scale);
            }
            scales.push(scale);
        }
        Self { values, scales, channels }
    }

    /// The value that stands for a number, given the scale.
    pub fn value(x: f32, scale: f32) -> i8 {
        quantise(x, scale) as i8
    }

    /// The numbers that the values stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.values.len()];
        for (c, scale) in self.scales.iter().enumerate() {
            for i in places(c, self.scales.len(), self.values.len(), self.channels) {
                numbers[i] = f32::from(self.values[i]) * scale;
            }
        }
        numbers
    }
}

/// Where one of `count` channels has its numbers among `length`.
fn places(channel: usize, count: usize, length: usize, channels: Channels) -> impl Iterator<Item = usize> {
    let each = length.checked_div(count).unwrap_or(0);
    let (first, step) = match channels {
        Channels::First => (channel * each, 1),
        Channels::Last => (channel, count),
    };
    (0..each).map(move |i| first + i * step)
}

/// The scale whose rounded numbers are nearest to the channel's; zero where these are.
///
/// For given values the best scale is their projection, for a given scale the best values are the nearest: taken in turn, from several
/// scales, since the error has many valleys. The lowest lies close to where nothing is cut off: bringing the largest of n numbers down by a share costs
/// more than finer steps save the others, unless n is of the order of 12 · 127².
fn fit(channel: &[f32]) -> f32 {
    const SHARES: [f32; 11] = [1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.9];
    const TURNS: usize = 3;
    let top = channel.iter().fold(0.0f32, |top, x| top.max(x.abs()));
    if top == 0.0 {
        return 0.0;
    }
    // Smaller numbers are zero to a GPU.
    let whole = (top / MOST).max(f32::MIN_POSITIVE);
    let (mut best, mut least) = (whole, f64::INFINITY);
    for share in SHARES {
        let mut scale = (whole * share).max(f32::MIN_POSITIVE);
        for _ in 0..TURNS {
            let (mut error, mut product, mut square) = (0.0f64, 0.0f64, 0.0f64);
            for &x in channel {
                let value = quantise(x, scale);
                error += f64::from(x - value * scale).powi(2);
                product += f64::from(x) * f64::from(value);
                square += f64::from(value * value);
            }
            if error < least {
                (best, least) = (scale, error);
            }
            let next = (product / square) as f32;
            if next == scale || !next.is_normal() {
                break;
            }
            scale = next;
        }
    }
    best
}

fn quantise(x: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (x / scale).round().clamp(-MOST, MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(numbers: &[f32], scale: f32) -> f64 {
        numbers.iter().map(|&x| f64::from(x - quantise(x, scale) * scale).powi(2)).sum()
    }

    #[test]
    fn channels_have_scales_of_their_own() {
        // Two channels side by side: the same numbers, a hundred times larger in the second.
        let numbers = [1.27, 127.0, -0.5, -50.0, 0.0, 0.0];
        let last = Int8::nearest(&numbers, 2, Channels::Last);
        assert_eq!(last.values, [127, 127, -50, -50, 0, 0]);
        assert!((last.scales[0] - 0.01).abs() < 1e-6 && (last.scales[1] - 1.0).abs() < 1e-6, "{:?}", last.scales);
        // One after the other.
        let first = Int8::nearest(&[1.27, -0.5, 0.0, 127.0, -50.0, 0.0], 2, Channels::First);
        assert_eq!((first.values, &first.scales), (vec![127, -50, 0, 127, -50, 0], &last.scales));
        let expanded = last.to_f32();
        assert!(expanded.iter().zip(numbers).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs()), "{expanded:?}");
    }

    #[test]
    fn zeros_tiny_and_huge_numbers_stay() {
        for numbers in [[0.0; 4], [1e-40, -1e-40, 0.0, 1e-45]] {
            let scale = fit(&numbers);
            let int8 = Int8::nearest(&numbers, 1, Channels::First);
            assert!(scale.is_finite() && int8.scales == [scale], "{scale}");
            assert!(int8.to_f32().iter().zip(numbers).all(|(a, b)| (a - b).abs() <= 0.5 * scale), "{numbers:?} became {int8:?}");
        }
        let largest = Int8::nearest(&[f32::MAX, f32::MIN], 1, Channels::First);
        assert!(largest.values == [127, -127] && largest.to_f32().iter().all(|x| x.is_finite()), "{largest:?}");
        assert!(Int8::nearest(&[], 0, Channels::Last).to_f32().is_empty());
        assert_eq!(Int8::nearest(&[], 3, Channels::First).scales, [0.0; 3]);
    }

    #[test]
    fn an_outlier_is_cut_off_where_that_is_nearer() {
        let numbers: Vec<f32> = (0..20_000).map(|i| (i % 201) as f32 / 100.0 - 1.0).chain([1.6]).collect();
        let (plain, fitted) = (1.6 / 127.0, fit(&numbers));
        assert!(fitted < 0.95 * plain && error(&numbers, fitted) < 0.95 * error(&numbers, plain), "{fitted} for {plain}");
        assert_eq!(quantise(1.6, fitted), 127.0);
    }

    proptest! {
        #[test]
        fn never_worse_than_scaling_the_largest_number(numbers in prop::collection::vec(-1000f32..1000.0, 1..80), power in -20i32..20) {
            let numbers: Vec<f32> = numbers.iter().map(|x| x * 2f32.powi(power)).collect();
            let int8 = Int8::nearest(&numbers, 1, Channels::First);
            let (scale, expanded) = (int8.scales[0], int8.to_f32());
            let top = numbers.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let squared: f64 = numbers.iter().zip(&expanded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            prop_assert!(squared <= error(&numbers, top / 127.0));
            for (x, y) in numbers.iter().zip(&expanded) {
                // At most half a step, but for what is beyond the last one (and rounding).
                prop_assert!((x - y).abs() <= scale * 0.50001 || (x.abs() > 127.0 * scale && y.abs() == 127.0 * scale), "{x} became {y}, scale {scale}");
            }
        }
    }
}
