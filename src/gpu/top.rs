//! The best tokens and the largest values, and rows by number: the host's side of `kernels/top_tokens.wgsl`, `top_values.wgsl`
//! and `gather.wgsl`. The numbers of tokens never leave the device.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, lanes, vectors};
use crate::error::{Error, Result};

/// Numbers of chosen tokens.
#[derive(Clone)]
pub struct Indices {
    /// `[batch, k]`, u32.
    chosen: Tensor,
    /// How many tokens there were to choose from: all numbers are below.
    tokens: usize,
}

/// `scores` `[batch, tokens, classes]` → the `k` tokens with the highest best score.
pub fn tokens(recorder: &Recorder, scores: &Tensor, k: usize) -> Result<Indices> {
    let [batch, tokens, classes] = scores.shape[..] else { return Err(Error::Gpu(format!("the best tokens of shape {:?}", scores.shape))) };
    if k > tokens {
        return Err(Error::Gpu(format!("the input is too small for this network: it has {tokens} tokens, of which {k} are to be chosen")));
    }
    let chosen = recorder.made(&[batch, k])?;
    let padded = tokens.next_multiple_of(4);
    let keys = recorder.made(&[batch, padded])?;
    let vector = vectors(classes);
    let parameters = [keys.size(), tokens, padded, classes / lanes(vector)].map(|number| number as u32);
    recorder.dispatch_each(Family::TopTokens, &[("KEYS", 1), ("VECTOR", vector)], &parameters, &[&scores.value], &keys.value, keys.size());
    let count = batch * tokens;
    let parameters = [count, tokens, padded / 4, k].map(|number| number as u32);
    recorder.dispatch_each(Family::TopTokens, &[("KEYS", 0), ("VECTOR", 1)], &parameters, &[&keys.value], &chosen.value, count);
    Ok(Indices { chosen, tokens })
}

/// The `k` largest values of the last axis, the largest first.
pub fn values(recorder: &Recorder, x: &Tensor, k: usize) -> Result<Tensor> {
    let [places @ .., width] = &x.shape[..] else { return Err(Error::Gpu("a number has no largest values".into())) };
    if k > *width {
        return Err(Error::Gpu(format!("the {k} largest of {width} values")));
    }
    let y = recorder.made(&[places, &[k]].concat())?;
    let parameters = [x.size(), *width, k].map(|number| number as u32);
    recorder.dispatch_each(Family::TopValues, &[], &parameters, &[&x.value], &y.value, x.size());
    Ok(y)
}

/// `x` `[batch or 1, tokens, width]` → the rows of chosen tokens `[batch, k, width]`.
pub fn gather(recorder: &Recorder, x: &Tensor, indices: &Indices) -> Result<Tensor> {
    let (&[images, tokens, width], &[batch, k]) = (&x.shape[..], &indices.chosen.shape[..]) else {
        return Err(Error::Gpu(format!("rows of shape {:?} by indices of shape {:?}", x.shape, indices.chosen.shape)));
    };
    if (images != batch && images != 1) || tokens < indices.tokens {
        let message = format!("rows of shape {:?}, expected {batch} or 1 images of {} tokens", x.shape, indices.tokens);
        return Err(Error::Gpu(message));
    }
    let y = recorder.made(&[batch, k, width])?;
    let vector = vectors(width);
    let count = y.size() / lanes(vector);
    let parameters = [count, width / lanes(vector), k, if images == 1 { 0 } else { tokens }].map(|number| number as u32);
    let constants = [("VALUES", 0), ("VECTOR", vector)];
    recorder.dispatch_each(Family::Gather, &constants, &parameters, &[&x.value, &indices.chosen.value], &y.value, count);
    Ok(y)
}

/// The numbers of chosen tokens as a tensor `[batch, k]`.
pub fn index_values(recorder: &Recorder, indices: &Indices) -> Result<Tensor> {
    let y = recorder.made(&indices.chosen.shape)?;
    let (count, constants) = (y.size(), [("VALUES", 1), ("VECTOR", 0)]);
    recorder.dispatch_each(Family::Gather, &constants, &[count as u32], &[&indices.chosen.value], &y.value, count);
    Ok(y)
}
