//! The one integration-test binary.

mod checkpoint;
mod coco;
mod cpu;
mod detect;
mod fetch;
mod gpu;
mod kernels;
mod naive;
mod pictures;
