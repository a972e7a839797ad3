//! Sums, products, activations and clamps, element by element: the host's side of `kernels/elementwise.wgsl`.

use super::epilogue::Epilogue;
use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, expect, lanes, vectors};
use crate::error::Result;

/// What becomes of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Add,
    Multiply,
}

/// Some of `a`'s neighbouring dimensions as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dimension {
    size: usize,
    /// How far apart the elements of `b` are along it: 0 where they are repeated.
    step: usize,
}

/// `x` and its epilogue.
pub fn unary(recorder: &Recorder, x: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
    let y = recorder.made(&x.shape)?;
    let vector = vectors(x.size());
    let count = x.size() / lanes(vector);
    let mut constants = vec![("VECTOR", vector), ("BINARY", 0), ("MULTIPLY", 0), ("SPLAT", 0), ("DIMENSIONS", 0)];
    constants.extend(epilogue.constants);
    let parameters = [&[count as u32], &epilogue.words[..]].concat();
    recorder.dispatch_each(Family::Elementwise, &constants, &parameters, &[&x.value], &y.value, count);
    Ok(y)
}

/// Each dimension of `b` is `a`'s, or 1.
pub fn binary(recorder: &Recorder, operation: Operation, a: &Tensor, b: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
    let fits = a.shape.len() == b.shape.len() && a.shape.iter().zip(&b.shape).all(|(a, b)| a == b || *b == 1);
    if !fits {
        expect("the second term of a sum or product", &b.shape, &a.shape)?;
    }
    let y = recorder.made(&a.shape)?;
    let mut dimensions = joined(&a.shape, &b.shape);
    let inner = dimensions.first().copied().unwrap_or(Dimension { size: a.size(), step: 0 });
    let (vector, splat) = (vectors(inner.size), u32::from(inner.step == 0));
    let lanes = lanes(vector);
    for (i, dimension) in dimensions.iter_mut().enumerate() {
        if i == 0 {
            dimension.size /= lanes;
        } else if splat == 0 {
            dimension.step /= lanes;
        }
    }
    let count = a.size() / lanes;
    let multiply = u32::from(operation == Operation::Multiply);
    let mut constants = vec![("VECTOR", vector), ("BINARY", 1), ("MULTIPLY", multiply), ("SPLAT", splat), ("DIMENSIONS", dimensions.len() as u32)];
    constants.extend(epilogue.constants);
    let mut parameters = [&[count as u32], &epilogue.words[..]].concat();
    parameters.extend(dimensions.iter().flat_map(|dimension| [dimension.size as u32, dimension.step as u32]));
    recorder.dispatch_each(Family::Elementwise, &constants, &parameters, &[&a.value, &b.value], &y.value, count);
    Ok(y)
}

/// `a`'s dimensions, the innermost first, with neighbours joined that are alike; without those that only repeat all of `b`.
fn joined(a: &[usize], b: &[usize]) -> Vec<Dimension> {
    let mut dimensions: Vec<Dimension> = Vec::new();
    let mut size_of_b = 1;
    for (&size, &of_b) in a.iter().zip(b).rev().filter(|(size, _)| **size != 1) {
        let step = if of_b == 1 { 0 } else { size_of_b };
        size_of_b *= of_b;
        match dimensions.last_mut() {
            Some(last) if (last.step == 0) == (step == 0) => last.size *= size,
            _ => dimensions.push(Dimension { size, step }),
        }
    }
    dimensions.pop_if(|last| last.step == 0);
    dimensions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_dimensions_are_joined() {
        let joined = |a: &[usize], b: &[usize]| joined(a, b).iter().map(|d| [d.size, d.step]).collect::<Vec<_>>();
        // A plain repeat is one dimension, and a single number none.
        assert_eq!(joined(&[2, 3, 4], &[2, 3, 4]), [[24, 1]]);
        assert_eq!(joined(&[2, 3, 4], &[1, 3, 4]), [[12, 1]]);
        assert_eq!(joined(&[2, 3, 4], &[1, 1, 1]), [[0; 2]; 0]);
        // b's elements are as far apart as b, not a, has them.
        assert_eq!(joined(&[2, 3, 4], &[2, 3, 1]), [[4, 0], [6, 1]]);
        assert_eq!(joined(&[2, 3, 4], &[2, 1, 4]), [[4, 1], [3, 0], [2, 4]]);
        assert_eq!(joined(&[2, 3, 5, 7], &[1, 3, 1, 7]), [[7, 1], [5, 0], [3, 7]]);
        // A dimension of one is both or neither.
        assert_eq!(joined(&[2, 1, 4], &[2, 1, 4]), [[8, 1]]);
        assert_eq!(joined(&[2, 1, 4], &[2, 1, 1]), [[4, 0], [2, 1]]);
    }
}
