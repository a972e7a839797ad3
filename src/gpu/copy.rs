//! Operations that only move numbers: concatenation, narrowing and upsampling, the host's side of `kernels/copy.wgsl` and
//! `upsample.wgsl`.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, expect, lanes, vectors};
use crate::error::{Error, Result};

/// Runs of equally many elements, equally far apart.
#[derive(Clone, Copy)]
struct Runs {
    start: usize,
    step: usize,
}

/// Joins tensors that are alike but for `axis`: a dispatch each writes its part of the whole.
pub fn concat(recorder: &Recorder, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let Some(first) = parts.first().filter(|first| axis < first.shape.len()) else {
        return Err(Error::Gpu(format!("a concatenation on axis {axis} of {} tensors", parts.len())));
    };
    let mut shape = first.shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape.get(axis).copied().unwrap_or(0)).sum();
    for part in parts {
        let mut expected = shape.clone();
        expected[axis] = part.shape.get(axis).copied().unwrap_or(0);
        expect("a part of a concatenation", &part.shape, &expected)?;
    }
    let y = recorder.made(&shape)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let step = shape[axis] * inner;
    let mut start = 0;
    for part in parts {
        let length = part.shape[axis] * inner;
        copy(recorder, part, Runs { start: 0, step: length }, &y, Runs { start, step }, length, part.size());
        start += length;
    }
    Ok(y)
}

/// Channels `start..start + length` of the last axis.
pub fn narrow(recorder: &Recorder, x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
    let [places @ .., width] = &x.shape[..] else { return Err(Error::Gpu("a number has no channels".into())) };
    if length == 0 || start.checked_add(length).is_none_or(|end| end > *width) {
        return Err(Error::Gpu(format!("channels {start} and {length} following are not in a tensor of shape {:?}", x.shape)));
    }
    let y = recorder.made(&[places, &[length]].concat())?;
    copy(recorder, x, Runs { start, step: *width }, &y, Runs { start: 0, step: length }, length, y.size());
    Ok(y)
}

/// Copies `size` numbers in runs of `length`.
fn copy(recorder: &Recorder, x: &Tensor, from: Runs, y: &Tensor, to: Runs, length: usize, size: usize) {
    let numbers = [size, length, from.start, from.step, to.start, to.step];
    let vector = u32::from(numbers.iter().all(|number| vectors(*number) == 1));
    // In the order of `copy.wgsl`.
    let parameters = numbers.map(|number| (number / lanes(vector)) as u32);
    recorder.dispatch_each(Family::Copy, &[("VECTOR", vector)], &parameters, &[&x.value], &y.value, size / lanes(vector));
}

/// Nearest-neighbour upsampling by two.
pub fn upsample(recorder: &Recorder, x: &Tensor) -> Result<Tensor> {
    let [batch, height, width, channels] = x.shape[..] else { return Err(Error::Gpu(format!("upsampling of shape {:?}", x.shape))) };
    let y = recorder.made(&[batch, 2 * height, 2 * width, channels])?;
    let vector = vectors(channels);
    let count = x.size() / lanes(vector);
    let parameters = [count, channels / lanes(vector), width].map(|number| number as u32);
    recorder.dispatch_each(Family::Upsample, &[("VECTOR", vector)], &parameters, &[&x.value], &y.value, count);
    Ok(y)
}
