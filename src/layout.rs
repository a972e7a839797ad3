//! Which tensors a network of a given architecture consists of, and their shapes; the names are those of `weights.rs`.
//!
//! One list for everybody: conversion fills it, a file is checked against it, costs are summed over it and random
//! weights are drawn for it. It is derived: what the network asks for when it is loaded is what it consists of.

use crate::config::{Architecture, Config, NetworkConfig};
use crate::error::Result;
use crate::model::{Detr, Network};
use crate::trace::{Shapes, Tracer};
use crate::weights::{Channels, Weights};
use std::collections::BTreeSet;

/// What a tensor is for, as far as its initialisation and its cost depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution over all channels or of a linear map.
    Matrix,
    /// The same of a head, whose few numbers are scores and boxes without another layer behind them.
    Head,
    Depthwise,
    Bias,
    NormScale,
    NormShift,
    /// A scale and a shift after an activation.
    Affine,
    /// Learnt constants: query positions and contents.
    Rows,
    /// Box references.
    Reference,
}

/// One tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub role: Role,
}

impl Entry {
    /// Whether the tensor is one of those that make up nearly all of a file.
    pub fn is_large(&self) -> bool {
        matches!(self.role, Role::Matrix | Role::Head | Role::Depthwise | Role::Rows)
    }

    /// Where the output channels are, if the tensor may be int8 with a scale for each.
    pub fn int8_channels(&self) -> Option<Channels> {
        match self.role {
            Role::Matrix => Some(Channels::First),
            Role::Depthwise => Some(Channels::Last),
            _ => None,
        }
    }
}

/// All tensors of a DETR whose config is checked, in the order in which it uses them.
pub fn layout(config: &Config) -> Vec<Entry> {
    let shapes = Shapes::default();
    // A checked config loads: the tensors of any shape are there.
    let loaded = Detr::load(&Tracer::default(), config, &shapes);
    debug_assert!(loaded.is_ok(), "a network that can't be traced");
    shapes.into_entries()
}

/// [`layout`] for any architecture.
pub fn layout_of(architecture: &Architecture) -> Vec<Entry> {
    let shapes = Shapes::default();
    let loaded = Network::load(&Tracer::default(), architecture, &shapes);
    debug_assert!(loaded.is_ok(), "a network that can't be traced");
    shapes.into_entries()
}

/// The names of all sizes that a network asks for beside its config: those that pruning may change.
pub fn sized(architecture: &Architecture) -> BTreeSet<String> {
    let shapes = Shapes::default();
    let loaded = Network::load(&Tracer::default(), architecture, &shapes);
    debug_assert!(loaded.is_ok(), "a network that can't be traced");
    shapes.sized()
}

/// Refuses weights that lack one of the config's tensors or have it in another shape.
pub fn check(config: &impl NetworkConfig, weights: &Weights) -> Result<()> {
    let config = config.architecture();
    config.check()?;
    layout_of(&config).iter().try_for_each(|entry| weights.get(&entry.name, &entry.shape).map(drop))
}
