//! The detector: a picture in, detections out, on either backend; and where a detection's query looked.

mod attention;
mod post;
mod sampling;

pub use attention::{Attention, AttentionMaps};
pub use post::{Bounds, Detection};

use crate::checkpoint::Checkpoint;
use crate::config::{Architecture, NetworkConfig};
use crate::cpu::CpuSession;
use crate::error::{Error, Result};
use crate::graph::{Node, Part};
use crate::image::{Picture, prepare, target_size, typical_size};
pub use crate::inference::Device;
use crate::inference::InferenceSession;
use crate::limits;
use crate::model::Output;
use crate::watch::Observe;
use crate::weights::HostTensor;
use serde::Serialize;
use web_time::Instant;

/// A network that is ready to run, with the rules for what goes in and what comes out.
pub struct Detector {
    config: Architecture,
    network: InferenceSession,
    weights_bytes: usize,
    /// The input size for which the network was last found to take no more than is allowed.
    affordable: Option<[usize; 2]>,
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
    /// Refuses a network that takes more for a photo than is allowed (see [`limits`]), and later each picture for which it does.
    pub async fn load(checkpoint: &Checkpoint<impl NetworkConfig>, device: Device) -> Result<Self> {
        limits::check(&checkpoint.config, typical_size(checkpoint.config.architecture().pixels().resize)?)?;
        let network = InferenceSession::load(&checkpoint.config.architecture(), &checkpoint.weights, device).await?;
        let numbers: usize = checkpoint.weights.tensors.values().map(HostTensor::len).sum();
        // The CPU computes in f32, however the weights are stored.
        Ok(Self { config: checkpoint.config.architecture(), network, weights_bytes: numbers * size_of::<f32>(), affordable: None })
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
        post: impl FnOnce(&Architecture, &Output<HostTensor>, [usize; 2]) -> Result<Vec<Detection>>,
    ) -> Result<Detections> {
        picture.check()?;
        let start = Instant::now();
        let [height, width] = target_size(self.config.pixels().resize, picture.full_size[0], picture.full_size[1])?;
        if self.affordable != Some([height, width]) {
            limits::check(&self.config, [height, width])?;
            self.affordable = Some([height, width]);
        }
        let (output, pre, parts) = match &mut self.network {
            InferenceSession::Cpu(session) => {
                let input = prepare(picture, self.config.pixels())?;
                let pre = milliseconds(start);
                let (output, parts) = run_on_cpu(session, &input)?;
                (output, pre, Some(parts))
            }
            // Resizing is part of what is replayed on the device, and so of its time.
            InferenceSession::Gpu(session) => (session.run(picture, height, width).await?, 0.0, None),
        };
        let network = milliseconds(start) - pre;
        let start = Instant::now();
        let [width, height] = picture.full_size;
        let detections = post(&self.config, &output, [width, height])?;
        let times = Times { pre, network, post: milliseconds(start), parts };
        Ok(Detections { detections, times, width, height })
    }

    pub fn config(&self) -> &Architecture {
        &self.config
    }

    pub fn info(&self) -> Info {
        match &self.network {
            InferenceSession::Cpu(_) => Info {
                device: Device::Cpu,
                adapter: "CPU".into(),
                software: true,
                weights_bytes: self.weights_bytes,
                activation_bytes: None,
                dispatches: 0,
            },
            InferenceSession::Gpu(session) => {
                let info = session.info();
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

fn run_on_cpu(session: &mut CpuSession, input: &HostTensor) -> Result<(Output<HostTensor>, Parts)> {
    let mut clock = PartTimes { last: Instant::now(), part: Part::Backbone, parts: Parts::default() };
    let output = session.run(input, &mut clock)?;
    clock.end();
    Ok((output, clock.parts))
}

/// Adds the time of each node to its part's.
struct PartTimes {
    last: Instant,
    part: Part,
    parts: Parts,
}

impl PartTimes {
    fn end(&mut self) {
        let time = match self.part {
            Part::Backbone => &mut self.parts.backbone,
            Part::Encoder => &mut self.parts.encoder,
            Part::Decoder => &mut self.parts.decoder,
            Part::Heads => &mut self.parts.heads,
        };
        *time += milliseconds(std::mem::replace(&mut self.last, Instant::now()));
    }
}

impl<T> Observe<T> for PartTimes {
    fn node(&mut self, node: &Node) -> Result<()> {
        // What has no weights belongs to what came before.
        if let Some(part) = node.layer.as_deref().map(Part::of).filter(|part| *part != self.part) {
            self.end();
            self.part = part;
        }
        Ok(())
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
