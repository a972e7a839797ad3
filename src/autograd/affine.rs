//! A learnt scale and shift of all values (HGNetV2's `LearnableAffineBlock`) as one operation of candle's autograd.

use super::{contiguous, gradient, of};
use crate::cpu::Floats;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// How many values are summed before their sum goes into a wider one.
const BLOCK: usize = 1 << 12;

/// `x` of any shape, times the first of `[2]` plus the second.
pub struct Affine;

impl CustomOp2 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, affine: &CpuStorage, la: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[scale, shift] = of(affine, la)? else { candle_core::bail!("a scale and a shift are needed, not {:?}", la.shape()) };
        Ok((CpuStorage::F32(of(x, lx)?.iter().map(|x| scale * x + shift).collect()), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, affine: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = contiguous(grad)?;
        let g = Floats::of(&grad)?;
        let values = contiguous(x)?;
        let values = Floats::of(&values)?;
        let (mut scale, mut shift) = (0.0f64, 0.0f64);
        for (x, g) in values.chunks(BLOCK).zip(g.chunks(BLOCK)) {
            scale += f64::from(x.iter().zip(g).map(|(x, g)| x * g).sum::<f32>());
            shift += f64::from(g.iter().sum::<f32>());
        }
        let by = Floats::of(affine)?[0];
        let by_x = if x.track_op() { gradient(g.iter().map(|g| by * g).collect(), x)? } else { None };
        Ok((by_x, gradient(vec![scale as f32, shift as f32], affine)?))
    }
}
