//! Vectors of the machine at hand: AVX2, NEON or wasm's simd128, chosen when the program runs (simd128: when it is built).

use crate::config::Activation;
use pulp::{Simd, WithSimd};

/// Runs `work` with the widest vectors there are.
pub fn dispatch<W: WithSimd>(work: W) -> W::Output {
    // Not pulp's own choice, which includes AVX2 only with a feature of the crate that candle's gemm doesn't turn on.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, work);
    }
    pulp::Arch::new().dispatch(work)
}

/// A slice as vectors, without what is left over at its end.
#[inline(always)]
pub fn vectors<S: Simd>(x: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(x).0
}

#[inline(always)]
pub fn vectors_mut<S: Simd>(x: &mut [f32]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(x).0
}

/// The smallest and largest value that an activation lets through, for those that do nothing else.
pub fn bounds(activation: Activation) -> Option<[f32; 2]> {
    match activation {
        Activation::Relu => Some([0.0, f32::INFINITY]),
        Activation::Relu6 => Some([0.0, 6.0]),
        Activation::None | Activation::Gelu | Activation::Silu | Activation::Sigmoid => None,
    }
}

/// `x` within `bounds`; what is no number stays none. Comparing and selecting is faster in wasm than its minimum and maximum,
/// for which V8 needs eight instructions.
#[inline(always)]
pub fn clamp<S: Simd>(simd: S, x: S::f32s, bounds: Option<[f32; 2]>) -> S::f32s {
    let Some([least, most]) = bounds else { return x };
    let bound = simd.splat_f32s(least);
    let x = simd.select_f32s(simd.less_than_f32s(x, bound), bound, x);
    if most == f32::INFINITY {
        return x;
    }
    let bound = simd.splat_f32s(most);
    simd.select_f32s(simd.less_than_f32s(bound, x), bound, x)
}

/// How results end: an activation, then, where there is one, an affine: a scale and a shift of all of them.
#[derive(Clone, Copy, Default)]
pub struct Ending {
    pub activation: Activation,
    pub affine: Option<[f32; 2]>,
}

impl Ending {
    pub fn of(activation: Activation) -> Self {
        Self { activation, affine: None }
    }

    /// What can be done while the results are in registers.
    pub fn early(self) -> Early {
        Early { bounds: bounds(self.activation), affine: self.affine.filter(|_| !self.is_bent()) }
    }

    /// What remains after [`Ending::early`].
    pub fn late(self, x: &mut [f32]) {
        if self.is_bent() {
            dispatch(Bend(x, self));
        }
    }

    /// All of it.
    pub fn whole(self, x: &mut [f32]) {
        if self.is_bent() {
            dispatch(Bend(x, self));
        } else if self.early().is_some() {
            dispatch(Straight(x, self.early()));
        }
    }

    /// Whether the activation is more than its bounds.
    fn is_bent(self) -> bool {
        match self.activation {
            Activation::None | Activation::Relu | Activation::Relu6 => false,
            Activation::Gelu | Activation::Silu | Activation::Sigmoid => true,
        }
    }
}

/// The part of an [`Ending`] that takes an instruction or two.
#[derive(Clone, Copy)]
pub struct Early {
    bounds: Option<[f32; 2]>,
    affine: Option<[f32; 2]>,
}

impl Early {
    pub fn is_some(self) -> bool {
        self.bounds.is_some() || self.affine.is_some()
    }

    #[inline(always)]
    pub fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let x = clamp(simd, x, self.bounds);
        match self.affine {
            Some([scale, shift]) => simd.mul_add_e_f32s(x, simd.splat_f32s(scale), simd.splat_f32s(shift)),
            None => x,
        }
    }
}

struct Straight<'a>(&'a mut [f32], Early);

impl WithSimd for Straight<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (whole, rest) = S::as_mut_simd_f32s(self.0);
        for x in whole {
            *x = self.1.apply(simd, *x);
        }
        for x in rest {
            *x = self.1.apply(pulp::Scalar, *x);
        }
    }
}

struct Bend<'a>(&'a mut [f32], Ending);

impl WithSimd for Bend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self(all, Ending { activation, affine }) = self;
        match activation {
            Activation::None | Activation::Relu | Activation::Relu6 => {}
            Activation::Gelu => {
                all.iter_mut().for_each(|x| *x = 0.5 * *x * (1.0 + candle_core::cpu::erf::erf_f32(*x * std::f32::consts::FRAC_1_SQRT_2)))
            }
            Activation::Silu => all.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
            Activation::Sigmoid => all.iter_mut().for_each(|x| *x = 1.0 / (1.0 + exp(-*x))),
        }
        if let Some([scale, shift]) = affine {
            all.iter_mut().for_each(|x| *x = *x * scale + shift);
        }
    }
}

/// eˣ to the last bit or two, without a branch, so that a loop over it becomes vectors; at most e⁸⁸, and nothing below e⁻⁸⁷:
/// what is masked must not leave subnormal numbers, which the products after it take many times as long for.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding this leaves a number's nearest integer in its lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let counts = if x < -87.0 { 0.0 } else { 1.0 };
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let turns = shifted - ROUND;
    let x = (x - turns * LN2_HIGH) - turns * LN2_LOW;
    // eˣ = 1 + x + x²·p(x) on |x| ≤ ln 2 / 2; p from Cephes' `expf`.
    let p = 1.987_569_1e-4;
    let p = p * x + 1.398_199_9e-3;
    let p = p * x + 8.333_452e-3;
    let p = p * x + 4.166_579_6e-2;
    let p = p * x + 1.666_666_6e-1;
    let p = p * x + 0.5;
    (p * x * x + x + 1.0) * power * counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "exp({x}) is {}, expected {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-87.01), exp(-1e30), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert!(exp(1e30).is_finite());
    }
}
