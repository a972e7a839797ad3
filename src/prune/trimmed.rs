//! A network on its way from its parent, which knows what each of its parts was there.

use super::cut::{cut, kept};
use super::graft::Graft;
use super::layers::{StandIns, runs};
use super::repair::Side;
use super::structure::{Layer, Place, Structure, decoder_layer};
use crate::config::Architecture;
use crate::error::Result;
use crate::weights::Weights;
use std::collections::BTreeMap;

pub struct Trimmed {
    pub config: Architecture,
    pub weights: Weights,
    /// For each encoder and decoder layer: what it was, and the last layer that it stands for.
    layers: Vec<(Layer, Layer)>,
    /// By the map's name: what its outputs are. Where nothing is said, they are all of the one map that it was.
    outputs: BTreeMap<String, Vec<Output>>,
}

/// One of the outputs of one of the parent's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub map: String,
    pub index: usize,
}

impl Trimmed {
    /// The parent without some layers.
    pub fn new(parent: &Side, dropped: &[Layer], repair: bool, stand_ins: &mut StandIns) -> Result<Self> {
        let (config, weights) = stand_ins.without(parent, dropped, repair)?;
        let layers = runs(parent.config, dropped).into_iter().filter_map(|(own, last)| Some((own?, last))).collect();
        Ok(Self { config, weights, layers, outputs: BTreeMap::new() })
    }

    /// Keeps only these units of each structure.
    pub fn cut(&mut self, cuts: &[(&Structure, &[usize])]) -> Result<()> {
        for ((tensor, axis), kept) in kept(&self.weights, cuts)? {
            let count = self.weights.named(&tensor)?.shape.get(axis).copied().unwrap_or(0);
            if let Some(map) = tensor.strip_suffix(".weight").filter(|_| axis == 0) {
                let all = self.outputs(map, count);
                self.outputs.insert(map.into(), kept.iter().filter_map(|&output| all.get(output)).cloned().collect());
            }
        }
        cut(&mut self.config, &mut self.weights, cuts)
    }

    /// The layers that stand for others: what each is, what it was, and the last layer that it stands for.
    pub fn standing(&self) -> Vec<(Layer, Layer, Layer)> {
        let of_kind = self.layers.chunk_by(|(a, _), (b, _)| a.with(0) == b.with(0));
        let numbered = of_kind.flat_map(|layers| layers.iter().enumerate().map(|(number, &(own, last))| (own.with(number), own, last)));
        numbered.filter(|(_, own, last)| own != last).collect()
    }

    /// Gives a layer another feed-forward network.
    pub fn graft(&mut self, layer: Layer, graft: Graft) {
        let number = layer.number();
        let place = match layer {
            Layer::Encoder(_) => Place::EncoderFfn(number),
            Layer::Decoder(_) => Place::DecoderFfn(number),
        };
        place.set(&mut self.config, graft.neurons.len());
        for (map, weight, bias) in graft.maps {
            self.weights.insert(format!("{}.{map}.weight", layer.prefix()), weight);
            self.weights.insert(format!("{}.{map}.bias", layer.prefix()), bias);
        }
        self.outputs.insert(format!("{}.ffn1", layer.prefix()), graft.neurons);
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
        if let (Some(number), false) = (decoder_layer(name), kind == "decoder") {
            // The heads of the last layer that a layer stands for.
            let (_, last) = self
                .layers
                .iter()
                .filter(|(own, _)| matches!(own, Layer::Decoder(_)))
                .nth(number)
                .copied()
                .unwrap_or((Layer::Decoder(number), Layer::Decoder(number)));
            return format!("{kind}.{}.{rest}", last.number());
        }
        let Some(number) = name.split('.').nth(1).and_then(|number| number.parse::<usize>().ok()) else { return name.into() };
        let of_kind = self.layers.iter().filter(|(own, _)| matches!((own, kind), (Layer::Encoder(_), "encoder") | (Layer::Decoder(_), "decoder")));
        match of_kind.copied().nth(number).map(pick) {
            Some(layer) => format!("{}.{rest}", layer.prefix()),
            None => name.into(),
        }
    }

    /// What the outputs of a map are, where they aren't all of the one map that it was.
    pub fn known_outputs(&self, map: &str) -> Option<&[Output]> {
        self.outputs.get(map).map(Vec::as_slice)
    }

    /// What the outputs of a map are, which has, or had before anything was cut, that many.
    pub fn outputs(&self, map: &str, count: usize) -> Vec<Output> {
        let whole = || {
            let target = self.target(map);
            (0..count).map(|index| Output { map: target.clone(), index }).collect()
        };
        self.outputs.get(map).cloned().unwrap_or_else(whole)
    }
}
