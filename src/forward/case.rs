//! A case: what goes into a network, and what should come out at each stage, in one `.safetensors` file.

use super::{Stages, transposed};
use crate::checkpoint::safetensors;
use crate::checkpoint::tensors::{RawTensor, Tensors};
use crate::error::{Error, Result};
use crate::model::PixelMask;
use crate::weights::HostTensor;

/// Pixels, resized and normalised, with a mask if the batch is padded, and expected stages if there are any.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// `[batch, height, width, 3]`
    pub pixels: HostTensor,
    /// None where every pixel belongs to a picture.
    pub mask: Option<PixelMask>,
    /// By the names and in the layouts that [`Runner::run`](super::Runner::run) gives.
    pub expected: Stages,
}

impl Case {
    /// Reads `pixel_values` `[batch, 3, height, width]` of any floating-point type, `pixel_mask` `[batch, height, width]` of any
    /// type (zero is padding), and takes every other tensor for an expected stage. `file` is its name in messages.
    pub fn read(bytes: &[u8], file: &str) -> Result<Self> {
        parse(bytes).map_err(|problem| Error::Case { file: file.into(), problem })
    }
}

fn parse(bytes: &[u8]) -> Result<Case, String> {
    if !safetensors::is_safetensors(bytes) {
        return Err("not a .safetensors file".into());
    }
    let mut tensors: Tensors = safetensors::read(bytes)?.tensors;
    let pixels = tensors.remove("pixel_values").ok_or("tensor pixel_values is missing (expected shape [batch, 3, height, width])")?;
    let shape = &pixels.shape;
    let [batch, 3, height, width] = shape[..] else {
        return Err(format!("tensor pixel_values has shape {shape:?}, expected [batch, 3, height, width]"));
    };
    if shape.contains(&0) {
        return Err(format!("tensor pixel_values has shape {shape:?}: there are no pixels"));
    }
    let numbers = numbers(&pixels, "pixel_values")?;
    if let Some(bad) = numbers.iter().find(|x| !x.is_finite()) {
        return Err(format!("tensor pixel_values holds {bad}, which is not a finite number"));
    }
    let mask = tensors.remove("pixel_mask").map(|mask| read_mask(&mask, [batch, height, width])).transpose()?;
    // Numbers of tokens are integers in PyTorch.
    let numbers_of = |name: &String, tensor: &RawTensor| {
        tensor.to_i64().map_or_else(|| self::numbers(tensor, name), |integers| Ok(integers.into_iter().map(|x| x as f32).collect()))
    };
    let expected = tensors.iter().map(|(name, tensor)| Ok((name.clone(), HostTensor::f32(&tensor.shape, numbers_of(name, tensor)?))));
    Ok(Case {
        pixels: HostTensor::f32(&[batch, height, width, 3], transposed(&numbers, 3, height * width)),
        mask: mask.filter(|mask| !mask.is_full()),
        expected: expected.collect::<Result<_, String>>()?,
    })
}

fn numbers(tensor: &RawTensor, name: &str) -> Result<Vec<f32>, String> {
    tensor.to_f32().ok_or_else(|| format!("tensor {name} is not of a floating-point type"))
}

fn read_mask(tensor: &RawTensor, [batch, height, width]: [usize; 3]) -> Result<PixelMask, String> {
    if tensor.shape != [batch, height, width] {
        return Err(format!("tensor pixel_mask has shape {:?}, expected {:?} as pixel_values has it", tensor.shape, [batch, height, width]));
    }
    let mask = PixelMask::new(batch, height, width, tensor.nonzero()).map_err(|error| error.to_string())?;
    match mask.valid.chunks(height * width).position(|picture| !picture.contains(&true)) {
        Some(picture) => Err(format!("tensor pixel_mask leaves nothing of picture {picture}")),
        None => Ok(mask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::tensor::TensorView;
    use ::safetensors::{Dtype, serialize};

    type Entry = (&'static str, Dtype, Vec<usize>, Vec<u8>);

    fn file(entries: &[Entry]) -> Vec<u8> {
        serialize(entries.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())), None).unwrap()
    }

    fn floats(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn pixels() -> Entry {
        ("pixel_values", Dtype::F32, vec![1, 3, 1, 2], floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    }

    #[test]
    fn reads_pixels_stages_and_masks_of_any_type() {
        let read = |mask: Entry| Case::read(&file(&[pixels(), mask, ("logits", Dtype::F16, vec![1], vec![0, 0x3c])]), "x").unwrap();
        let case = read(("pixel_mask", Dtype::BOOL, vec![1, 1, 2], vec![1, 0]));
        assert_eq!(case.pixels, HostTensor::f32(&[1, 1, 2, 3], vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
        assert_eq!(case.mask.unwrap().valid, [true, false]);
        assert_eq!(case.expected, [("logits".to_string(), HostTensor::f32(&[1], vec![1.0]))]);
        let long = [256i64, 0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(("pixel_mask", Dtype::I64, vec![1, 1, 2], long)).mask.unwrap().valid, [true, false]);
        assert_eq!(read(("pixel_mask", Dtype::F32, vec![1, 1, 2], floats(&[-0.0, 0.5]))).mask.unwrap().valid, [false, true]);
        assert_eq!(read(("pixel_mask", Dtype::U8, vec![1, 1, 2], vec![1, 2])).mask, None);
    }

    #[test]
    fn says_what_is_wrong_with_a_case() {
        let problem = |bytes: &[u8]| Case::read(bytes, "x.safetensors").unwrap_err().to_string();
        assert_eq!(problem(b"PK\x03\x04 and more"), "x.safetensors: not a .safetensors file");
        let whole = file(&[pixels()]);
        for cut in [0, 7, 20, whole.len() - 1] {
            problem(&whole[..cut]);
        }
        for (entries, expected) in [
            (vec![], "tensor pixel_values is missing"),
            (vec![("pixel_values", Dtype::F32, vec![3, 1, 2], floats(&[0.0; 6]))], "has shape [3, 1, 2], expected [batch, 3, height, width]"),
            (vec![("pixel_values", Dtype::F32, vec![1, 1, 2, 3], floats(&[0.0; 6]))], "expected [batch, 3, height, width]"),
            (vec![("pixel_values", Dtype::F32, vec![1, 3, 0, 2], vec![])], "there are no pixels"),
            (vec![("pixel_values", Dtype::U8, vec![1, 3, 1, 1], vec![0; 3])], "not of a floating-point type"),
            (vec![("pixel_values", Dtype::F32, vec![1, 3, 1, 1], floats(&[0.0, f32::NAN, 0.0]))], "NaN"),
            (vec![pixels(), ("pixel_mask", Dtype::U8, vec![1, 2, 1], vec![1, 1])], "has shape [1, 2, 1], expected [1, 1, 2]"),
            (vec![pixels(), ("pixel_mask", Dtype::U8, vec![1, 1, 2], vec![0, 0])], "leaves nothing of picture 0"),
            (vec![pixels(), ("logits", Dtype::I32, vec![1], vec![0; 4])], "tensor logits is not of a floating-point type"),
        ] {
            let found = problem(&file(&entries));
            assert!(found.starts_with("x.safetensors: ") && found.contains(expected), "{found}");
        }
    }
}
