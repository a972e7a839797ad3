//! Trimming: takes units and layers out of a trained network where they are missed least, and repairs what is left.
//!
//! `trim.rs` is the place to start reading: a plan is carried out. `search.rs` makes plans for a budget, `recipe.rs` from a few lines of TOML.

pub mod budget;
pub mod calibrate;
mod confidence;
pub(crate) mod cut;
pub mod difference;
#[cfg(test)]
pub(crate) mod family;
mod fit;
mod graft;
mod gram;
pub mod importance;
pub mod inputs;
mod keep;
pub mod layers;
pub mod obs;
pub mod overview;
pub mod plan;
pub mod plot;
mod points;
pub mod quantise;
pub mod recipe;
pub mod repair;
pub mod report;
mod scores;
pub mod search;
mod sequence;
pub mod size;
pub mod survey;
mod taylor;
#[cfg(test)]
pub(crate) mod tiny;
pub mod trial;
pub mod trim;
mod trimmed;

pub use crate::eval::profile;
pub use crate::structure;
