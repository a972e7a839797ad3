//! The one integration-test binary.

mod checkpoint;
mod cpu;
mod gpu;
mod kernels;
mod naive;
mod pictures;
