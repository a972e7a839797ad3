//! What a linear map is given, summed up: the means of its inputs and their covariance. Any least-squares question about the map can be
//! answered from these, without the pictures.

use crate::backend::Window;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, product};

/// Mean and scatter of the rows that a map was given.
#[derive(Clone, Debug)]
pub struct Gram {
    pub width: usize,
    pub count: f64,
    pub mean: Vec<f64>,
    /// Columns whose products with all columns are summed, the first ones.
    pub inputs: usize,
    /// `[inputs, width]`: products of the differences from the mean, summed. Below the diagonal they aren't kept up: they are those above it.
    scatter: Vec<f32>,
}

/// Columns that are multiplied at once, with all that aren't before them.
const BLOCK: usize = 128;

impl Gram {
    pub fn new(width: usize) -> Self {
        Self::of_map(width, 0)
    }

    /// Of rows that hold a map's inputs and what shall come out: no question needs the products of outputs with outputs.
    pub fn of_map(inputs: usize, outputs: usize) -> Self {
        let width = inputs + outputs;
        Self { width, count: 0.0, mean: vec![0.0; width], inputs, scatter: vec![0.0; inputs * width] }
    }

    /// Without scatter: for a mean alone.
    pub fn of_mean(width: usize) -> Self {
        Self::of_map(0, width)
    }

    /// Adds rows `[rows, width]`, each as many times as its weight says; all once without weights.
    pub fn add(&mut self, rows: &[f32], weights: Option<&[f32]>) {
        let count = rows.len() / self.width;
        let weight = |row: usize| weights.map_or(1.0, |weights| f64::from(weights[row]));
        let total: f64 = (0..count).map(weight).sum();
        if total <= 0.0 {
            return;
        }
        let mut mean = vec![0.0; self.width];
        for (i, row) in rows.chunks_exact(self.width).enumerate() {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += weight(i) / total * f64::from(*x));
        }
        if !self.scatter.is_empty() {
            // Centred first: in single precision, large means would drown what varies around them.
            let mut centred = Vec::with_capacity(rows.len());
            for (i, row) in rows.chunks_exact(self.width).enumerate() {
                let root = weight(i).sqrt();
                centred.extend(row.iter().zip(&mean).map(|(x, mean)| (root * (f64::from(*x) - mean)) as f32));
            }
            for first in (0..self.inputs).step_by(BLOCK) {
                let (inputs, width) = (BLOCK.min(self.inputs - first), self.width - first);
                let x = Matrix::new(&centred[first..], count, width, self.width);
                let inputs = Matrix::new(&centred[first..], count, inputs, self.width);
                product(&mut self.scatter[first * self.width + first..], self.width, inputs.transposed(), x, 1.0, true);
            }
        }
        self.shift(total, &mean);
    }

    /// Of all parts together, which are sums over the same columns.
    pub fn sum(parts: &[Self]) -> Self {
        let [first, ..] = parts else { return Self::of_mean(0) };
        let mut sum = Self::of_map(first.inputs, first.width - first.inputs);
        parts.iter().for_each(|part| sum.merge(part));
        sum
    }

    /// Adds what another has summed.
    pub fn merge(&mut self, other: &Self) {
        self.scatter.iter_mut().zip(&other.scatter).for_each(|(a, b)| *a += b);
        self.shift(other.count, &other.mean);
    }

    /// Takes in the means of `count` more rows, whose own scatter is already there (Chan, Golub and LeVeque, 1983).
    fn shift(&mut self, count: f64, mean: &[f64]) {
        let total = self.count + count;
        if total == 0.0 {
            return;
        }
        let apart: Vec<f64> = mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        let share = self.count * count / total;
        if share > 0.0 {
            for (i, row) in self.scatter.chunks_exact_mut(self.width).enumerate() {
                row.iter_mut().zip(&apart).skip(i).for_each(|(sum, b)| *sum += (share * apart[i] * b) as f32);
            }
        }
        self.mean.iter_mut().zip(&apart).for_each(|(mean, apart)| *mean += apart * count / total);
        self.count = total;
    }

    /// The same rows with only some of their inputs, in ascending order.
    pub fn with_inputs(&self, kept: &[usize]) -> Self {
        let columns: Vec<usize> = kept.iter().copied().chain(self.inputs..self.width).collect();
        let scatter = kept.iter().flat_map(|i| columns.iter().map(move |j| self.scatter[i * self.width + j])).collect();
        let mean = columns.iter().map(|&j| self.mean[j]).collect();
        Self { width: columns.len(), count: self.count, mean, inputs: kept.len(), scatter }
    }

    /// Of two columns, one of which at least is an input.
    pub fn covariance(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        f64::from(self.scatter[i * self.width + j]) / self.count.max(1.0)
    }
}

/// Which of a map's rows are summed: all, or so many spread over the picture.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    pub most: usize,
    /// In 0..1; another for every picture.
    pub offset: f64,
}

impl Sampling {
    /// Indices below `total`.
    pub fn rows(self, total: usize) -> Vec<usize> {
        if total <= self.most {
            return (0..total).collect();
        }
        // Steps of the golden ratio spread evenly, whatever the width of the feature map.
        const STEP: f64 = 0.618_033_988_749_894_9;
        (0..self.most).map(|i| ((self.offset + i as f64 * STEP).fract() * total as f64) as usize % total).collect()
    }
}

/// Rows made of rows: parts side by side, each with its width.
pub fn beside(parts: &[(Vec<f32>, usize)]) -> Vec<f32> {
    let count = parts.first().map_or(0, |(part, width)| part.len() / width);
    (0..count).flat_map(|row| parts.iter().flat_map(move |(part, width)| &part[row * width..][..*width])).copied().collect()
}

/// The rows `[rows, taps * channels]` that a layer's weights are applied to, at sampled places; `shape` is the input's.
pub fn rows(x: &[f32], shape: &[usize], window: Option<Window>, sampled: impl Fn(usize) -> Vec<usize>) -> Result<Vec<f32>> {
    let channels = shape.last().copied().unwrap_or(1);
    let Some(window) = window.filter(|window| !window.is_pointwise()) else {
        let which = sampled(x.len() / channels.max(1));
        return Ok(which.iter().flat_map(|&row| &x[row * channels..][..channels]).copied().collect());
    };
    let &[batch, height, width, _] = shape else { return Err(Error::Config(format!("a convolution can't act on {shape:?}"))) };
    let place = window.place(height, width);
    let which = sampled(batch * place.out_height * place.out_width);
    let mut out = Vec::with_capacity(which.len() * window.kernel[0] * window.kernel[1] * channels);
    for index in which {
        let (line, column) = (index / place.out_width, index % place.out_width);
        let (picture, row) = (line / place.out_height, line % place.out_height);
        for y in 0..window.kernel[0] {
            for x_tap in 0..window.kernel[1] {
                let y = (row * window.stride + y * window.dilation).wrapping_sub(place.top);
                let x_at = (column * window.stride + x_tap * window.dilation).wrapping_sub(place.left);
                // What lies above or on the left has wrapped around to a large number.
                match y < height && x_at < width {
                    true => out.extend_from_slice(&x[((picture * height + y) * width + x_at) * channels..][..channels]),
                    false => out.resize(out.len() + channels, 0.0),
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Padding;

    #[test]
    fn parts_give_the_covariance_of_the_whole_however_large_the_mean() {
        let mut random = fastrand::Rng::with_seed(1);
        let rows: Vec<f32> = (0..300).map(|i| 1000.0 * (i % 3) as f32 + random.f32()).collect();
        let mut parts = [Gram::new(3), Gram::new(3), Gram::new(3)];
        parts[0].add(&rows[..30], None);
        parts[0].add(&rows[30..90], Some(&[1.0; 20]));
        parts[1].add(&rows[90..], None);
        let [mut sum, second, empty] = parts;
        sum.merge(&second);
        sum.merge(&empty);
        let column = |i: usize| rows.iter().skip(i).step_by(3).map(|x| f64::from(*x)).collect::<Vec<_>>();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let mut of_map = Gram::of_map(1, 2);
        of_map.add(&rows, None);
        assert!((0..3).all(|j| (of_map.covariance(0, j) - sum.covariance(0, j)).abs() < 1e-5));
        for (i, j) in [(0, 0), (1, 2), (2, 2)] {
            let (a, b) = (column(i), column(j));
            let expected = a.iter().zip(&b).map(|(x, y)| (x - mean(&a)) * (y - mean(&b))).sum::<f64>() / 100.0;
            assert!((sum.covariance(i, j) - expected).abs() < 1e-5, "{i} {j} {} {expected}", sum.covariance(i, j));
        }
        assert!((sum.mean[1] - mean(&column(1))).abs() < 1e-9);
        let (mut twice, mut weighted) = (Gram::new(3), Gram::new(3));
        twice.add(&[&rows[..6], &rows[..3]].concat(), None);
        weighted.add(&rows[..9], Some(&[2.0, 1.0, 0.0]));
        assert_eq!(twice.count, weighted.count);
        assert!((twice.covariance(0, 2) - weighted.covariance(0, 2)).abs() < 1e-6 && (twice.mean[1] - weighted.mean[1]).abs() < 1e-9);
    }

    #[test]
    fn wide_maps_are_summed_like_narrow_ones() {
        let (inputs, outputs, count) = (BLOCK + 22, 20, 12);
        let width = inputs + outputs;
        let mut random = fastrand::Rng::with_seed(2);
        let rows: Vec<f32> = (0..count * width).map(|i| (i % width) as f32 + random.f32()).collect();
        let mut gram = Gram::of_map(inputs, outputs);
        gram.add(&rows[..5 * width], None);
        gram.add(&rows[5 * width..], None);
        let column = |i: usize| rows.iter().skip(i).step_by(width).map(|x| f64::from(*x)).collect::<Vec<_>>();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let expected = |i: usize, j: usize| {
            let (a, b) = (column(i), column(j));
            a.iter().zip(&b).map(|(x, y)| (x - mean(&a)) * (y - mean(&b))).sum::<f64>() / count as f64
        };
        for (i, j) in (0..inputs).flat_map(|i| [(i, i), (i, (i + 71) % inputs), (i, inputs + i % outputs)]) {
            assert!((gram.covariance(i, j) - expected(i, j)).abs() < 1e-5, "{i} {j} {} {}", gram.covariance(i, j), expected(i, j));
        }
    }

    #[test]
    fn some_of_the_inputs_are_summed_as_if_there_were_no_others() {
        let mut random = fastrand::Rng::with_seed(4);
        let rows: Vec<f32> = (0..8 * 6).map(|_| random.f32()).collect();
        let (mut all, mut some) = (Gram::of_map(4, 2), Gram::of_map(2, 2));
        all.add(&rows, None);
        let column = |i: usize| (rows.iter().skip(i).step_by(6).copied().collect::<Vec<_>>(), 1);
        some.add(&beside(&[1, 3, 4, 5].map(column)), None);
        let found = all.with_inputs(&[1, 3]);
        assert_eq!((found.width, found.inputs, found.count, &found.mean), (4, 2, 8.0, &some.mean));
        for (i, j) in (0..2).flat_map(|i| (i..4).map(move |j| (i, j))) {
            assert!((found.covariance(i, j) - some.covariance(i, j)).abs() < 1e-6);
        }
    }

    #[test]
    fn rows_of_a_window_are_what_its_weights_see() {
        // 3 × 2 places of 2 channels: the number of the place, and a hundred more.
        let x: Vec<f32> = (0..6).flat_map(|i| [i as f32, 100.0 + i as f32]).collect();
        let window = Window::new(3, 2, Padding::Even(1));
        let found = rows(&x, &[1, 3, 2, 2], Some(window), |total| (0..total).collect()).unwrap();
        assert_eq!(found.len(), 2 * 9 * 2);
        // The second place's window is around (2, 0): above and beside it lie (1, 0), (1, 1) and (2, 1).
        let second: Vec<f32> = found[18..].iter().step_by(2).copied().collect();
        assert_eq!(second, [0.0, 2.0, 3.0, 0.0, 4.0, 5.0, 0.0, 0.0, 0.0]);
        let sampling = Sampling { most: 4, offset: 0.3 };
        let sampled = sampling.rows(100);
        assert!(sampled.len() == 4 && sampled.iter().all(|&row| row < 100) && sampled == sampling.rows(100));
    }
}
