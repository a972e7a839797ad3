//! The network, written once and generic over the [`Backend`](crate::backend::Backend) that computes it.
//!
//! `detr.rs` is the place to start reading: backbone → encoder → decoder → heads. `rt_detr.rs` is the other architecture: backbone → neck →
//! selection → decoder.

mod attention;
mod box_head;
mod conv_layer;
mod decoder;
mod deformable;
mod detr;
pub(crate) mod efficientnet;
mod encoder;
mod heads;
mod hgnet;
mod load;
mod mask;
mod mlp;
mod neck;
mod network;
mod position;
pub(crate) mod resnet;
mod resnet_vd;
mod rt_detr;

pub use box_head::{EdgeDistributions, distances};
pub use decoder::{Encoded, Queries};
pub use deformable::Levels;
pub use detr::{Detr, Output};
pub use encoder::Tokens;
pub use load::{FIXED, Source};
pub use mask::PixelMask;
pub use network::Network;
pub use position::sine_position;
pub(crate) use rt_detr::anchors;
pub use rt_detr::{Candidates, Decoded, LayerOutput, RtDetr, Selected};
