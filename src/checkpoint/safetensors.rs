//! A `.safetensors` file: a header of names, types, shapes and offsets, then the numbers.

use super::tensors::{Dtype, RawTensor, Tensors};
use half::f16;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype as Kind, Metadata, SafeTensors};
use std::borrow::Cow;
use std::collections::HashMap;

/// What a file holds: its tensors, and the free text of its header.
pub struct File<'a> {
    pub tensors: Tensors<'a>,
    pub metadata: HashMap<String, String>,
}

/// Whether the bytes begin as a `.safetensors` file does: the length of a header, then the header's brace.
pub fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// Reads the header and checks every offset. An error says what is wrong, but not in which file.
pub fn read(bytes: &[u8]) -> Result<File<'_>, String> {
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|error| explain(bytes, &error))?;
    let data = &bytes[8 + length..];
    let mut tensors = Tensors::new();
    for (name, info) in header.tensors() {
        let (dtype, data) = (dtype(info.dtype), &data[info.data_offsets.0..info.data_offsets.1]);
        // Types of less than a byte are never read as numbers: let them be a list of bytes.
        let shape = if info.dtype.bitsize() < 8 { vec![data.len()] } else { info.shape.clone() };
        let tensor = RawTensor::contiguous(dtype, shape, data).map_err(|problem| format!("tensor {name}: {problem}"))?;
        tensors.insert(name, tensor);
    }
    Ok(File { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}

fn dtype(kind: Kind) -> Dtype {
    match kind {
        Kind::F64 => Dtype::F64,
        Kind::F32 => Dtype::F32,
        Kind::F16 => Dtype::F16,
        Kind::BF16 => Dtype::Bf16,
        Kind::I8 => Dtype::I8,
        Kind::I64 => Dtype::I64,
        other => Dtype::Other(other.bitsize().div_ceil(8)),
    }
}

/// The library's error with the tensor's name where it doesn't give one.
fn explain(bytes: &[u8], error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => truncation(bytes).unwrap_or_else(|| "its header doesn't describe the whole file".into()),
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!("the file is cut off inside its header ({} bytes are there)", bytes.len())
        }
        other => other.to_string(),
    }
}

/// Which tensor a file breaks off in.
fn truncation(bytes: &[u8]) -> Option<String> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let data = bytes.get(8..)?;
    let header: Metadata = serde_json::from_slice(data.get(..length)?).ok()?;
    let there = data.len() - length;
    let broken = header.offset_keys().into_iter().find(|name| header.info(name).is_some_and(|info| info.data_offsets.1 > there));
    Some(match broken {
        Some(name) => {
            format!("the file is cut off in tensor {name}: {there} of {} bytes of data are there", header.data_len())
        }
        None => format!("{} bytes follow the last tensor", there - header.data_len()),
    })
}

/// A tensor on its way into a file. Its numbers become bytes only as the file takes them.
pub struct Stored<'a> {
    shape: &'a [usize],
    numbers: Numbers<'a>,
}

enum Numbers<'a> {
    F32(Cow<'a, [f32]>),
    /// To be rounded.
    F16(Cow<'a, [f32]>),
    I8(Vec<i8>),
}

impl<'a> Stored<'a> {
    /// `small`: as f16 instead of f32.
    pub fn new(shape: &'a [usize], numbers: Cow<'a, [f32]>, small: bool) -> Self {
        Self { shape, numbers: if small { Numbers::F16(numbers) } else { Numbers::F32(numbers) } }
    }

    pub fn int8(shape: &'a [usize], values: Vec<i8>) -> Self {
        Self { shape, numbers: Numbers::I8(values) }
    }
}

impl safetensors::View for Stored<'_> {
    fn dtype(&self) -> Kind {
        match self.numbers {
            Numbers::F32(_) => Kind::F32,
            Numbers::F16(_) => Kind::F16,
            Numbers::I8(_) => Kind::I8,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.numbers {
            Numbers::F32(numbers) => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Numbers::F16(numbers) => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Numbers::I8(values) => bytemuck::cast_slice(values).into(),
        }
    }

    fn data_len(&self) -> usize {
        match &self.numbers {
            Numbers::F32(numbers) => 4 * numbers.len(),
            Numbers::F16(numbers) => 2 * numbers.len(),
            Numbers::I8(values) => values.len(),
        }
    }
}
