//! A network that is ready to run on either device: pixels in, class logits and boxes out. The detector, parity and benchmarks run it.

use crate::config::Architecture;
use crate::cpu::{self, CpuSession};
use crate::error::Result;
use crate::gpu::GpuSession;
use crate::model::PixelMask;
use crate::watch::Observe;
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;
use serde::Serialize;

/// What a network runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    Cpu,
    Gpu,
}

/// A network on its device.
pub enum InferenceSession {
    Cpu(Box<CpuSession>),
    Gpu(Box<GpuSession>),
}

/// Named activations, channels-last, in the order in which they are computed.
pub type Activations = Vec<(String, HostTensor)>;

/// Keeps every named activation.
#[derive(Default)]
struct Captured(Activations);

impl Observe<Tensor> for Captured {
    fn stage(&mut self, name: &str, x: &Tensor) -> Result<()> {
        self.0.push((name.into(), cpu::to_host(x)?));
        Ok(())
    }
}

impl InferenceSession {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `architecture`, and where there is no such device.
    pub async fn load(architecture: &Architecture, weights: &Weights, device: Device) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Self::Cpu(Box::new(CpuSession::load(architecture, weights)?)),
            Device::Gpu => Self::Gpu(Box::new(GpuSession::load(architecture, weights).await?)),
        })
    }

    /// Every named activation on pixels `[batch, height, width, 3]`, resized and normalised; `mask` where the batch is padded.
    pub async fn activations(&mut self, pixels: &HostTensor, mask: Option<&PixelMask>) -> Result<Activations> {
        match self {
            Self::Cpu(session) => {
                let mut captured = Captured::default();
                session.run_observed(pixels, mask, &mut captured)?;
                Ok(captured.0)
            }
            Self::Gpu(session) => session.forward(pixels, mask).await,
        }
    }
}
