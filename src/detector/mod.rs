//! The detector: a picture in, detections out, on either backend; and where a detection's query looked.

mod attention;
mod post;

pub use attention::{Attention, AttentionMaps};
pub use post::{Bounds, Detection};

use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::gpu::GpuDetr;
use crate::image::{Picture, prepare, target_size};
use crate::model::{Detr, Output, PixelMask};
use crate::weights::HostTensor;
use serde::Serialize;
use web_time::Instant;

/// What the network runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    Cpu,
    Gpu,
}

/// A network that is ready to run, with the rules for what goes in and what comes out.
pub struct Detector {
    config: Config,
    network: Network,
    weights_bytes: usize,
}

/// A network on the device that computes it.
enum Network {
    Cpu(Box<Detr<Cpu>>),
    Gpu(Box<GpuDetr>),
}

impl Network {
    pub async fn load(Checkpoint { config, weights, .. }: &Checkpoint, device: Device) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Self::Cpu(Box::new(Detr::load(&Cpu, config, weights)?)),
            Device::Gpu => Self::Gpu(Box::new(GpuDetr::new(config, weights).await?)),
        })
    }
}

/// What was found in one picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detections {
    /// The best first.
    pub detections: Vec<Detection>,
    pub times: Times,
    /// Of the source picture, in pixels.
    pub width: usize,
    pub height: usize,
}

/// Milliseconds that each stage took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// Resizing and normalising; on the GPU that belongs to `network`.
    pub pre: f64,
    pub network: f64,
    pub post: f64,
    /// Of `network`, where it can be told apart: on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// Milliseconds that each part of the network took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    pub backbone: f64,
    pub encoder: f64,
    pub decoder: f64,
    pub heads: f64,
}

/// What a detector runs on and what it occupies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Info {
    pub device: Device,
    /// The graphics adapter's name; "CPU" where there is none.
    pub adapter: String,
    /// Whether the adapter is a program on the processor, and so no faster than the CPU.
    pub software: bool,
    /// Bytes of the weights on the device.
    pub weights_bytes: usize,
    /// Bytes of the activations on the device, where that is known.
    pub activation_bytes: Option<usize>,
    /// Kernels that were started for the last picture; zero on the CPU.
    pub dispatches: usize,
}

impl Detector {
    pub async fn load(checkpoint: &Checkpoint, device: Device) -> Result<Self> {
        let network = Network::load(checkpoint, device).await?;
        let numbers: usize = checkpoint.weights.tensors.values().map(HostTensor::len).sum();
        // The CPU computes in f32, however the weights are stored.
        Ok(Self { config: checkpoint.config.clone(), network, weights_bytes: numbers * size_of::<f32>() })
    }

    /// Detections whose score is at least `threshold`, the best first: of each query its likeliest class.
    pub async fn detect(&mut self, picture: &Picture, threshold: f32) -> Result<Detections> {
        if threshold.is_nan() {
            return Err(Error::Config("the threshold is not a number".into()));
        }
        self.run(picture, |config, output, size| post::detections(config, output, size, threshold)).await
    }

    /// The `most` best detections, as average precision counts them. Where each class has a score of its own (sigmoid), a query may give
    /// several: its box as each of them, as "Deformable DETR" (Zhu et al., 2020, arXiv:2010.04159) and those after it are measured.
    pub async fn rank(&mut self, picture: &Picture, most: usize) -> Result<Detections> {
        self.run(picture, |config, output, size| post::ranked(config, output, size, most)).await
    }

    async fn run(
        &mut self,
        picture: &Picture,
        post: impl FnOnce(&Config, &Output<HostTensor>, [usize; 2]) -> Result<Vec<Detection>>,
    ) -> Result<Detections> {
        picture.check()?;
        let start = Instant::now();
        let (output, pre, parts) = match &mut self.network {
            Network::Cpu(detr) => {
                let input = prepare(picture, &self.config.pixels)?;
                let pre = milliseconds(start);
                let (output, parts) = run_on_cpu(detr, &input)?;
                (output, pre, Some(parts))
            }
            // Resizing is part of what is replayed on the device, and so of its time.
            Network::Gpu(detr) => {
                let [height, width] = target_size(self.config.pixels.resize, picture.full_size[0], picture.full_size[1])?;
                (detr.run(picture, height, width).await?, 0.0, None)
            }
        };
        let network = milliseconds(start) - pre;
        let start = Instant::now();
        let [width, height] = picture.full_size;
        let detections = post(&self.config, &output, [width, height])?;
        let times = Times { pre, network, post: milliseconds(start), parts };
        Ok(Detections { detections, times, width, height })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn info(&self) -> Info {
        match &self.network {
            Network::Cpu(_) => Info {
                device: Device::Cpu,
                adapter: "CPU".into(),
                software: true,
                weights_bytes: self.weights_bytes,
                activation_bytes: None,
                dispatches: 0,
            },
            Network::Gpu(detr) => {
                let info = detr.info();
                Info {
                    device: Device::Gpu,
                    adapter: info.adapter,
                    software: info.software,
                    weights_bytes: info.weight_bytes,
                    activation_bytes: Some(info.activation_bytes),
                    dispatches: info.dispatches,
                }
            }
        }
    }
}

fn run_on_cpu(detr: &Detr<Cpu>, input: &HostTensor) -> Result<(Output<HostTensor>, Parts)> {
    let mut last = Instant::now();
    let mut lap = || milliseconds(std::mem::replace(&mut last, Instant::now()));
    let features = detr.features(&Cpu, &Cpu.constant(input)?)?;
    let backbone = lap();
    let (_, rows, columns, _) = features.dims4()?;
    let encoded = detr.encode(&Cpu, features, &PixelMask::full(rows, columns))?;
    let encoder = lap();
    let content = detr.decode(&Cpu, detr.queries().0, &encoded, 0..usize::MAX)?;
    let decoder = lap();
    drop(encoded);
    let output = detr.detections(&Cpu, &content)?;
    let parts = Parts { backbone, encoder, decoder, heads: lap() };
    Ok((Output { logits: cpu::to_host(&output.logits)?, boxes: cpu::to_host(&output.boxes)? }, parts))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
