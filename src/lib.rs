//! detrim trims detection transformers of the DETR family and runs them: natively on candle or wgpu, and in the browser
//! on WebGPU or, without it, on the CPU.
//!
//! Data flows one way: [`checkpoint`] → [`config`] + [`weights`] → [`model`] (on a [`backend`]) → [`detector`] → the command line or the web.
//!
//! ```no_run
//! use detrim::checkpoint::{Guess, open_any};
//! use detrim::detector::{Detector, Device};
//!
//! # fn main() -> detrim::Result<()> {
//! let checkpoint = open_any("models/detr-lite0-base.safetensors".as_ref(), &Guess::default())?;
//! let mut detector = pollster::block_on(Detector::load(&checkpoint, Device::Cpu))?;
//! let photo = detrim::image::open("photo.jpg".as_ref())?;
//! for detection in pollster::block_on(detector.detect(&photo, checkpoint.threshold()))?.detections {
//!     println!("{} {:.2} {:?}", detection.label, detection.score, detection.bounds);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | to | start at |
//! |---|---|
//! | open, convert and write checkpoints | [`checkpoint`] |
//! | detect objects | [`detector::Detector`] |
//! | run the network alone, or on a backend of your own | [`model::Network`], [`backend::Backend`] |
//! | prune and reconstruct | [`prune::trim::carry_out`], with a plan by [`prune::recipe::Recipe`] |
//! | quantise | [`prune::quantise::quantise`] |
//! | train and fine-tune | [`train::run::State`] |
//! | measure AP, cost and speed | [`eval`] |
//! | write ONNX for other runtimes | [`export::onnx`] |
//!
//! `examples/` has a program for each of the first steps. The API isn't stable: versions before 1.0 may change any of it.

#[cfg(not(target_arch = "wasm32"))]
pub mod autograd;
pub mod backend;
#[cfg(not(target_arch = "wasm32"))]
pub mod boxes;
#[cfg(not(target_arch = "wasm32"))]
mod chart;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod detector;
pub mod error;
pub mod eval;
#[cfg(not(target_arch = "wasm32"))]
pub mod export;
#[cfg(not(target_arch = "wasm32"))]
pub mod fetch;
#[cfg(not(target_arch = "wasm32"))]
pub mod fold;
pub mod forward;
pub mod gpu;
pub mod graph;
pub mod hash;
pub mod image;
pub mod inference;
mod labels;
pub mod layout;
pub mod limits;
#[cfg(not(target_arch = "wasm32"))]
mod matrix;
pub mod model;
#[cfg(not(target_arch = "wasm32"))]
pub mod output;
#[cfg(not(target_arch = "wasm32"))]
pub mod progress;
#[cfg(not(target_arch = "wasm32"))]
pub mod prune;
pub mod session;
#[cfg(not(target_arch = "wasm32"))]
mod share;
pub mod structure;
pub mod trace;
#[cfg(not(target_arch = "wasm32"))]
pub mod train;
pub mod watch;
#[cfg(target_arch = "wasm32")]
mod web;
pub mod weights;

pub use config::{Architecture, Config};
pub use error::{Error, Result};
pub use weights::{HostTensor, Weights};
