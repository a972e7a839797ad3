//! Weights of a matrix product in the order in which its kernel reads them.
//!
//! A `[depth, outputs]` matrix is cut into panels of as many columns as a tile of the kernel is wide; each panel is stored row by row,
//! the last one filled up with zeros: `[panels, depth, panel width]`.

use super::lanes::dispatch;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_lie_in_panels_one_row_after_another() {
        let width = panel_width();
        for (depth, outputs) in [(1, 1), (3, 7), (5, 16), (2, 33)] {
            let packed = pack(depth, outputs, |row, column| (1 + row * outputs + column) as f32);
            assert_eq!(packed.len(), outputs.div_ceil(width) * depth * width);
            for (i, &x) in packed.iter().enumerate() {
                let (row, column) = (i / width % depth, i / (width * depth) * width + i % width);
                assert_eq!(x, if column < outputs { (1 + row * outputs + column) as f32 } else { 0.0 });
            }
        }
    }
}
