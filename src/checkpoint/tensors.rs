//! Tensors as they lie in somebody's file: type, shape, strides and borrowed bytes, all checked against each other.

use half::{bf16, f16};
use std::collections::BTreeMap;

/// The tensors of a file by their names there.
pub type Tensors<'a> = BTreeMap<String, RawTensor<'a>>;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    /// Something that no detector's weight is made of, and its size in bytes.
    Other(usize),
}

impl Dtype {
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I8 => 1,
            Dtype::Other(size) => size,
        }
    }
}

/// A tensor in a file. Every element is known to lie inside `bytes`, and there are no more elements than `bytes` can hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    /// From the first element on.
    bytes: &'a [u8],
}

impl<'a> RawTensor<'a> {
    /// A tensor whose elements lie in `bytes` row by row.
    pub fn contiguous(dtype: Dtype, shape: Vec<usize>, bytes: &'a [u8]) -> Result<Self, String> {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].checked_mul(shape[i]).ok_or_else(|| format!("its shape {shape:?} is impossible"))?;
        }
        Self::strided(dtype, shape, strides, bytes)
    }

    /// A tensor whose elements lie in `bytes` at multiples of `strides`.
    pub fn strided(dtype: Dtype, shape: Vec<usize>, strides: Vec<usize>, bytes: &'a [u8]) -> Result<Self, String> {
        if shape.len() != strides.len() {
            return Err(format!("its shape {shape:?} doesn't go with the strides {strides:?}"));
        }
        let room = bytes.len() / dtype.size().max(1);
        let elements = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let elements = elements.ok_or_else(|| format!("its shape {shape:?} is impossible"))?;
        let reach = match elements {
            0 => Some(0),
            _ => shape.iter().zip(&strides).try_fold(1usize, |reach, (&side, &stride)| reach.checked_add((side - 1).checked_mul(stride)?)),
        };
        // As many elements as the storage can hold: an expanded tensor (stride 0) could ask for any amount of memory.
        if elements > room || reach.is_none_or(|reach| reach > room) {
            return Err(format!("its shape {shape:?} with strides {strides:?} needs more than the {room} elements that are there"));
        }
        Ok(Self { dtype, shape, strides, bytes })
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The `part`-th of `parts` equal blocks of rows.
    pub fn rows(&self, part: usize, parts: usize) -> Option<Self> {
        if parts == 1 {
            // Even a scalar, which has no rows.
            return (part == 0).then(|| self.clone());
        }
        let rows = *self.shape.first()?;
        if part >= parts || !rows.is_multiple_of(parts) {
            return None;
        }
        let rows = rows / parts;
        let skipped = if self.elements() == 0 { 0 } else { part * rows * self.strides[0] * self.dtype.size() };
        let shape = std::iter::once(rows).chain(self.shape[1..].iter().copied()).collect();
        Some(Self { shape, bytes: &self.bytes[skipped..], ..self.clone() })
    }

    /// The numbers in row-major order; none where the type isn't a floating-point type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.dtype {
            Dtype::F64 => Some(self.read(|bytes| f64::from_le_bytes(bytes) as f32)),
            Dtype::F32 => Some(self.read(f32::from_le_bytes)),
            Dtype::F16 => Some(self.read(|bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::Bf16 => Some(self.read(|bytes| bf16::from_le_bytes(bytes).to_f32())),
            Dtype::I8 | Dtype::Other(_) => None,
        }
    }

    /// The numbers of an int8 tensor in row-major order.
    pub fn to_i8(&self) -> Option<Vec<i8>> {
        (self.dtype == Dtype::I8).then(|| self.read(i8::from_le_bytes))
    }

    /// Whether each element is something else than zero, whatever its type; none where that has an odd size.
    pub fn nonzero(&self) -> Vec<bool> {
        match (self.to_f32(), self.dtype.size()) {
            (Some(numbers), _) => numbers.into_iter().map(|x| x != 0.0).collect(),
            (None, 1) => self.read(|bytes| bytes != [0; 1]),
            (None, 2) => self.read(|bytes| bytes != [0; 2]),
            (None, 4) => self.read(|bytes| bytes != [0; 4]),
            (None, 8) => self.read(|bytes| bytes != [0; 8]),
            _ => Vec::new(),
        }
    }

    fn read<const SIZE: usize, T>(&self, number: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
        let (cells, _) = self.bytes.as_chunks::<SIZE>();
        let elements = self.elements();
        let mut out = Vec::with_capacity(elements);
        if elements == 0 {
            return out;
        }
        let mut index = vec![0; self.shape.len()];
        let mut place = 0;
        loop {
            out.push(number(cells[place]));
            // Counts up like an odometer, moving `place` along.
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return out;
                }
                axis -= 1;
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    place += self.strides[axis];
                    break;
                }
                place -= (self.shape[axis] - 1) * self.strides[axis];
                index[axis] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn reads_strides_in_row_major_order() {
        let bytes = bytes(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let transposed = RawTensor::strided(Dtype::F32, vec![3, 2], vec![1, 3], &bytes).unwrap();
        assert_eq!(transposed.to_f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed.rows(2, 3).unwrap().to_f32().unwrap(), [2.0, 5.0]);
        assert!(transposed.rows(0, 2).is_none());
    }

    #[test]
    fn a_scalar_has_one_number() {
        let bytes = bytes(&[7.0]);
        let scalar = RawTensor::contiguous(Dtype::F32, vec![], &bytes).unwrap();
        assert_eq!(scalar.to_f32().unwrap(), [7.0]);
        assert_eq!(scalar.rows(0, 1), Some(scalar.clone()));
        assert_eq!(scalar.rows(0, 2), None);
    }

    #[test]
    fn refuses_what_reaches_beyond_the_bytes() {
        let bytes = bytes(&[0.0; 6]);
        for (shape, strides) in [
            (vec![7], vec![1]),
            (vec![3, 2], vec![3, 1]),
            (vec![usize::MAX, 2], vec![1, 1]),
            (vec![2], vec![usize::MAX]),
            // expanded: one row seen a thousand times
            (vec![1000, 6], vec![0, 1]),
            (vec![2, 3], vec![1]),
        ] {
            assert!(RawTensor::strided(Dtype::F32, shape.clone(), strides.clone(), &bytes).is_err(), "{shape:?} {strides:?}");
        }
        assert!(RawTensor::contiguous(Dtype::F32, vec![2, usize::MAX, 2], &bytes).is_err());
        assert!(RawTensor::contiguous(Dtype::F32, vec![0, 4], &[]).unwrap().to_f32().unwrap().is_empty());
    }
}
