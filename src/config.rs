//! The architecture of a detector as data.
//!
//! Everything that trimming may change is stated per layer (heads, FFN width) or per block
//! (channels), so that a trimmed network is just another [`Config`]: no masks and no special cases
//! at run time. The shapes follow "End-to-End Object Detection with Transformers" (Carion et al.,
//! 2020) and `models/detr.py` of its repository.

mod check;
mod named;

pub(crate) use check::MAX_SIDE;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A whole detector: backbone, transformer, heads, and how pixels go in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub backbone: Backbone,
    /// Width of every token in encoder and decoder.
    pub d_model: usize,
    pub encoder: Vec<EncoderLayer>,
    pub decoder: Vec<DecoderLayer>,
    /// Object queries: the most boxes one picture can give.
    pub queries: usize,
    /// Class logits of one query; with [`ClassActivation::Softmax`] the last one is no-object.
    pub classes: usize,
    /// Activation inside the feed-forward networks.
    pub activation: Activation,
    pub class_activation: ClassActivation,
    /// Whether the decoder starts from learnt contents `[queries, d_model]` instead of zeros.
    #[serde(default)]
    pub query_content: bool,
    /// Whether each query has a box reference `[queries, 4]`: logits that are added to the box head's output
    /// before its sigmoid.
    #[serde(default)]
    pub box_reference: bool,
    /// What each class logit stands for (no-object excluded).
    pub labels: Vec<Label>,
    pub pixels: Pixels,
}

impl Config {
    /// The first decoder layer's self-attention sees nothing of the picture: what it and its norm give can be stored as the queries'
    /// contents, and neither is needed any more. Whether there was one; `fold.rs` does the same to weights.
    pub fn fold(&mut self) -> bool {
        let folded = self.decoder.first_mut().is_some_and(|layer| layer.self_attention.take().is_some());
        self.query_content |= folded;
        folded
    }
}

/// A class: its name and its id in COCO's numbering (1..=90 with gaps).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub id: u32,
    pub name: String,
}

/// The convolutional network that turns pixels into the feature map of the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Backbone {
    Resnet(ResNet),
    EfficientNetLite(EfficientNetLite),
}

/// "Deep Residual Learning" (He et al., 2015) as in torchvision: a 7×7 stem, a max pool, then stages of blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResNet {
    /// Channels of the 7×7 stem.
    pub stem: usize,
    pub stages: Vec<ResNetStage>,
}

/// Blocks that share one residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResNetStage {
    /// Channels of the residual stream, and so of every block's output.
    pub channels: usize,
    pub blocks: Vec<ResNetBlock>,
}

/// One residual block: basic (two 3×3 convolutions) or bottleneck (1×1, 3×3, 1×1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResNetBlock {
    /// Channels between the convolutions: one number makes a basic block, two a bottleneck block.
    pub inner: Vec<usize>,
    /// Stride of the block: on the first 3×3 convolution (torchvision's v1.5 form) and on the projection.
    pub stride: usize,
    /// Dilation of the 3×3 convolutions (DC5 has 2 in the last stage's later blocks).
    pub dilation: usize,
    /// Dilation of a basic block's second convolution, where it differs (in the first block of a dilated stage).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_dilation: Option<usize>,
    /// Whether the shortcut is a 1×1 convolution instead of the identity.
    pub projection: bool,
}

/// EfficientNet-Lite as in timm's `tf_efficientnet_lite0`: TensorFlow's "same" padding, ReLU6,
/// no squeeze-and-excitation; without its head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EfficientNetLite {
    /// Channels of the 3×3 stem, whose stride is 2.
    pub stem: usize,
    pub stages: Vec<Vec<InvertedResidual>>,
}

/// Expand (1×1), depthwise, project (1×1). Without `expansion` the depthwise convolution acts on the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvertedResidual {
    /// Channels after the expanding convolution, if there is one.
    pub expansion: Option<usize>,
    /// Side of the depthwise kernel: 3 or 5.
    pub kernel: usize,
    pub stride: usize,
    /// Channels of the output.
    pub channels: usize,
    /// Whether the input is added to the output.
    pub residual: bool,
}

/// Multi-head attention. `heads * head_width` needn't equal `d_model`: a trimmed layer has fewer heads of the old width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    pub heads: usize,
    pub head_width: usize,
}

impl Attention {
    /// Width of the queries, keys and values of all heads together.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderLayer {
    pub self_attention: Attention,
    /// Neurons of the feed-forward network.
    pub ffn: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderLayer {
    /// None in a first layer that is folded (see [`Config::fold`]); every other layer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_attention: Option<Attention>,
    pub cross_attention: Attention,
    /// Neurons of the feed-forward network.
    pub ffn: usize,
}

/// Elementwise function at the end of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    #[default]
    None,
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// The exact form, with erf.
    Gelu,
    /// x · sigmoid(x), also called swish.
    Silu,
    Sigmoid,
}

/// How class logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassActivation {
    /// DETR's: softmax over the classes and no-object (the last logit), which is then dropped.
    Softmax,
    /// Each class by itself; no logit for no-object.
    Sigmoid,
}

/// How a picture becomes the network's input: resized, divided by 255, then `(x - mean) / std` per channel (RGB).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub resize: Resize,
}

/// The rule for the size that a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Resize {
    /// DETR's: the short side becomes `short` unless the long one would exceed `long`; the aspect ratio stays.
    ShortestSide { short: usize, long: usize },
    /// Every picture is stretched to one size.
    Stretch { height: usize, width: usize },
    /// As large as fits into this size, be it smaller or larger than the picture; the aspect ratio stays.
    Within { height: usize, width: usize },
    /// Pictures stay as they are.
    Original,
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Resize::ShortestSide { short, long } => write!(f, "short side {short}, long side at most {long}"),
            Resize::Stretch { height, width } => write!(f, "stretched to {height} × {width}"),
            Resize::Within { height, width } => write!(f, "as large as fits into {height} × {width}"),
            Resize::Original => write!(f, "as the picture is"),
        }
    }
}

impl Pixels {
    /// ImageNet's mean and deviation with DETR's resize rule (800, at most 1333).
    pub fn detr() -> Self {
        Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], resize: Resize::ShortestSide { short: 800, long: 1333 } }
    }
}

impl ResNet {
    /// Whether the blocks have three convolutions.
    pub fn is_bottleneck(&self) -> bool {
        self.stages.iter().flat_map(|s| &s.blocks).any(|b| b.inner.len() == 2)
    }
}

impl Backbone {
    /// Channels of the feature map.
    pub fn channels(&self) -> usize {
        match self {
            Backbone::Resnet(net) => net.stages.last().map_or(net.stem, |s| s.channels),
            Backbone::EfficientNetLite(net) => net.stages.iter().flatten().last().map_or(net.stem, |b| b.channels),
        }
    }

    /// How many stages follow the stem.
    pub fn stages(&self) -> usize {
        match self {
            Backbone::Resnet(net) => net.stages.len(),
            Backbone::EfficientNetLite(net) => net.stages.len(),
        }
    }

    /// How many blocks all stages have.
    pub fn blocks(&self) -> usize {
        self.first_block(self.stages())
    }

    /// The first block of a stage (counted from 0), counted over all stages.
    pub fn first_block(&self, stage: usize) -> usize {
        match self {
            Backbone::Resnet(net) => net.stages.iter().take(stage).map(|stage| stage.blocks.len()).sum(),
            Backbone::EfficientNetLite(net) => net.stages.iter().take(stage).map(Vec::len).sum(),
        }
    }

    /// What the tensors of a block are called by, counted over all stages.
    pub fn block_name(&self, block: usize) -> String {
        let stage = (0..self.stages()).rev().find(|&stage| self.first_block(stage) <= block).unwrap_or(0);
        format!("{}.block{}", self.stage_name(stage), block - self.first_block(stage))
    }

    /// What the tensors of a stage (counted from 0) are called by: torchvision counts from 1, timm's EfficientNet from 0.
    pub fn stage_name(&self, stage: usize) -> String {
        match self {
            Backbone::Resnet(_) => format!("stage{}", stage + 1),
            Backbone::EfficientNetLite(_) => format!("stage{stage}"),
        }
    }

    /// Rows and columns of the features, from those of the map that a stage (counted from 0) is given.
    pub fn reduced(&self, stage: usize, size: [usize; 2]) -> [usize; 2] {
        // Both pad so that a stride rounds up.
        let strides: usize = match self {
            Backbone::Resnet(net) => net.stages.iter().skip(stage).flat_map(|stage| &stage.blocks).map(|block| block.stride).product(),
            Backbone::EfficientNetLite(net) => net.stages.iter().skip(stage).flatten().map(|block| block.stride).product(),
        };
        size.map(|side| side.div_ceil(strides))
    }
}
