//! Clipping of the gradient by its global norm, as `torch.nn.utils.clip_grad_norm_`.

use rayon::prelude::*;

/// How many numbers a thread takes at once.
const BLOCK: usize = 1 << 16;
/// Partial sums that one addition doesn't have to wait for another of.
const LANES: usize = 16;

/// What a gradient's norm says about the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The norm over all gradients, before clipping.
    pub norm: f64,
    /// The factor that makes the norm at most the largest allowed one; none where the norm isn't finite: skip the step.
    pub factor: Option<f32>,
}

/// The factor that brings the norm of all gradients together down to `most`. It is for the caller to multiply with: the
/// optimiser does it as it goes along.
pub fn clip<'a>(gradients: impl IntoIterator<Item = &'a [f32]>, most: f64) -> Clip {
    let blocks: Vec<&[f32]> = gradients.into_iter().flat_map(|gradient| gradient.chunks(BLOCK)).collect();
    // Summed up in order: the same gradients always give the same norm.
    let squares: Vec<f64> = blocks.into_par_iter().map(squares).collect();
    let norm = squares.into_iter().sum::<f64>().sqrt();
    Clip { norm, factor: norm.is_finite().then(|| (most / (norm + 1e-6)).min(1.0) as f32) }
}

fn squares(x: &[f32]) -> f64 {
    let (rows, rest) = x.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for row in rows {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.into_iter().chain(rest.iter().map(|&x| f64::from(x) * f64::from(x))).sum()
}

#[cfg(test)]
// Numbers as torch prints them.
#[allow(clippy::excessive_precision)]
mod tests {
    use super::*;

    #[test]
    fn scales_as_pytorch() {
        /* p, q = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
        p.grad, q.grad = tensor([3.0, 4.0]), tensor([-12.0])
        print(torch.nn.utils.clip_grad_norm_([p, q], 6.5), p.grad, q.grad) */
        let found = clip([&[3.0, 4.0][..], &[-12.0]], 6.5);
        assert_eq!(found.norm, 13.0);
        let factor = found.factor.unwrap();
        assert!((3.0 * factor - 1.4999998807907104).abs() < 2e-7 && (-12.0 * factor + 5.999999523162842).abs() < 1e-6);
        assert_eq!(clip([&[3.0, 4.0][..]], 6.5).factor, Some(1.0));
        assert_eq!(clip([], 1.0), Clip { norm: 0.0, factor: Some(1.0) });
    }

    #[test]
    fn counts_every_number_and_doesnt_overflow() {
        let ones = vec![2.0; 3 * BLOCK + LANES + 5];
        assert_eq!(clip([&ones[..]], 1.0).norm, 2.0 * (ones.len() as f64).sqrt());
        assert!(clip([&[1e30, 1e30][..]], 1.0).factor.unwrap() > 0.0);
    }

    #[test]
    fn a_norm_that_isnt_finite_gives_no_factor() {
        for bad in [f32::NAN, f32::INFINITY] {
            let found = clip([&[1.0; 40][..], &[1.0, bad]], 1.0);
            assert!(!found.norm.is_finite() && found.factor.is_none(), "{found:?}");
        }
    }
}
