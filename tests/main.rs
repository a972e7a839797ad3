//! The one integration-test binary.

mod kernels;
mod naive;
mod pictures;
