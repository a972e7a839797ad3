//! A network on its way from its parent, which knows what each of its parts was there.

use super::cut::cut;
use super::layers::{StandIns, runs};
use super::repair::Side;
use super::structure::{Layer, Structure};
use crate::config::Config;
use crate::error::Result;
use crate::weights::Weights;
use std::collections::BTreeMap;

pub struct Trimmed {
    pub config: Config,
    pub weights: Weights,
    /// For each encoder and decoder layer: what it was, and the last layer that it stands for.
    layers: Vec<(Layer, Layer)>,
    /// For every output of a map, by the map's name: which of the parent's it is; all where nothing is said.
    outputs: BTreeMap<String, Vec<usize>>,
}

impl Trimmed {
    /// The parent without some layers.
    pub fn new(parent: &Side, dropped: &[Layer], repair: bool, stand_ins: &mut StandIns) -> Result<Self> {
        let (config, weights) = stand_ins.without(parent, dropped, repair)?;
        let layers = runs(parent.config, dropped).into_iter().filter_map(|(own, last)| Some((own?, last))).collect();
        Ok(Self { config, weights, layers, outputs: BTreeMap::new() })
    }

    /// Keeps only these units of a structure.
    pub fn cut(&mut self, structure: &Structure, keep: &[usize]) -> Result<()> {
        cut(&mut self.config, &mut self.weights, structure, keep)?;
        let outputs: Vec<usize> = keep.iter().flat_map(|unit| (0..structure.width).map(move |i| unit * structure.width + i)).collect();
        for map in structure.made_by.iter().filter_map(|(tensor, _)| tensor.strip_suffix(".weight")) {
            self.outputs.insert(map.into(), outputs.clone());
        }
        Ok(())
    }

    /// What a layer was in the parent.
    pub fn own(&self, layer: Layer) -> Layer {
        let of_kind = |own: &Layer| layer.with(own.number()) == *own;
        self.layers.iter().map(|(own, _)| *own).filter(of_kind).nth(layer.number()).unwrap_or(layer)
    }

    /// The parent's name of something in a layer, as `encoder.1.ffn2`.
    pub fn parent_name(&self, name: &str) -> String {
        self.renamed(name, |(own, _)| own)
    }

    /// The parent's map that a map is to give the outputs of: for a layer's last map, that of the last layer it stands for.
    pub fn target(&self, map: &str) -> String {
        if map.ends_with(".ffn2") { self.renamed(map, |(_, last)| last) } else { self.parent_name(map) }
    }

    fn renamed(&self, name: &str, pick: impl Fn((Layer, Layer)) -> Layer) -> String {
        let (kind, rest) = (name.split('.').next().unwrap_or_default(), name.splitn(3, '.').nth(2).unwrap_or_default());
        let Some(number) = name.split('.').nth(1).and_then(|number| number.parse::<usize>().ok()) else { return name.into() };
        let of_kind = self.layers.iter().filter(|(own, _)| matches!((own, kind), (Layer::Encoder(_), "encoder") | (Layer::Decoder(_), "decoder")));
        match of_kind.copied().nth(number).map(pick) {
            Some(layer) => format!("{}.{rest}", layer.prefix()),
            None => name.into(),
        }
    }

    /// Which of the parent's outputs a map still has; `all` is how many those are.
    pub fn kept_outputs(&self, map: &str, all: usize) -> Vec<usize> {
        self.outputs.get(map).cloned().unwrap_or_else(|| (0..all).collect())
    }
}
