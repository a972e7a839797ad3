//! A linear map with bias and bounds as one operation of candle's autograd.

use super::{contiguous, of, within};
use crate::cpu::Floats;
use crate::matrix::{Matrix, product};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// x·Wᵀ + b within bounds: `x` `[…, in]`, `W` `[out, in]`, `b` `[out]`.
pub struct Linear {
    /// The smallest and largest value that is let through.
    pub bounds: Option<[f32; 2]>,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = lw.shape().dims2()?;
        let mut shape = lx.dims().to_vec();
        if shape.pop() != Some(inputs) || lb.dims() != [outputs] {
            candle_core::bail!("a linear map {:?} with bias {:?} can't act on {:?}", lw.shape(), lb.shape(), lx.shape());
        }
        shape.push(outputs);
        let (x, w, b) = (of(x, lx)?, of(w, lw)?, of(b, lb)?);
        let rows = x.len() / inputs;
        let mut out = b.repeat(rows);
        product(&mut out, outputs, Matrix::new(x, rows, inputs, inputs), Matrix::new(w, outputs, inputs, inputs).transposed(), 1.0, true);
        if let Some([least, most]) = self.bounds {
            out.iter_mut().for_each(|y| *y = y.clamp(least, most));
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, out: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = w.dims2()?;
        let grad = contiguous(grad)?;
        let g = Floats::of(&grad)?;
        let g = &*within(&g, &Floats::of(out)?, self.bounds);
        let rows = g.len() / outputs;
        let down = Matrix::new(g, rows, outputs, outputs);
        let by_x = x.track_op().then(|| {
            let mut by_x = vec![0.0; rows * inputs];
            product(&mut by_x, inputs, down, Matrix::new(&Floats::of(w)?, outputs, inputs, inputs), 1.0, false);
            Tensor::from_vec(by_x, x.shape(), x.device())
        });
        let by_w = w.track_op().then(|| {
            let x = contiguous(x)?;
            let mut by_w = vec![0.0; outputs * inputs];
            product(&mut by_w, inputs, down.transposed(), Matrix::new(&Floats::of(&x)?, rows, inputs, inputs), 1.0, false);
            Tensor::from_vec(by_w, (outputs, inputs), w.device())
        });
        let by_b = b.track_op().then(|| {
            let mut by_b = vec![0.0; outputs];
            g.chunks_exact(outputs).for_each(|row| by_b.iter_mut().zip(row).for_each(|(sum, g)| *sum += g));
            Tensor::from_vec(by_b, outputs, b.device())
        });
        Ok((by_x.transpose()?, by_w.transpose()?, by_b.transpose()?))
    }
}
