//! The class loss of one query, given an aim (0..1) for each class that one can tell right from wrong.

use crate::train::matching::log_sum_exp;

/// Cross-entropy of a softmax with the aims (the last class is no-object and has none). What the aims leave of 1 should go
/// to no-object; that it goes to a class without an aim is just as right, so those count as one. Returns the loss and adds
/// `share` times its gradient.
pub(in crate::train) fn cross_entropy(logits: &[f32], aims: &[Option<f32>], share: f32, grad: &mut [f32]) -> f32 {
    let all = log_sum_exp(logits.iter().copied());
    let aimed: f32 = aims.iter().flatten().sum();
    // Several doubtful objects in one place may want more than there is.
    let scale = 1.0 / aimed.max(1.0);
    let rest = (1.0 - aimed * scale).max(0.0);
    let free = if rest > 0.0 { log_sum_exp(logits.iter().zip(aims).filter(|(_, aim)| aim.is_none()).map(|(x, _)| *x)) } else { 0.0 };

    let mut loss = if rest > 0.0 { rest * (all - free) } else { 0.0 };
    for ((&x, aim), grad) in logits.iter().zip(aims).zip(grad) {
        let wanted = match aim {
            Some(0.0) => 0.0,
            Some(aim) => {
                loss += scale * aim * (all - x);
                scale * aim
            }
            None if rest > 0.0 => rest * (x - free).exp(),
            None => 0.0,
        };
        *grad += share * ((x - all).exp() - wanted);
    }
    loss
}

/// Quality focal loss (Li et al. 2020, arXiv:2006.04388, equation 4, with the exponent 2): cross-entropy of each class's
/// sigmoid with its aim, times the square of the distance between them. The aims are constants. Returns the sum over
/// the classes that have an aim and adds `share` times its gradient.
pub(in crate::train) fn quality_focal(logits: &[f32], aims: &[Option<f32>], share: f32, grad: &mut [f32]) -> f32 {
    let mut loss = 0.0;
    for ((&x, aim), grad) in logits.iter().zip(aims).zip(grad) {
        let Some(aim) = *aim else { continue };
        let (score, softplus) = sigmoid_and_softplus(x);
        let entropy = softplus - x * aim;
        let off = score - aim;
        loss += off * off * entropy;
        *grad += share * off * (off * off + 2.0 * entropy * score * (1.0 - score));
    }
    loss
}

/// Cross-entropy of each class's sigmoid with its aim, times what `weigh` says for (class, aim, score). Aims and weights are constants. Returns
/// the sum over the classes that have an aim and adds `share` times its gradient.
pub(in crate::train) fn weighted_entropy(
    logits: &[f32],
    aims: &[Option<f32>],
    share: f32,
    grad: &mut [f32],
    weigh: impl Fn(usize, f32, f32) -> f32,
) -> f32 {
    let mut loss = 0.0;
    for (class, ((&x, aim), grad)) in logits.iter().zip(aims).zip(grad).enumerate() {
        let Some(aim) = *aim else { continue };
        let (score, softplus) = sigmoid_and_softplus(x);
        let weight = weigh(class, aim, score);
        loss += weight * (softplus - x * aim);
        *grad += share * weight * (score - aim);
    }
    loss
}

/// A logit's sigmoid, and ln(1 + exp(x)).
fn sigmoid_and_softplus(x: f32) -> (f32, f32) {
    // exp(-|x|) can't overflow, and gives both.
    let small = (-x.abs()).exp();
    (if x >= 0.0 { 1.0 } else { small } / (1.0 + small), x.max(0.0) + small.ln_1p())
}
