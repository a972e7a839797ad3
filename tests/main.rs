//! The one integration-test binary.

mod checkpoint;
mod kernels;
mod naive;
mod pictures;
