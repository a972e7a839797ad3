//! The network alone, on pixels that are ready for it, with every stage on the way: what parity is measured with.
//!
//! A case (`case.rs`) holds pixels and perhaps what another implementation made of them. Stages have PyTorch's layouts here:
//! feature maps are `[batch, channels, height, width]`, tokens and queries `[batch, number, width]`.

mod case;
mod compare;

pub use case::Case;
pub use compare::{Difference, allowed, compare};

use crate::checkpoint::Checkpoint;
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::gpu::GpuInfo;
use crate::inference::{Activations, Device, InferenceSession};
use crate::weights::HostTensor;

/// Named activations in the order in which they are computed: `backbone`, `position`, `projected`, `encoder_layer0`…,
/// `decoder_layer0`…, `decoder_out`, `logits`, `pred_boxes`.
pub type Stages = Activations;

/// A network that is ready to run cases.
pub struct Runner(InferenceSession);

impl Runner {
    pub async fn load<C: NetworkConfig>(Checkpoint { config, weights, .. }: &Checkpoint<C>, device: Device) -> Result<Self> {
        Ok(Self(InferenceSession::load(&config.architecture(), weights, device).await?))
    }

    /// Every stage of the network on a case's pixels.
    pub async fn run(&mut self, case: &Case) -> Result<Stages> {
        let batch = case.pixels.shape[0];
        let stages = self.0.activations(&case.pixels, case.mask.as_ref()).await?;
        Ok(stages.into_iter().map(|(name, tensor)| (name, in_pytorch_layout(tensor, batch))).collect())
    }

    /// What the GPU did, if this is one.
    pub fn gpu_info(&self) -> Option<GpuInfo> {
        match &self.0 {
            InferenceSession::Cpu(_) => None,
            InferenceSession::Gpu(session) => Some(session.info()),
        }
    }
}

/// Channels before places, and as many pictures as the batch has: what is the same for all is computed for one.
fn in_pytorch_layout(tensor: HostTensor, batch: usize) -> HostTensor {
    match tensor.shape[..] {
        [n, height, width, channels] => HostTensor::f32(&[n, channels, height, width], transposed(&tensor.to_f32(), height * width, channels)),
        [1, tokens, width] => HostTensor::f32(&[batch, tokens, width], tensor.to_f32().repeat(batch)),
        _ => tensor,
    }
}

/// Every matrix `[rows, columns]` of `data` as `[columns, rows]`.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for matrix in data.chunks_exact((rows * columns).max(1)) {
        for column in 0..columns {
            out.extend(matrix.iter().skip(column).step_by(columns));
        }
    }
    out
}

/// Stages as a `.safetensors` file.
pub fn to_bytes(stages: &Stages) -> Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> = stages.iter().map(|(_, tensor)| tensor.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let fail = |error: safetensors::SafeTensorError| Error::Output(error.to_string());
    let views = stages.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape.clone(), bytes);
        view.map(|view| (name, view)).map_err(fail)
    });
    safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_maps_get_channels_first_and_constants_every_picture() {
        let map = HostTensor::f32(&[2, 1, 3, 2], (0..12).map(|x| x as f32).collect());
        let found = in_pytorch_layout(map, 2);
        assert_eq!(found.shape, [2, 2, 1, 3]);
        assert_eq!(*found.to_f32(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
        let position = in_pytorch_layout(HostTensor::f32(&[1, 1, 2], vec![1.0, 2.0]), 2);
        assert_eq!(position, HostTensor::f32(&[2, 1, 2], vec![1.0, 2.0, 1.0, 2.0]));
    }
}
