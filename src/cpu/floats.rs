//! candle tensors as slices.

use candle_core::{CpuStorage, Result, Storage, StorageRef, Tensor, bail};
use std::ops::{Deref, Range};

/// The numbers of a tensor that lies in memory without gaps.
pub struct Floats<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Floats<'a> {
    pub fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor {:?} with gaps where none may be", x.shape()) };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range: start..end }),
            _ => bail!("a tensor of {:?} on {:?} where f32 on the CPU is needed", x.dtype(), x.device()),
        }
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.range.clone()],
            // `of` lets nothing else through.
            _ => &[],
        }
    }
}
