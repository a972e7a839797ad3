//! What ends a layer: the host's side of `kernels/epilogue.wgsl`.

use super::recorder::expect;
use super::template::Constant;
use crate::config::Activation;
use crate::error::Result;
use crate::weights::HostTensor;

/// An activation and what follows it, as the kernels have it.
pub struct Epilogue {
    /// CURVE and AFFINE.
    pub constants: [Constant; 2],
    /// Code, low, high, scale and shift.
    pub words: [u32; 5],
}

impl Epilogue {
    /// `affine` is a scale and a shift.
    pub fn new(activation: Activation, affine: Option<[f32; 2]>) -> Self {
        let (curve, [code, low, high]) = match activation {
            Activation::None => (0, limits(f32::MIN, f32::MAX)),
            Activation::Relu => (0, limits(0.0, f32::MAX)),
            Activation::Relu6 => (0, limits(0.0, 6.0)),
            Activation::Gelu => (1, [1, 0, 0]),
            Activation::Silu => (1, [2, 0, 0]),
            Activation::Sigmoid => (1, [3, 0, 0]),
        };
        let [scale, shift] = affine.unwrap_or([1.0, 0.0]).map(f32::to_bits);
        Self { constants: [("CURVE", curve), ("AFFINE", u32::from(affine.is_some()))], words: [code, low, high, scale, shift] }
    }

    /// min(max(x, low), high)
    pub fn clamp(low: f32, high: f32) -> Self {
        let [code, low, high] = limits(low, high);
        Self { constants: [("CURVE", 0), ("AFFINE", 0)], words: [code, low, high, 1f32.to_bits(), 0] }
    }
}

/// Code, low and high of a plain clamp.
fn limits(low: f32, high: f32) -> [u32; 3] {
    [0, low.to_bits(), high.to_bits()]
}

/// The scale and the shift of a tensor `[2]`.
pub fn affine(tensor: Option<&HostTensor>) -> Result<Option<[f32; 2]>> {
    let Some(tensor) = tensor else { return Ok(None) };
    expect("an affine", &tensor.shape, &[2])?;
    let numbers = tensor.to_f32();
    Ok(Some([numbers[0], numbers[1]]))
}
