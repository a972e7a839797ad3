//! The one integration-test binary.

mod checkpoint;
mod cpu;
mod kernels;
mod naive;
mod pictures;
