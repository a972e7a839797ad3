//! The network alone, on pixels that are ready for it, with every stage on the way: what parity is measured with.
//!
//! A case (`case.rs`) holds pixels and perhaps what another implementation made of them. Stages have PyTorch's layouts here:
//! feature maps are `[batch, channels, height, width]`, tokens and queries `[batch, number, width]`.

mod case;
mod compare;

pub use case::Case;
pub use compare::{Difference, allowed, compare};

use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::NetworkConfig;
use crate::cpu::{self, Cpu};
use crate::detector::Device;
use crate::error::{Error, Result};
use crate::gpu::{GpuDetr, GpuInfo};
use crate::model::Network;
use crate::watch::{Observe, Watch};
use crate::weights::HostTensor;
use candle_core::Tensor;

/// Named activations in the order in which they are computed: `backbone`, `position`, `projected`, `encoder_layer0`…,
/// `decoder_layer0`…, `decoder_out`, `logits`, `pred_boxes`.
pub type Stages = Vec<(String, HostTensor)>;

/// A network that is ready to run cases.
pub struct Runner(On);

enum On {
    Cpu(Watch<Cpu, Kept>, Box<Network<Watch<Cpu, Kept>>>),
    Gpu(Box<GpuDetr>),
}

/// Keeps every stage.
#[derive(Default)]
struct Kept(Stages);

impl Observe<Tensor> for Kept {
    fn stage(&mut self, name: &str, x: &Tensor) -> Result<()> {
        self.0.push((name.into(), cpu::to_host(x)?));
        Ok(())
    }
}

impl Runner {
    pub async fn load<C: NetworkConfig>(Checkpoint { config, weights, .. }: &Checkpoint<C>, device: Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cpu => {
                let watch = Watch::new(Cpu, Kept::default());
                let network = Network::load(&watch, &config.architecture(), weights)?;
                On::Cpu(watch, Box::new(network))
            }
            Device::Gpu => On::Gpu(Box::new(GpuDetr::new(&config.architecture(), weights).await?)),
        }))
    }

    /// Every stage of the network on a case's pixels.
    pub async fn run(&mut self, case: &Case) -> Result<Stages> {
        let stages = match &mut self.0 {
            On::Cpu(watch, detr) => {
                let run = detr.forward(watch, &watch.constant(&case.pixels)?, case.mask.as_ref());
                let Kept(stages) = watch.with_observer(std::mem::take);
                run?;
                stages
            }
            On::Gpu(detr) => detr.forward(&case.pixels, case.mask.as_ref()).await?,
        };
        let batch = case.pixels.shape[0];
        Ok(stages.into_iter().map(|(name, tensor)| (name, in_pytorch_layout(tensor, batch))).collect())
    }

    /// What the GPU did, if this is one.
    pub fn gpu_info(&self) -> Option<GpuInfo> {
        match &self.0 {
            On::Cpu(..) => None,
            On::Gpu(detr) => Some(detr.info()),
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
