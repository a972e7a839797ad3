//! detrim trims DETR, the end-to-end object detection transformer, and runs it: natively on candle or wgpu, and in the browser
//! on WebGPU or, without it, on the CPU.
//!
//! Data flows one way: `checkpoint` → `config` + `weights` → `model` (on a backend) → `detector` → the command line or the web.

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
pub mod fetch;
#[cfg(not(target_arch = "wasm32"))]
pub mod fold;
pub mod forward;
pub mod gpu;
pub mod hash;
pub mod image;
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
#[cfg(not(target_arch = "wasm32"))]
mod share;
pub mod structure;
#[cfg(not(target_arch = "wasm32"))]
pub mod train;
pub mod watch;
#[cfg(target_arch = "wasm32")]
mod web;
pub mod weights;

pub use config::Config;
pub use error::{Error, Result};
pub use weights::{HostTensor, Weights};
