//! Products of matrices that may be transposed or lie within larger ones, by the `gemm` crate on the calling thread.
//!
//! A training step keeps the cores busy with pictures, not with the pieces of one product.

use gemm::Parallelism;

/// A matrix within a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    numbers: &'a [f32],
    layout: Layout,
}

#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    columns: usize,
    /// Numbers from a row to the next, and from a column to the next.
    down: usize,
    along: usize,
}

impl Layout {
    /// Whether every place lies within so many numbers.
    fn fits(&self, length: usize) -> bool {
        self.rows == 0 || self.columns == 0 || (self.rows - 1) * self.down + (self.columns - 1) * self.along < length
    }
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` numbers, whose beginnings are `stride` apart.
    pub fn new(numbers: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { numbers, layout: Layout { rows, columns, down: stride, along: 1 } }
    }

    pub fn transposed(self) -> Self {
        let Layout { rows, columns, down, along } = self.layout;
        Self { layout: Layout { rows: columns, columns: rows, down: along, along: down }, ..self }
    }
}

/// `out` = `scale` · left · right, or that added to it; `out`'s rows begin `stride` apart.
///
/// # Panics
/// If the sizes don't go together.
pub fn product(out: &mut [f32], stride: usize, left: Matrix, right: Matrix, scale: f32, add: bool) {
    let (rows, depth, columns) = (left.layout.rows, left.layout.columns, right.layout.columns);
    let to = Layout { rows, columns, down: stride, along: 1 };
    assert!(right.layout.rows == depth && stride >= columns, "[{rows}, {depth}] times [{}, {columns}]", right.layout.rows);
    assert!(to.fits(out.len()) && left.layout.fits(left.numbers.len()) && right.layout.fits(right.numbers.len()));
    // SAFETY: every place of the three matrices lies within its slice, and places of `out` don't overlap.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            left.numbers.as_ptr(),
            left.layout.along as isize,
            left.layout.down as isize,
            right.numbers.as_ptr(),
            right.layout.along as isize,
            right.layout.down as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
