//! Weights of a matrix product in the order in which its kernel reads them.
//!
//! A `[depth, outputs]` matrix is cut into panels of as many columns as a tile of the kernel is wide; each panel is stored row by row,
//! the last one filled up with zeros: `[panels, depth, panel width]`.

use super::lanes::dispatch;
use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

/// Columns of a panel: two vectors.
pub fn panel_width() -> usize {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            2 * S::F32_LANES
        }
    }
    dispatch(Width)
}

/// Packs the matrix whose entries `at(row, column)` gives.
pub fn pack(depth: usize, outputs: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let width = panel_width();
    let mut packed = Vec::with_capacity(outputs.div_ceil(width) * depth * width);
    for first in (0..outputs).step_by(width) {
        let columns = first..(first + width).min(outputs);
        for row in 0..depth {
            packed.extend(columns.clone().map(|column| at(row, column)));
            packed.extend(std::iter::repeat_n(0.0, width - columns.len()));
        }
    }
    packed
}

/// The `[depth, outputs]` matrix of packed weights, by operations that have a gradient.
pub fn unpack(packed: &Tensor, outputs: usize) -> Result<Tensor> {
    let (panels, depth, width) = packed.dims3()?;
    packed.transpose(0, 1)?.reshape((depth, panels * width))?.narrow(1, 0, outputs)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn unpacking_undoes_packing() {
        for (depth, outputs) in [(1, 1), (3, 7), (5, 16), (2, 33)] {
            let packed = pack(depth, outputs, |row, column| (row * outputs + column) as f32);
            let shape = (outputs.div_ceil(panel_width()), depth, panel_width());
            let matrix = unpack(&Tensor::from_vec(packed, shape, &Device::Cpu).unwrap(), outputs).unwrap();
            let expected: Vec<f32> = (0..depth * outputs).map(|i| i as f32).collect();
            assert_eq!(matrix.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
}
