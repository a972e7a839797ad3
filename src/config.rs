//! The architecture of a detector as data.
//!
//! Everything that trimming may change is stated per layer (heads, FFN width) or per block
//! (channels), so that a trimmed network is just another [`Config`]: no masks and no special cases
//! at run time. The shapes follow "End-to-End Object Detection with Transformers" (Carion et al.,
//! 2020) and `models/detr.py` of its repository.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// More channels, queries or neurons than any detector has.
const MAX_WIDTH: usize = 1 << 16;
/// More than any kernel's side, stride or dilation.
const MAX_WINDOW: usize = 32;
/// A larger input than any detector is given.
const MAX_SIDE: usize = 8192;

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
    pub self_attention: Attention,
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

    /// torchvision's ResNet of a depth (18, 34, 50 or 101); with `dilated` the last stage keeps its resolution (DC5).
    pub fn of_depth(depth: usize, dilated: bool) -> Option<Self> {
        let (counts, bottleneck) = match depth {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            _ => return None,
        };
        let mut input = 64;
        let stages = counts.iter().enumerate().map(|(s, &count)| {
            let width = 64 << s;
            let channels = if bottleneck { 4 * width } else { width };
            let dilate = dilated && s == 3;
            let blocks = (0..count).map(|b| {
                let stride = if b == 0 && s > 0 && !dilate { 2 } else { 1 };
                ResNetBlock {
                    inner: if bottleneck { vec![width, width] } else { vec![width] },
                    stride,
                    // The first block of a dilated stage keeps the previous dilation, as in torchvision and timm.
                    dilation: if dilate && b > 0 { 2 } else { 1 },
                    projection: b == 0 && (s > 0 || input != channels),
                }
            });
            let stage = ResNetStage { channels, blocks: blocks.collect() };
            input = channels;
            stage
        });
        Some(Self { stem: 64, stages: stages.collect() })
    }
}

impl EfficientNetLite {
    /// timm's `tf_efficientnet_lite0` up to its last stage (320 channels, stride 32).
    pub fn lite0() -> Self {
        // (blocks, kernel, stride, expansion ratio, channels)
        let stages =
            [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)];
        let mut input = 32;
        let stages = stages.map(|(count, kernel, stride, ratio, channels)| {
            let blocks = (0..count).map(|b| {
                let block = InvertedResidual {
                    expansion: (ratio > 1).then_some(input * ratio),
                    kernel,
                    stride: if b == 0 { stride } else { 1 },
                    channels,
                    residual: b > 0 || (stride == 1 && input == channels),
                };
                input = channels;
                block
            });
            blocks.collect()
        });
        Self { stem: 32, stages: stages.into() }
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
}

impl Config {
    /// The paper's transformer on a backbone: 6 + 6 layers of 8 heads, 100 queries, COCO's classes.
    pub fn detr(backbone: Backbone) -> Self {
        let (attention, ffn) = (Attention { heads: 8, head_width: 32 }, 2048);
        Self {
            backbone,
            d_model: 256,
            encoder: vec![EncoderLayer { self_attention: attention, ffn }; 6],
            decoder: vec![DecoderLayer { self_attention: attention, cross_attention: attention, ffn }; 6],
            queries: 100,
            classes: 92,
            activation: Activation::Relu,
            class_activation: ClassActivation::Softmax,
            query_content: false,
            box_reference: false,
            labels: Label::coco91(),
            pixels: Pixels::detr(),
        }
    }

    /// Refuses what no network can have, so that later code needn't look again: with sizes bounded, products of a few don't overflow.
    pub fn check(&self) -> Result<()> {
        let attentions = self.encoder.iter().map(|l| l.self_attention).chain(self.decoder.iter().flat_map(|l| [l.self_attention, l.cross_attention]));
        let mut widths = vec![self.d_model, self.queries, self.classes];
        widths.extend(self.encoder.iter().map(|l| l.ffn).chain(self.decoder.iter().map(|l| l.ffn)));
        let blocks_fit = match &self.backbone {
            Backbone::Resnet(net) => {
                widths.push(net.stem);
                widths.extend(net.stages.iter().flat_map(|s| s.blocks.iter().flat_map(|b| &b.inner).chain([&s.channels])));
                let mut blocks = net.stages.iter().flat_map(|s| &s.blocks);
                blocks.all(|b| matches!(b.inner.len(), 1 | 2) && (1..=MAX_WINDOW).contains(&b.stride) && (1..=MAX_WINDOW).contains(&b.dilation))
            }
            Backbone::EfficientNetLite(net) => {
                widths.push(net.stem);
                widths.extend(net.stages.iter().flatten().flat_map(|b| [b.channels, b.expansion.unwrap_or(1)]));
                net.stages.iter().flatten().all(|b| (1..=MAX_WINDOW).contains(&b.kernel) && (1..=MAX_WINDOW).contains(&b.stride))
            }
        };
        let attention_fits = |a: Attention| a.heads.checked_mul(a.head_width).is_some_and(|width| (1..=MAX_WIDTH).contains(&width));
        let size_fits = match self.pixels.resize {
            Resize::ShortestSide { short, long } => short > 0 && long >= short && long <= MAX_SIDE,
            Resize::Stretch { height, width } => (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width),
        };
        let no_object = usize::from(self.class_activation == ClassActivation::Softmax);
        for (fits, problem) in [
            (self.d_model > 0 && self.d_model.is_multiple_of(4), format!("d_model must be a multiple of 4, not {}", self.d_model)),
            (self.queries > 0, "there must be at least one query".into()),
            (self.classes > no_object, format!("{} class logits leave no class", self.classes)),
            (self.labels.len() + no_object == self.classes, format!("{} labels don't go with {} class logits", self.labels.len(), self.classes)),
            (widths.iter().all(|width| (1..=MAX_WIDTH).contains(width)), format!("every width must be from 1 to {MAX_WIDTH}")),
            (attentions.into_iter().all(attention_fits), format!("the heads of every attention must be from 1 to {MAX_WIDTH} wide together")),
            (blocks_fit, "a backbone block has an impossible stride, dilation, kernel or number of convolutions".into()),
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
