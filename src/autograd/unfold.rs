//! What every place of a convolution sees, as one operation of candle's autograd. (Made of candle's operations, it would copy the map for each
//! tap several times, back and forth.)

use super::{contiguous, gradient, of};
use crate::backend::{Placement, Window};
use crate::cpu::Floats;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// `x` `[batch, height, width, channels]` → `[batch, out height, out width, taps * channels]`; padding is seen as zeros.
pub struct Unfold {
    pub window: Window,
}

/// Where a piece of what a place sees lies: numbers of the map, in one image, and of the output.
struct Piece {
    map: usize,
    out: usize,
    length: usize,
}

impl Unfold {
    fn place(&self, height: usize, width: usize) -> Result<Placement> {
        let place = self.window.place(height, width);
        if place.out_height * place.out_width == 0 {
            candle_core::bail!("a window of {:?} doesn't fit into {height}×{width}", self.window.kernel)
        }
        Ok(place)
    }

    /// All pieces of one image, in the output's order.
    fn pieces(&self, [height, width, channels]: [usize; 3], place: Placement, mut each: impl FnMut(Piece)) {
        let Window { kernel: [rows, columns], stride, dilation, .. } = self.window;
        // Taps that lie side by side are one piece.
        let (run, runs) = if dilation == 1 { (columns, 1) } else { (1, columns) };
        for out in 0..place.out_height * place.out_width {
            let (top, left) =
                ((out / place.out_width * stride) as isize - place.top as isize, (out % place.out_width * stride) as isize - place.left as isize);
            for row in 0..rows {
                let y = top + (row * dilation) as isize;
                if y < 0 || y >= height as isize {
                    continue;
                }
                for first in 0..runs {
                    let x = left + (first * dilation) as isize;
                    let skipped = (-x).clamp(0, run as isize);
                    let length = (width as isize - x).clamp(0, run as isize) - skipped;
                    if length > 0 {
                        let map = (y as usize * width + (x + skipped) as usize) * channels;
                        let tap = row * columns + first + skipped as usize;
                        each(Piece { map, out: (out * rows * columns + tap) * channels, length: length as usize * channels });
                    }
                }
            }
        }
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = lx.shape().dims4()?;
        let place = self.place(height, width)?;
        let row = self.window.kernel[0] * self.window.kernel[1] * channels;
        if batch * height * width * channels == 0 || place.out_height * place.out_width == 0 {
            candle_core::bail!("a window of {:?} has nothing to see in {:?}", self.window.kernel, lx.shape())
        }
        let mut out = vec![0.0; batch * place.out_height * place.out_width * row];
        let images = of(x, lx)?.chunks_exact(height * width * channels).zip(out.chunks_exact_mut(place.out_height * place.out_width * row));
        for (x, out) in images {
            self.pieces([height, width, channels], place, |piece| {
                out[piece.out..piece.out + piece.length].copy_from_slice(&x[piece.map..piece.map + piece.length]);
            });
        }
        Ok((CpuStorage::F32(out), (batch, place.out_height, place.out_width, row).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = x.dims4()?;
        let place = self.place(height, width)?;
        let row = self.window.kernel[0] * self.window.kernel[1] * channels;
        let grad = contiguous(grad)?;
        let grad = Floats::of(&grad)?;
        let mut by_x = vec![0.0; x.elem_count()];
        let images = by_x.chunks_exact_mut(height * width * channels).zip(grad.chunks_exact(place.out_height * place.out_width * row));
        for (by_x, grad) in images {
            self.pieces([height, width, channels], place, |piece| {
                let seen = &grad[piece.out..piece.out + piece.length];
                by_x[piece.map..piece.map + piece.length].iter_mut().zip(seen).for_each(|(sum, g)| *sum += g);
            });
        }
        gradient(by_x, x)
    }
}
