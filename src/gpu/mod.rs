//! The [`Backend`](crate::backend::Backend) on wgpu: the network is recorded once for an input shape and replayed.
//!
//! `recorder.rs` is the backend; what it records (`graph.rs`) is planned (`plan.rs`: what is needed, what is constant, what can
//! share memory) and becomes a `program.rs`. `session.rs` keeps programs for the shapes in use. A kernel is a template in
//! `kernels/` and a Rust file of the same name that says how much of it to run.

mod attention;
mod copy;
mod deformable;
mod device;
mod elementwise;
mod epilogue;
mod gemm;
mod graph;
mod kernels;
mod norm;
mod packing;
mod plan;
mod pool;
mod prepare;
mod program;
mod recorder;
mod session;
mod template;
mod top;
mod tune;
mod window;

pub use device::Gpu;
pub use gemm::Variant;
pub use graph::Tensor;
pub use recorder::Recorder;
pub use session::{GpuInfo, GpuSession};
pub use top::Indices;
