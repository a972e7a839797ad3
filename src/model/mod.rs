//! The network, written once and generic over the [`Backend`](crate::backend::Backend) that computes it.
//!
//! `detr.rs` is the place to start reading: backbone → encoder → decoder → heads.

mod attention;
mod decoder;
mod detr;
pub(crate) mod efficientnet;
mod encoder;
mod heads;
mod load;
mod mask;
mod position;
pub(crate) mod resnet;

pub use decoder::{Encoded, Queries};
pub use detr::{Detr, Output};
pub use encoder::Tokens;
pub use mask::PixelMask;
pub use position::sine_position;
