//! What a detector costs and how good it is: parameters, multiply-accumulates, time, average precision.

pub mod bench;
#[cfg(not(target_arch = "wasm32"))]
pub mod coco;
pub mod cost;
#[cfg(not(target_arch = "wasm32"))]
pub mod nodes;
pub mod operations;
#[cfg(not(target_arch = "wasm32"))]
pub mod pace;
pub mod profile;
