//! What goes over single values: sums and products of two tensors, activations, bounds.

use super::lanes::{Ending, dispatch};
use super::threads;
use crate::config::Activation;
use pulp::{Simd, WithSimd};

/// Numbers of a block: it stays in the second-level cache.
const BLOCK: usize = 1 << 15;

#[derive(Clone, Copy)]
pub enum Pair {
    Add,
    Multiply,
}

/// Dimensions of the first tensor that lie next to one another and that the second has, or has not (there they are 1), joined to one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Joined {
    length: usize,
    shared: bool,
}

/// `a` and `b` value by value; each of `b`'s dimensions is that of `a`, or 1.
pub fn pair(pair: Pair, [a, b]: [&[f32]; 2], [shape, short]: [&[usize]; 2], ending: Ending) -> Vec<f32> {
    let mut dimensions = join(shape, short);
    // What changes fastest is a row: as long as `b`'s, or with one number of `b`'s for all of it.
    let row = dimensions.pop().unwrap_or(Joined { length: 1, shared: true });
    let whole = dimensions.is_empty();
    let mut out = vec![0.0; a.len()];
    // A row that is all there is may be cut.
    let most = BLOCK / if whole { 1 } else { row.length.max(1) };
    let unit = if whole { 1 } else { row.length };
    let block = threads::block(a.len() / unit.max(1), most.max(1), unit) * unit;
    threads::each_block(&mut out, block.max(1), |index, out| {
        let first = index * block;
        let a = &a[first..][..out.len()];
        if whole {
            let b = if row.shared { &b[first..][..out.len()] } else { b };
            dispatch(Rows { pair, a, b: &[b], length: out.len(), out });
        } else {
            let rows = first / row.length..(first + out.len()) / row.length;
            let step = if row.shared { row.length } else { 1 };
            let b: Vec<&[f32]> = rows.map(|index| &b[place(&dimensions, index) * step..][..step]).collect();
            dispatch(Rows { pair, a, b: &b, length: row.length, out });
        }
        ending.whole(out);
    });
    out
}

fn join(shape: &[usize], short: &[usize]) -> Vec<Joined> {
    let mut dimensions: Vec<Joined> = Vec::new();
    for (&length, &short) in shape.iter().zip(short).filter(|(length, _)| **length != 1) {
        let shared = short == length;
        match dimensions.last_mut() {
            Some(last) if last.shared == shared => last.length *= length,
            _ => dimensions.push(Joined { length, shared }),
        }
    }
    dimensions
}

/// The row of the second tensor that belongs to a row of the first.
fn place(dimensions: &[Joined], mut row: usize) -> usize {
    let (mut place, mut stride) = (0, 1);
    for dimension in dimensions.iter().rev() {
        if dimension.shared {
            place += row % dimension.length * stride;
            stride *= dimension.length;
        }
        row /= dimension.length;
    }
    place
}

/// Some rows, each with as many numbers of the second tensor, or with one.
struct Rows<'a> {
    pair: Pair,
    a: &'a [f32],
    b: &'a [&'a [f32]],
    length: usize,
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { pair, a, b, length, out } = self;
        for ((out, a), b) in out.chunks_exact_mut(length).zip(a.chunks_exact(length)).zip(b) {
            match (pair, *b) {
                (Pair::Add, &[b]) => out.iter_mut().zip(a).for_each(|(out, a)| *out = a + b),
                (Pair::Multiply, &[b]) => out.iter_mut().zip(a).for_each(|(out, a)| *out = a * b),
                (Pair::Add, b) => out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b),
                (Pair::Multiply, b) => out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a * b),
            }
        }
    }
}

pub fn activate(x: &[f32], activation: Activation) -> Vec<f32> {
    each(x, |out| Ending::of(activation).whole(out))
}

/// `x` within bounds, of which the first must not be above the second.
pub fn clamp(x: &[f32], min: f32, max: f32) -> Vec<f32> {
    each(x, |out| dispatch(Clamp { min, max, out }))
}

/// `work` on each block of a copy, by several threads.
fn each(x: &[f32], work: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    let mut out = x.to_vec();
    // An exponential costs about ten multiplications.
    let block = threads::block(x.len(), BLOCK, 10);
    threads::each_block(&mut out, block, |_, out| work(out));
    out
}

struct Clamp<'a> {
    min: f32,
    max: f32,
    out: &'a mut [f32],
}

impl WithSimd for Clamp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.out {
            *x = x.clamp(self.min, self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_of_a_kind_are_joined() {
        let joined = |shape: &[usize], short: &[usize]| join(shape, short).into_iter().map(|d| (d.length, d.shared)).collect::<Vec<_>>();
        assert_eq!(joined(&[2, 3, 4], &[2, 3, 4]), [(24, true)]);
        assert_eq!(joined(&[2, 3, 4], &[1, 3, 4]), [(2, false), (12, true)]);
        assert_eq!(joined(&[2, 1, 4, 5], &[1, 1, 1, 5]), [(8, false), (5, true)]);
        assert_eq!(joined(&[2, 3, 4], &[2, 1, 4]), [(2, true), (3, false), (4, true)]);
        assert_eq!(joined(&[1, 1], &[1, 1]), []);
        let rows = join(&[2, 3, 4], &[2, 1, 4]);
        assert_eq!((0..6).map(|row| place(&rows[..2], row)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
    }
}
