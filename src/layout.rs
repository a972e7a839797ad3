//! Which tensors a network of a given architecture consists of, and their shapes; the names are those of `weights.rs`.
//!
//! One list for everybody: conversion fills it, a file is checked against it, costs are summed over it and random
//! weights are drawn for it.

use crate::config::{Attention, Backbone, Config};
use crate::error::Result;
use crate::weights::{Channels, Weights};

/// What a tensor is for, as far as its initialisation and its cost depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution over all channels or of a linear map.
    Matrix,
    Depthwise,
    Bias,
    NormScale,
    NormShift,
    /// Learnt constants: query positions and contents, box references.
    Rows,
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
        matches!(self.role, Role::Matrix | Role::Depthwise) || (self.role == Role::Rows && self.name != "box_reference")
    }

    /// Where the output channels are, if the tensor may be int8 with a scale for each. The heads may not: their few numbers are
    /// scores and boxes without another layer behind them.
    pub fn int8_channels(&self) -> Option<Channels> {
        let head = self.name.starts_with("class_head.") || self.name.starts_with("box_head.");
        match self.role {
            Role::Matrix if !head => Some(Channels::First),
            Role::Depthwise => Some(Channels::Last),
            _ => None,
        }
    }
}

/// All tensors of a network, in the order in which it uses them.
pub fn layout(config: &Config) -> Vec<Entry> {
    let mut list = List(Vec::new());
    list.backbone(&config.backbone);
    let width = config.d_model;
    list.matrix("input_projection", &[width, config.backbone.channels()]);
    for (i, layer) in config.encoder.iter().enumerate() {
        list.attention(&format!("encoder.{i}.self_attention"), layer.self_attention, width);
        list.norm(&format!("encoder.{i}.norm1"), width);
        list.feed_forward(&format!("encoder.{i}"), layer.ffn, width);
        list.norm(&format!("encoder.{i}.norm2"), width);
    }
    list.rows("query_position", &[config.queries, width]);
    if config.query_content {
        list.rows("query_content", &[config.queries, width]);
    }
    for (i, layer) in config.decoder.iter().enumerate() {
        if let Some(self_attention) = layer.self_attention {
            list.attention(&format!("decoder.{i}.self_attention"), self_attention, width);
            list.norm(&format!("decoder.{i}.norm1"), width);
        }
        list.attention(&format!("decoder.{i}.cross_attention"), layer.cross_attention, width);
        list.norm(&format!("decoder.{i}.norm2"), width);
        list.feed_forward(&format!("decoder.{i}"), layer.ffn, width);
        list.norm(&format!("decoder.{i}.norm3"), width);
    }
    list.norm("decoder.norm", width);
    list.matrix("class_head", &[config.classes, width]);
    list.matrix("box_head.0", &[width, width]);
    list.matrix("box_head.1", &[width, width]);
    list.matrix("box_head.2", &[4, width]);
    if config.box_reference {
        list.rows("box_reference", &[config.queries, 4]);
    }
    list.0
}

/// Refuses weights that lack one of the config's tensors or have it in another shape.
pub fn check(config: &Config, weights: &Weights) -> Result<()> {
    config.check()?;
    layout(config).iter().try_for_each(|entry| weights.get(&entry.name, &entry.shape).map(drop))
}

struct List(Vec<Entry>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], role: Role) {
        self.0.push(Entry { name, shape: shape.to_vec(), role });
    }

    /// A weight whose first dimension is the output, with its bias.
    fn matrix(&mut self, name: &str, shape: &[usize]) {
        self.push(format!("{name}.weight"), shape, Role::Matrix);
        self.push(format!("{name}.bias"), &shape[..1], Role::Bias);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.weight"), &[width], Role::NormScale);
        self.push(format!("{name}.bias"), &[width], Role::NormShift);
    }

    fn rows(&mut self, name: &str, shape: &[usize]) {
        self.push(name.into(), shape, Role::Rows);
    }

    fn attention(&mut self, name: &str, attention: Attention, d_model: usize) {
        let width = attention.width();
        for part in ["query", "key", "value"] {
            self.matrix(&format!("{name}.{part}"), &[width, d_model]);
        }
        self.matrix(&format!("{name}.output"), &[d_model, width]);
    }

    fn feed_forward(&mut self, name: &str, ffn: usize, d_model: usize) {
        self.matrix(&format!("{name}.ffn1"), &[ffn, d_model]);
        self.matrix(&format!("{name}.ffn2"), &[d_model, ffn]);
    }

    fn backbone(&mut self, backbone: &Backbone) {
        match backbone {
            Backbone::Resnet(net) => {
                self.matrix("backbone.stem", &[net.stem, 7, 7, 3]);
                let mut input = net.stem;
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.blocks.iter().enumerate() {
                        let name = format!("backbone.stage{}.block{b}", s + 1);
                        let kernels: &[usize] = if block.inner.len() == 1 { &[3, 3] } else { &[1, 3, 1] };
                        let outputs = block.inner.iter().copied().chain([stage.channels]);
                        let mut from = input;
                        for (i, (to, &kernel)) in outputs.zip(kernels).enumerate() {
                            self.matrix(&format!("{name}.conv{}", i + 1), &[to, kernel, kernel, from]);
                            from = to;
                        }
                        if block.projection {
                            self.matrix(&format!("{name}.projection"), &[stage.channels, 1, 1, input]);
                        }
                        input = stage.channels;
                    }
                }
            }
            Backbone::EfficientNetLite(net) => {
                self.matrix("backbone.stem", &[net.stem, 3, 3, 3]);
                let mut input = net.stem;
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.iter().enumerate() {
                        let name = format!("backbone.stage{s}.block{b}");
                        if let Some(width) = block.expansion {
                            self.matrix(&format!("{name}.expand"), &[width, 1, 1, input]);
                        }
                        let inner = block.expansion.unwrap_or(input);
                        self.push(format!("{name}.depthwise.weight"), &[block.kernel, block.kernel, inner], Role::Depthwise);
                        self.push(format!("{name}.depthwise.bias"), &[inner], Role::Bias);
                        self.matrix(&format!("{name}.project"), &[block.channels, 1, 1, inner]);
                        input = block.channels;
                    }
                }
            }
        }
    }
}
