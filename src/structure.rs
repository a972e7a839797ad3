//! What can be removed from a network, and what depends on what: one description that importance, surgery, repair and search
//! all follow. Those of RT-DETR's family are found by tracing (`groups.rs`), those of DETR follow from its config.
//!
//! d_model is none of it. Each layer norm goes over all of it and each residual path carries it on, so that a channel can't be left out without
//! a change to every layer; to take out directions in place of channels needs another map on each residual path ("SliceGPT", Ashkboos et al.,
//! 2024, arXiv:2401.15024): in a DETR, a tenth to a fifth of a layer's work again, before anything is saved.

use crate::config::{Architecture, Backbone, Config, EfficientNetLite, ResNet};
use crate::groups::groups;

/// Interchangeable units (heads, neurons, channels) that a network can do with fewer of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// As `encoder.0.self_attention`, `decoder.2.ffn`, `backbone.stage4.block0.inner1`, `backbone.stage4`, `queries`.
    pub name: String,
    pub place: Place,
    pub units: usize,
    /// Neighbouring channels that make one unit: a head's width, else 1.
    pub width: usize,
    /// Tensors that make the channels.
    pub made_by: Vec<Made>,
    /// Linear maps and convolutions that the channels go into.
    pub used_by: Vec<Used>,
}

/// A tensor that makes a structure's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub tensor: String,
    /// Along which the channels lie.
    pub axis: usize,
    pub span: Span,
}

/// A layer that a structure's channels go into, along the last axis of its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub layer: String,
    pub span: Span,
}

/// Where a structure's units lie along an axis, beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where its first unit begins; in several places where an axis has the units more than once.
    pub offsets: Vec<usize>,
    /// Neighbours that make one unit.
    pub width: usize,
}

impl Span {
    /// The whole axis, a place for each unit.
    pub fn all() -> Self {
        Self::of_width(1)
    }

    /// The whole axis.
    pub fn of_width(width: usize) -> Self {
        Self { offsets: vec![0], width }
    }

    /// The places of a unit.
    pub fn of(&self, unit: usize) -> impl Iterator<Item = usize> + '_ {
        self.offsets.iter().flat_map(move |offset| (0..self.width).map(move |i| offset + unit * self.width + i))
    }
}

/// Where a config states how many units a structure has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    EncoderHeads(usize),
    EncoderFfn(usize),
    DecoderSelfHeads(usize),
    DecoderCrossHeads(usize),
    DecoderFfn(usize),
    Queries,
    /// Channels between the convolutions of a block: stage, block, which.
    ResNetInner(usize, usize, usize),
    /// A residual stream: of the stem, if it goes on without a projection, and of stages.
    ResNetStream {
        stem: bool,
        stages: Vec<usize>,
    },
    /// Of RT-DETR's family: sizes that say how many channels or heads there are.
    Sizes {
        sizes: Vec<Size>,
        is_heads: bool,
    },
    /// Of RT-DETR's family: sampling points of a deformable attention's heads on one level, by the name of their number.
    Points(String),
    /// Expanded channels of a block: stage, block.
    LiteExpansion(usize, usize),
    /// A residual stream: of the stem, or of blocks.
    LiteStream {
        stem: bool,
        blocks: Vec<(usize, usize)>,
    },
}

/// A number in [`RtDetr::sizes`](crate::config::RtDetr::sizes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub name: String,
    /// What it counts beside the units.
    pub rest: usize,
    pub per_unit: usize,
}

impl Structure {
    /// The layer of encoder or decoder that it is a part of.
    pub fn layer(&self) -> Option<Layer> {
        match self.place {
            Place::EncoderHeads(i) | Place::EncoderFfn(i) => Some(Layer::Encoder(i)),
            Place::DecoderSelfHeads(i) | Place::DecoderCrossHeads(i) | Place::DecoderFfn(i) => Some(Layer::Decoder(i)),
            Place::Sizes { .. } | Place::Points(_) if self.name.starts_with("decoder.") => decoder_layer(&self.name).map(Layer::Decoder),
            _ => None,
        }
    }

    /// Whether it is there in the end, where some layers are left out and, if so, the first decoder layer that stays is folded.
    pub fn stays(&self, dropped: &[Layer], fold: bool) -> bool {
        let gone = self.layer().is_some_and(|layer| dropped.contains(&layer));
        let is_first = |i: usize| (0..i).all(|before| dropped.contains(&Layer::Decoder(before)));
        !gone && !matches!(self.place, Place::DecoderSelfHeads(i) if fold && is_first(i))
    }

    /// Whether its units are few and each counts: heads and sampling points, of which any number may stay.
    pub fn is_few(&self) -> bool {
        self.is_heads() || matches!(self.place, Place::Points(_))
    }

    /// Whether its units are attention heads.
    pub fn is_heads(&self) -> bool {
        let is_heads = matches!(self.place, Place::EncoderHeads(_) | Place::DecoderSelfHeads(_) | Place::DecoderCrossHeads(_));
        is_heads || matches!(self.place, Place::Sizes { is_heads: true, .. })
    }
}

/// The decoder layer of RT-DETR's family that a layer, a tensor or a structure belongs to: its heads belong to it, too.
pub fn decoder_layer(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    let (kind, number, rest) = (parts.next()?, parts.next()?.parse().ok()?, parts.next());
    // Of a box head that all layers share, the number is that of a map.
    let of_layer = match kind {
        "decoder" | "class_head" | "quality_head" => true,
        "box_head" => rest.is_some_and(|rest| rest.parse::<usize>().is_ok()),
        _ => false,
    };
    of_layer.then_some(number)
}

/// A layer of the transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    Encoder(usize),
    Decoder(usize),
}

impl Layer {
    /// Counted from 0.
    pub fn number(self) -> usize {
        match self {
            Layer::Encoder(i) | Layer::Decoder(i) => i,
        }
    }

    /// Another of its kind.
    pub fn with(self, number: usize) -> Self {
        match self {
            Layer::Encoder(_) => Layer::Encoder(number),
            Layer::Decoder(_) => Layer::Decoder(number),
        }
    }

    /// What the names of its tensors begin with.
    pub fn prefix(self) -> String {
        match self {
            Layer::Encoder(i) => format!("encoder.{i}"),
            Layer::Decoder(i) => format!("decoder.{i}"),
        }
    }

    /// All of its kind.
    pub fn all(self, config: &Architecture) -> Vec<Self> {
        (0..self.count(config)).map(|i| self.with(i)).collect()
    }

    /// How many of its kind a network has.
    pub fn count(self, config: &Architecture) -> usize {
        match self {
            Layer::Encoder(_) => config.layers()[0],
            Layer::Decoder(_) => config.layers()[1],
        }
    }

    /// Neurons of its feed-forward network.
    pub fn ffn(self, config: &Config) -> usize {
        match self {
            Layer::Encoder(i) => config.encoder[i].ffn,
            Layer::Decoder(i) => config.decoder[i].ffn,
        }
    }

    /// Its last norm's name.
    pub fn norm(self) -> String {
        match self {
            Layer::Encoder(i) => format!("encoder.{i}.norm2"),
            Layer::Decoder(i) => format!("decoder.{i}.norm3"),
        }
    }

    /// A map that is given the layer's output.
    pub fn next(self, config: &Architecture) -> String {
        match self {
            Layer::Encoder(i) if i + 1 < config.layers()[0] => format!("encoder.{}.self_attention.value", i + 1),
            Layer::Encoder(_) => "decoder.0.cross_attention.value".into(),
            Layer::Decoder(i) => format!("decoder.{}.self_attention.value", i + 1),
        }
    }
}

impl Place {
    /// States another number of units.
    pub fn set(&self, config: &mut Architecture, units: usize) {
        let config = match (self, config) {
            (Place::Queries, config) => return config.set_queries(units),
            (place, Architecture::RtDetr(config)) => {
                match place {
                    Place::Sizes { sizes, .. } => {
                        config.sizes.extend(sizes.iter().map(|size| (size.name.clone(), size.rest + units * size.per_unit)))
                    }
                    Place::Points(name) => drop(config.sizes.insert(name.clone(), units)),
                    _ => {}
                }
                return;
            }
            (_, Architecture::Detr(config)) => config,
        };
        self.set_in_detr(config, units);
    }

    /// As [`Place::set`].
    pub fn set_in_detr(&self, config: &mut Config, units: usize) {
        match (self, &mut config.backbone) {
            (Place::Queries, _) => config.queries = units,
            (Place::EncoderHeads(i), _) => config.encoder[*i].self_attention.heads = units,
            (Place::EncoderFfn(i), _) => config.encoder[*i].ffn = units,
            (Place::DecoderSelfHeads(i), _) => config.decoder[*i].self_attention.iter_mut().for_each(|attention| attention.heads = units),
            (Place::DecoderCrossHeads(i), _) => config.decoder[*i].cross_attention.heads = units,
            (Place::DecoderFfn(i), _) => config.decoder[*i].ffn = units,
            (Place::ResNetInner(s, b, i), Backbone::Resnet(net)) => net.stages[*s].blocks[*b].inner[*i] = units,
            (Place::ResNetStream { stem, stages }, Backbone::Resnet(net)) => {
                if *stem {
                    net.stem = units;
                }
                stages.iter().for_each(|&s| net.stages[s].channels = units);
            }
            (Place::LiteExpansion(s, b), Backbone::EfficientNetLite(net)) => net.stages[*s][*b].expansion = Some(units),
            (Place::LiteStream { stem, blocks }, Backbone::EfficientNetLite(net)) => {
                if *stem {
                    net.stem = units;
                }
                blocks.iter().for_each(|&(s, b)| net.stages[s][b].channels = units);
            }
            // A place is made from the backbone that it belongs to.
            _ => {}
        }
    }
}

/// All structures of a network, in the order in which it uses them. There are none in one whose input is impossible.
pub fn structures(config: &Architecture) -> Vec<Structure> {
    match config {
        Architecture::Detr(config) => of_detr(config),
        Architecture::RtDetr(config) => groups(config).unwrap_or_default(),
    }
}

/// [`structures`] of a DETR.
pub fn of_detr(config: &Config) -> Vec<Structure> {
    let mut all = match &config.backbone {
        Backbone::Resnet(net) => resnet(net),
        Backbone::EfficientNetLite(net) => lite(net),
    };
    for (i, layer) in config.encoder.iter().enumerate() {
        let name = format!("encoder.{i}");
        all.push(heads(format!("{name}.self_attention"), Place::EncoderHeads(i), layer.self_attention));
        all.push(neurons(&name, Place::EncoderFfn(i), layer.ffn));
    }
    for (i, layer) in config.decoder.iter().enumerate() {
        let name = format!("decoder.{i}");
        all.extend(layer.self_attention.map(|attention| heads(format!("{name}.self_attention"), Place::DecoderSelfHeads(i), attention)));
        all.push(heads(format!("{name}.cross_attention"), Place::DecoderCrossHeads(i), layer.cross_attention));
        all.push(neurons(&name, Place::DecoderFfn(i), layer.ffn));
    }
    let mut queries = vec!["query_position"];
    queries.extend(config.query_content.then_some("query_content"));
    queries.extend(config.box_reference.then_some("box_reference"));
    let made_by = queries.into_iter().map(|tensor| Made { tensor: tensor.into(), axis: 0, span: Span::all() }).collect();
    all.push(Structure { name: "queries".into(), place: Place::Queries, units: config.queries, width: 1, made_by, used_by: vec![] });
    all
}

fn heads(name: String, place: Place, attention: crate::config::Attention) -> Structure {
    let width = attention.head_width;
    let made_by = ["query", "key", "value"].iter().flat_map(|part| rows_of_width(&format!("{name}.{part}"), width)).collect();
    let used_by = vec![Used { layer: format!("{name}.output"), span: Span::of_width(width) }];
    Structure { name, place, units: attention.heads, width, made_by, used_by }
}

fn neurons(layer: &str, place: Place, ffn: usize) -> Structure {
    let (made_by, used_by) = (rows(&format!("{layer}.ffn1")), vec![used(format!("{layer}.ffn2"))]);
    Structure { name: format!("{layer}.ffn"), place, units: ffn, width: 1, made_by, used_by }
}

/// Weight and bias of a map, whose outputs lie along the first axis.
fn rows(map: &str) -> Vec<Made> {
    rows_of_width(map, 1)
}

fn rows_of_width(map: &str, width: usize) -> Vec<Made> {
    ["weight", "bias"].map(|part| Made { tensor: format!("{map}.{part}"), axis: 0, span: Span::of_width(width) }).into()
}

fn used(layer: String) -> Used {
    Used { layer, span: Span::all() }
}

/// Weight and bias of a depthwise convolution.
fn filters(map: &str) -> Vec<Made> {
    [("weight", 2), ("bias", 0)].map(|(part, axis)| Made { tensor: format!("{map}.{part}"), axis, span: Span::all() }).into()
}

/// A residual stream as its first map begins it.
fn stream(name: String, place: Place, units: usize, first: &str) -> Structure {
    Structure { name, place, units, width: 1, made_by: rows(first), used_by: vec![] }
}

fn resnet(net: &ResNet) -> Vec<Structure> {
    let mut all = Vec::new();
    let mut current = stream("backbone.stem".into(), Place::ResNetStream { stem: true, stages: vec![] }, net.stem, "backbone.stem");
    for (s, stage) in net.stages.iter().enumerate() {
        for (b, block) in stage.blocks.iter().enumerate() {
            let name = format!("backbone.stage{}.block{b}", s + 1);
            let last = format!("{name}.conv{}", block.inner.len() + 1);
            current.used_by.push(used(format!("{name}.conv1")));
            for (i, &units) in block.inner.iter().enumerate() {
                let (made_by, used_by) = (rows(&format!("{name}.conv{}", i + 1)), vec![used(format!("{name}.conv{}", i + 2))]);
                let place = Place::ResNetInner(s, b, i);
                all.push(Structure { name: format!("{name}.inner{}", i + 1), place, units, width: 1, made_by, used_by });
            }
            let projection = format!("{name}.projection");
            if block.projection {
                current.used_by.push(used(projection.clone()));
            }
            if block.projection && b == 0 {
                let place = Place::ResNetStream { stem: false, stages: vec![s] };
                let next = stream(format!("backbone.stage{}", s + 1), place, stage.channels, &projection);
                all.push(std::mem::replace(&mut current, next));
            } else {
                if block.projection {
                    current.made_by.extend(rows(&projection));
                }
                join(&mut current, s);
            }
            current.made_by.extend(rows(&last));
        }
    }
    current.used_by.push(used("input_projection".into()));
    all.push(current);
    all
}

/// A stage that goes on with the stream before it.
fn join(stream: &mut Structure, stage: usize) {
    if let Place::ResNetStream { stages, .. } = &mut stream.place
        && !stages.contains(&stage)
    {
        stages.push(stage);
    }
}

fn lite(net: &EfficientNetLite) -> Vec<Structure> {
    let mut all = Vec::new();
    let mut current = stream("backbone.stem".into(), Place::LiteStream { stem: true, blocks: vec![] }, net.stem, "backbone.stem");
    for (s, stage) in net.stages.iter().enumerate() {
        for (b, block) in stage.iter().enumerate() {
            let name = format!("backbone.stage{s}.block{b}");
            let (depthwise, project) = (filters(&format!("{name}.depthwise")), format!("{name}.project"));
            match block.expansion {
                Some(units) => {
                    current.used_by.push(used(format!("{name}.expand")));
                    let made_by = [rows(&format!("{name}.expand")), depthwise].concat();
                    let (place, used_by) = (Place::LiteExpansion(s, b), vec![used(project.clone())]);
                    all.push(Structure { name: format!("{name}.expansion"), place, units, width: 1, made_by, used_by });
                }
                None => {
                    current.made_by.extend(depthwise);
                    current.used_by.push(used(project.clone()));
                }
            }
            if block.residual {
                if let Place::LiteStream { blocks, .. } = &mut current.place {
                    blocks.push((s, b));
                }
                current.made_by.extend(rows(&project));
            } else {
                // A stage is called by its first stream; were there another, by its block.
                let name = if b == 0 { format!("backbone.stage{s}") } else { name };
                let next = stream(name, Place::LiteStream { stem: false, blocks: vec![(s, b)] }, block.channels, &project);
                all.push(std::mem::replace(&mut current, next));
            }
        }
    }
    current.used_by.push(used("input_projection".into()));
    all.push(current);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{layout, layout_of};
    use std::collections::BTreeMap;

    fn all(backbone: Backbone) -> (Config, Vec<Structure>) {
        let mut config = Config::detr(backbone);
        (config.query_content, config.box_reference) = (true, true);
        let all = of_detr(&config);
        (config, all)
    }

    /// And one whose first decoder layer is folded.
    fn configs() -> Vec<Config> {
        let mut configs: Vec<Config> = backbones().into_iter().map(|backbone| all(backbone).0).collect();
        let mut folded = configs[0].clone();
        folded.fold();
        configs.push(folded);
        configs
    }

    fn backbones() -> [Backbone; 4] {
        let resnet = |depth| Backbone::Resnet(ResNet::of_depth(depth, false).unwrap());
        [resnet(18), resnet(50), resnet(101), Backbone::EfficientNetLite(EfficientNetLite::lite0())]
    }

    /// Setting a number in the config must change just those axes of the layout that the structure says are cut.
    #[test]
    fn what_a_structure_cuts_is_what_its_config_changes() {
        for config in configs() {
            let all = of_detr(&config);
            let before: BTreeMap<_, _> = layout(&config).into_iter().map(|entry| (entry.name, entry.shape)).collect();
            for structure in &all {
                let mut smaller = Architecture::from(config.clone());
                structure.place.set(&mut smaller, structure.units - 1);
                smaller.check().unwrap();
                let mut expected = before.clone();
                for Made { tensor, axis, span } in &structure.made_by {
                    expected.get_mut(tensor).unwrap()[*axis] -= span.width;
                }
                for Used { layer, span } in &structure.used_by {
                    *expected.get_mut(&format!("{layer}.weight")).unwrap().last_mut().unwrap() -= span.width;
                }
                let found: BTreeMap<_, _> = layout_of(&smaller).into_iter().map(|entry| (entry.name, entry.shape)).collect();
                assert_eq!(found, expected, "{}", structure.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_streams_end_at_projections() {
        for backbone in backbones() {
            let (_, all) = all(backbone);
            let names: std::collections::BTreeSet<_> = all.iter().map(|structure| &structure.name).collect();
            assert_eq!(names.len(), all.len());
        }
        let (_, all) = all(Backbone::Resnet(ResNet::of_depth(18, false).unwrap()));
        assert_eq!(all.iter().find(|s| s.name == "backbone.stem").unwrap().place, Place::ResNetStream { stem: true, stages: vec![0] });
        assert_eq!(all.iter().find(|s| s.name == "backbone.stage2").unwrap().used_by.len(), 3);
    }

    #[test]
    fn whichever_decoder_layer_is_first_in_the_end_is_folded() {
        let (mut config, whole) = all(Backbone::Resnet(ResNet::of_depth(18, false).unwrap()));
        let left = |all: &[Structure], dropped: &[Layer], fold| -> Vec<String> {
            let left = all.iter().filter(|s| s.stays(dropped, fold) && matches!(s.place, Place::DecoderSelfHeads(_)));
            left.map(|s| s.name.split('.').nth(1).unwrap().to_string()).collect()
        };
        assert_eq!(left(&whole, &[], false).concat(), "012345");
        assert_eq!(left(&whole, &[], true).concat(), "12345");
        assert_eq!(left(&whole, &[Layer::Decoder(0), Layer::Decoder(1), Layer::Decoder(4)], true).concat(), "35");
        assert_eq!(left(&whole, &[Layer::Encoder(0), Layer::Decoder(1)], true).concat(), "2345");
        config.fold();
        let folded = of_detr(&config);
        assert_eq!(folded.len() + 1, whole.len());
        assert_eq!(left(&folded, &[], true).concat(), "12345");
        assert_eq!(left(&folded, &[Layer::Decoder(0)], true).concat(), "2345");
    }
}
