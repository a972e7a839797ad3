//! What a linear map is given, summed up: the means of its inputs and of their products. Any least-squares question about the map can be
//! answered from these, without the pictures.

use crate::backend::Window;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, product};

/// Sums over the rows that a map was given.
#[derive(Clone, Debug)]
pub struct Gram {
    pub width: usize,
    pub count: f64,
    pub sum: Vec<f64>,
    /// `[width, width]`
    pub products: Vec<f32>,
}

impl Gram {
    pub fn new(width: usize) -> Self {
        Self { width, count: 0.0, sum: vec![0.0; width], products: vec![0.0; width * width] }
    }

    /// Adds rows `[rows, width]`.
    pub fn add(&mut self, rows: &[f32]) {
        let count = rows.len() / self.width;
        self.count += count as f64;
        for row in rows.chunks_exact(self.width) {
            self.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let x = Matrix::new(rows, count, self.width, self.width);
        product(&mut self.products, self.width, x.transposed(), x, 1.0, true);
    }

    /// Adds what another has summed.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.products.iter_mut().zip(&other.products).for_each(|(a, b)| *a += b);
    }

    pub fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|sum| sum / self.count.max(1.0)).collect()
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
