//! A whole network on the processor, for one shape of input after another.

use super::{Cpu, to_host};
use crate::backend::Backend;
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::model::{Output, PixelMask};
use crate::session::{Prepared, Session};
use crate::watch::Observe;
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;

/// A network whose weights are in memory, and its graph for the last shape of input.
pub struct CpuSession {
    session: Session<Cpu>,
    prepared: Option<(Key, Prepared<Cpu>)>,
}

/// What a graph is prepared for: normalised pixels `[batch, height, width, 3]`.
#[derive(PartialEq)]
struct Key {
    shape: [usize; 3],
    mask: Option<PixelMask>,
    /// Whether what doesn't depend on the pixels is computed once.
    folded: bool,
}

impl CpuSession {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `architecture`.
    pub fn load(architecture: &Architecture, weights: &Weights) -> Result<Self> {
        Ok(Self { session: Session::load(&Cpu, architecture, weights)?, prepared: None })
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised. Of what doesn't depend on them the observer sees nothing.
    pub fn run(&mut self, pixels: &HostTensor, observer: &mut dyn Observe<Tensor>) -> Result<Output<HostTensor>> {
        self.run_prepared(pixels, None, true, observer)
    }

    /// As [`CpuSession::run`], but the observer sees everything; `mask` where the batch is padded.
    pub fn run_observed(&mut self, pixels: &HostTensor, mask: Option<&PixelMask>, observer: &mut dyn Observe<Tensor>) -> Result<Output<HostTensor>> {
        self.run_prepared(pixels, mask, false, observer)
    }

    fn run_prepared(
        &mut self,
        pixels: &HostTensor,
        mask: Option<&PixelMask>,
        folded: bool,
        observer: &mut dyn Observe<Tensor>,
    ) -> Result<Output<HostTensor>> {
        let [batch, height, width, 3] = pixels.shape[..] else {
            return Err(Error::Config(format!("pixels must be [batch, height, width, 3], not {:?}", pixels.shape)));
        };
        let key = Key { shape: [batch, height, width], mask: mask.cloned(), folded };
        let prepared = match self.prepared.take() {
            Some((last, prepared)) if last == key => prepared,
            _ if folded => self.session.prepare(&Cpu, key.shape, mask)?,
            _ => self.session.prepare_unfolded(key.shape, mask)?,
        };
        let output = self.session.run(&Cpu, &prepared, Cpu.constant(pixels)?, observer);
        self.prepared = Some((key, prepared));
        let output = output?;
        Ok(Output { logits: to_host(&output.logits)?, boxes: to_host(&output.boxes)? })
    }
}
