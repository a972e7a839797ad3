//! The architecture of the detectors that descend from RT-DETR, as data: RT-DETR ("DETRs Beat YOLOs on Real-time Object Detection", Zhao et
//! al., 2023, arXiv:2304.08069), RT-DETRv2 (arXiv:2407.17140), D-FINE (Peng et al., 2024, arXiv:2410.13842) and DEIMv2 (Huang et al., 2025,
//! arXiv:2509.20787).
//!
//! They share one scheme: a backbone gives feature maps of several strides, a neck mixes them, the tokens with the best class scores become
//! queries, and decoder layers with deformable attention refine these queries' boxes. The config says what the unpruned network is;
//! [`RtDetr::sizes`] says which widths were pruned.

use super::check::{MAX_SIDE, MAX_WIDTH};
use super::{Activation, Attention, EncoderLayer, Label, Pixels};
use crate::backend::SamplingMethod;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole detector of the family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RtDetr {
    pub model_type: ModelType,
    pub backbone: MultiScaleBackbone,
    pub neck: Neck,
    /// Width of the decoder's tokens.
    pub d_model: usize,
    /// Whether a 1×1 convolution stands between each of the neck's maps and the decoder.
    pub decoder_projection: bool,
    /// Levels beyond the neck's maps, each of half the size: 3×3 convolutions of stride 2, the first on the neck's last map.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extra_levels: usize,
    pub selection: Selection,
    pub decoder: Decoder,
    /// Queries: the most tokens that are selected.
    pub queries: usize,
    /// Classes, each with a logit of its own (sigmoid).
    pub classes: usize,
    pub labels: Vec<Label>,
    pub pixels: Pixels,
    /// Sizes that are not what the rest says: what pruning left. A width has the name of the layer that makes it, as
    /// `backbone.stage1.block0.layer0`; where a layer's output is divided, its two parts are `LAYER.0` and `LAYER.1`. An attention's heads are
    /// `ATTENTION.heads`, as `decoder.0.self_attention.heads`, and a deformable attention's sampling points on a level `ATTENTION.points.0`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sizes: BTreeMap<String, usize>,
}

/// transformers' name of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    RtDetr,
    RtDetrV2,
    DFine,
    Deimv2,
}

impl ModelType {
    pub const ALL: [Self; 4] = [Self::RtDetr, Self::RtDetrV2, Self::DFine, Self::Deimv2];

    /// As `config.json` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RtDetr => "rt_detr",
            Self::RtDetrV2 => "rt_detr_v2",
            Self::DFine => "d_fine",
            Self::Deimv2 => "deimv2",
        }
    }
}

/// A convolutional network that gives feature maps of several strides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MultiScaleBackbone {
    ResnetVd(ResNetVd),
    Hgnetv2(HgNetV2),
}

/// ResNet-D ("Bag of Tricks for Image Classification", He et al., 2018, arXiv:1812.01187): a stem of three 3×3 convolutions, and an average
/// pool before each shortcut that has a stride.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResNetVd {
    pub stem: usize,
    /// Channels of each stage's output.
    pub channels: Vec<usize>,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Basic blocks (two 3×3 convolutions) in place of bottlenecks.
    pub basic: bool,
    pub downsample_in_first_stage: bool,
    pub downsample_in_bottleneck: bool,
    /// Which stages' outputs go on, counted from 0.
    pub outputs: Vec<usize>,
}

/// PaddlePaddle's HGNetV2, as D-FINE has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HgNetV2 {
    /// Channels of the stem's first convolutions and of its last.
    pub stem: [usize; 2],
    pub stages: Vec<HgStage>,
    /// Whether each activation is followed by a learnt scale and shift (`LearnableAffineBlock`).
    pub affine: bool,
    /// Which stages' outputs go on, counted from 0.
    pub outputs: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HgStage {
    /// Stride of the depthwise convolution at its beginning, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downsample: Option<usize>,
    pub blocks: usize,
    /// Convolutions of a block, whose outputs are all joined.
    pub layers: usize,
    /// Channels of each of these.
    pub middle: usize,
    pub channels: usize,
    pub kernel: usize,
    /// 1×1 and depthwise convolutions in place of whole ones.
    pub light: bool,
}

/// What mixes the feature maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Neck {
    /// RT-DETR's hybrid encoder: a transformer encoder on some maps (AIFI), then a feature pyramid up and down (CCFF).
    Hybrid(HybridEncoder),
    /// DEIMv2's for its smallest models: one backbone map, a second one pooled from it.
    Lite(LiteEncoder),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HybridEncoder {
    pub width: usize,
    /// On each of the maps `encoded_maps` (counted from 0); all have the same layers.
    pub layers: Vec<EncoderLayer>,
    pub encoded_maps: Vec<usize>,
    /// Activation inside the feed-forward networks of `layers`.
    pub ffn_activation: Activation,
    /// Whether positions are added in `layers`; their temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_temperature: Option<f32>,
    /// Whether norms come before attention and feed-forward network in `layers`. As transformers computes it, the normalised tokens, not those
    /// before the norm, are added to what the feed-forward network gives.
    #[serde(default, skip_serializing_if = "is_false")]
    pub normalize_before: bool,
    pub fusion: Fusion,
    pub block: FusionBlock,
    /// Activation of the convolutions.
    pub activation: Activation,
}

/// How two maps become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    Concat,
    Sum,
}

/// What follows a fusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FusionBlock {
    /// RT-DETR: a CSP layer of `repeats` RepVGG blocks, `hidden` wide; the pyramid goes down by 3×3 convolutions.
    Csp { hidden: usize, repeats: usize },
    /// D-FINE's RepNCSPELAN4, with CSP layers `hidden` wide; the pyramid goes down by 1×1 and depthwise convolutions.
    Elan4 { hidden: usize, repeats: usize },
    /// DEIMv2's RepNCSPELAN5, with or without a 3×3 convolution at the end of each CSP layer.
    Elan5 { hidden: usize, repeats: usize, trailing: bool },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiteEncoder {
    pub width: usize,
    pub block: FusionBlock,
    pub activation: Activation,
}

/// How tokens become queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Whether a linear map and a layer norm stand between the tokens and the heads.
    pub output: bool,
    /// Activation inside the box head.
    pub activation: Activation,
    /// Whether the queries' contents are learnt instead of the selected tokens.
    #[serde(default)]
    pub learnt_content: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    pub layers: usize,
    pub self_attention: Attention,
    pub ffn: usize,
    pub ffn_kind: FfnKind,
    pub activation: Activation,
    pub norm: NormKind,
    /// Sampling points of each head on each level.
    pub points: Vec<usize>,
    pub offset_scale: f32,
    pub method: SamplingMethod,
    /// Whether deformable attention has maps for its values and its output.
    pub value_projection: bool,
    /// Whether a gate mixes what deformable attention gives with the residual, in place of their sum.
    pub gateway: bool,
    pub position: QueryPosition,
    pub boxes: BoxHead,
}

/// A layer's feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FfnKind {
    Mlp,
    /// "GLU Variants Improve Transformer" (Shazeer, 2020, arXiv:2002.05202).
    SwiGlu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    Layer,
    Rms,
}

/// Positions of the queries: an MLP on their boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryPosition {
    pub hidden: usize,
    pub layers: usize,
    pub activation: Activation,
    /// From the initial boxes, once for all layers; else from each layer's.
    pub once: bool,
    /// Bounds of the positions, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<f32>,
}

/// How boxes are refined from layer to layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BoxHead {
    /// Four offsets before the sigmoid.
    Offsets,
    /// D-FINE's: each edge's distance as a distribution over `bins`, and a class score corrected by how sharp it is (LQE).
    Distributions {
        bins: usize,
        /// Curvature and reach of the bins (`reg_scale`, `up`).
        reg_scale: f32,
        up: f32,
        /// One head for all layers.
        shared: bool,
        /// Activation inside the box heads and the quality heads.
        activation: Activation,
        /// Probabilities of each edge that the quality head sees, its width and its layers.
        top: usize,
        quality_hidden: usize,
        quality_layers: usize,
    },
}

impl MultiScaleBackbone {
    /// Feature maps that go on.
    pub fn outputs(&self) -> &[usize] {
        match self {
            Self::ResnetVd(net) => &net.outputs,
            Self::Hgnetv2(net) => &net.outputs,
        }
    }

    /// Channels of each stage's output.
    pub fn channels(&self) -> Vec<usize> {
        match self {
            Self::ResnetVd(net) => net.channels.clone(),
            Self::Hgnetv2(net) => net.stages.iter().map(|stage| stage.channels).collect(),
        }
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Neck {
    pub fn width(&self) -> usize {
        match self {
            Self::Hybrid(neck) => neck.width,
            Self::Lite(neck) => neck.width,
        }
    }

    /// Feature maps that it makes of `maps`.
    pub fn levels(&self, maps: usize) -> usize {
        match self {
            Self::Hybrid(_) => maps,
            Self::Lite(_) => 2,
        }
    }
}

impl RtDetr {
    /// Levels of feature maps that the decoder samples.
    pub fn levels(&self) -> usize {
        self.neck.levels(self.backbone.outputs().len()) + self.extra_levels
    }

    /// The width of a layer's output, where `default` is the unpruned one.
    pub fn size(&self, layer: &str, default: usize) -> usize {
        self.sizes.get(layer).copied().unwrap_or(default)
    }

    /// Refuses what no network can have, so that later code needn't look again: with sizes bounded, products of a few don't overflow.
    pub fn check(&self) -> Result<()> {
        let mut widths = vec![self.d_model, self.queries, self.classes, self.neck.width(), self.decoder.ffn, self.decoder.position.hidden];
        let mut counts = vec![self.decoder.layers, self.decoder.position.layers];
        let mut attentions = vec![self.decoder.self_attention];
        let mut outputs_fit = !self.backbone.outputs().is_empty() && self.backbone.outputs().is_sorted_by(|a, b| a < b);
        match &self.backbone {
            MultiScaleBackbone::ResnetVd(net) => {
                widths.push(net.stem);
                widths.extend(&net.channels);
                counts.extend(&net.depths);
                outputs_fit &= net.channels.len() == net.depths.len() && net.outputs.iter().all(|&stage| stage < net.depths.len());
                let divisible = net.stem.is_multiple_of(2) && (net.basic || net.channels.iter().all(|channels| channels.is_multiple_of(4)));
                outputs_fit &= divisible;
            }
            MultiScaleBackbone::Hgnetv2(net) => {
                widths.extend(net.stem);
                widths.extend(net.stages.iter().flat_map(|stage| [stage.middle, stage.channels]));
                counts.extend(net.stages.iter().flat_map(|stage| [stage.blocks, stage.layers]));
                outputs_fit &= net.outputs.iter().all(|&stage| stage < net.stages.len()) && net.stem[0].is_multiple_of(2);
                outputs_fit &= net.stages.iter().all(|s| (1..=31).contains(&s.kernel) && s.kernel % 2 == 1 && s.channels >= 2);
                outputs_fit &= net.stages.iter().all(|s| s.downsample.is_none_or(|stride| (1..=4).contains(&stride)));
            }
        }
        let block = match &self.neck {
            Neck::Hybrid(neck) => {
                widths.extend(neck.layers.iter().map(|layer| layer.ffn));
                attentions.extend(neck.layers.iter().map(|layer| layer.self_attention));
                outputs_fit &= neck.encoded_maps.iter().all(|&map| map < self.backbone.outputs().len());
                neck.block
            }
            Neck::Lite(neck) => {
                outputs_fit &= self.backbone.outputs().len() == 1;
                neck.block
            }
        };
        let (FusionBlock::Csp { hidden, repeats } | FusionBlock::Elan4 { hidden, repeats } | FusionBlock::Elan5 { hidden, repeats, .. }) = block;
        widths.push(hidden);
        widths.extend(self.sizes.values());
        let mut boxes_fit = true;
        if let BoxHead::Distributions { bins, reg_scale, up, top, quality_hidden, quality_layers, .. } = self.decoder.boxes {
            widths.push(quality_hidden);
            counts.push(quality_layers);
            boxes_fit = (4..=256).contains(&bins) && bins % 2 == 0 && (1..=bins).contains(&top);
            boxes_fit &= reg_scale.is_finite() && up.is_finite() && reg_scale != 0.0;
        }
        let size_fits = self.pixels.resize.fits();
        let levels = self.levels();
        let heads_fit = |a: &Attention| a.heads > 0 && a.head_width > 0 && a.heads.checked_mul(a.head_width).is_some_and(|width| width <= MAX_WIDTH);
        let points = self.decoder.points.iter().try_fold(0usize, |sum, &points| sum.checked_add(points));
        for (fits, problem) in [
            (self.d_model.is_multiple_of(4), format!("d_model must be a multiple of 4, not {}", self.d_model)),
            (widths.iter().all(|width| (1..=MAX_WIDTH).contains(width)), format!("every width must be from 1 to {MAX_WIDTH}")),
            (counts.iter().all(|count| (1..=64).contains(count)) && repeats <= 64, "every number of layers must be from 1 to 64".into()),
            (outputs_fit, "the backbone's stages and outputs don't go with the neck".into()),
            (attentions.iter().all(heads_fit), format!("the heads of every attention must be from 1 to {MAX_WIDTH} wide together")),
            (self.d_model.is_multiple_of(self.decoder.self_attention.heads.max(1)), "d_model must be a multiple of the decoder's heads".into()),
            (self.decoder.points.len() == levels, format!("{} numbers of points don't go with {levels} levels", self.decoder.points.len())),
            (points.is_some_and(|points| (1..=256).contains(&points)), "a head must have from 1 to 256 sampling points".into()),
            (self.decoder.offset_scale.is_finite(), "the offset scale must be a number".into()),
            (boxes_fit, "the box distributions are impossible".into()),
            (self.extra_levels <= 4, format!("{} levels beyond the neck's maps are too many", self.extra_levels)),
            (self.decoder_projection || self.extra_levels == 0, "levels beyond the neck's maps need projections".into()),
            (self.decoder_projection || self.neck.width() == self.d_model, "the neck's maps are not as wide as the decoder's tokens".into()),
            (self.labels.len() == self.classes, format!("{} labels don't go with {} class logits", self.labels.len(), self.classes)),
            (size_fits, format!("the input size must be from 1 to {MAX_SIDE} a side, the long side not below the short one")),
            (self.pixels.std.iter().all(|s| s.is_finite() && *s > 0.0), "pixel deviations must be positive".into()),
            (self.pixels.mean.iter().all(|m| m.is_finite()), "pixel means must be numbers".into()),
        ] {
            if !fits {
                return Err(Error::Config(problem));
            }
        }
        Ok(())
    }
}
