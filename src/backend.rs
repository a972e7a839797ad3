//! What a device must be able to do to run the network.
//!
//! A dozen coarse operations, each with its epilogue, are all that `model/` uses. Activations are channels-last:
//! pictures and feature maps `[batch, height, width, channels]`, tokens `[batch, tokens, width]`, so that a
//! feature map is a list of tokens without a copy and a 1×1 convolution is a linear map.
//!
//! A backend either computes at once (`cpu`) or records what a later replay will compute (`gpu`); the network
//! can't tell the difference. Dropping a tensor frees its memory for the operations that follow.

use crate::config::Activation;
use crate::error::Result;
use crate::weights::HostTensor;
use serde::{Deserialize, Serialize};

/// How a window moves over a feature map. Padding may differ per side (TensorFlow's "same" pads more below and on the right).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    pub stride: usize,
    pub dilation: usize,
    pub padding: Padding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// The same number on all four sides.
    Even(usize),
    /// TensorFlow's "same": the output has ⌈input / stride⌉ places; the odd one out is padded below or on the right.
    Same,
}

/// Where a [`Window`] lies on an input of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Padding above and on the left. (What lies below and on the right follows from the output's size.)
    pub top: usize,
    pub left: usize,
    pub out_height: usize,
    pub out_width: usize,
}

impl Window {
    pub const fn new(kernel: usize, stride: usize, padding: Padding) -> Self {
        Self { kernel: [kernel, kernel], stride, dilation: 1, padding }
    }

    pub const fn dilated(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// Whether this is a plain linear map on every place.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && matches!(self.padding, Padding::Same | Padding::Even(0))
    }

    /// Padding and output size on an input of `height` by `width`. Zero places where the kernel doesn't fit.
    pub fn place(&self, height: usize, width: usize) -> Placement {
        let ([top, out_height], [left, out_width]) = (self.along(height, self.kernel[0]), self.along(width, self.kernel[1]));
        Placement { top, left, out_height, out_width }
    }

    /// Padding before the first place, and the number of places, in one direction.
    fn along(&self, input: usize, kernel: usize) -> [usize; 2] {
        let reach = (kernel - 1) * self.dilation + 1;
        match self.padding {
            Padding::Even(padding) => {
                let places = (input + 2 * padding).checked_sub(reach).map_or(0, |room| room / self.stride + 1);
                [padding, places]
            }
            Padding::Same => {
                let places = input.div_ceil(self.stride);
                let total = (places.saturating_sub(1) * self.stride + reach).saturating_sub(input);
                [total / 2, places]
            }
        }
    }
}

/// What a pool takes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The largest value; padding never wins (`torch.nn.MaxPool2d`).
    Max,
    /// The largest value, where padding counts as zeros (a max pool after `torch.nn.functional.pad`).
    MaxOfZeroPadded,
    /// The mean, where padding counts as zeros (`torch.nn.AvgPool2d`).
    Average,
    /// The mean of what lies within the map (`count_include_pad=False`).
    AverageWithin,
}

/// How a sampled location becomes a value of the feature map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplingMethod {
    /// Bilinear, zeros outside (`grid_sample` with `align_corners=False`).
    #[default]
    Default,
    /// The nearest place: `floor(location * size + 0.5)`, clamped into the map (RT-DETRv2's `discrete`).
    Discrete,
}

/// The fixed numbers of a multi-scale deformable attention ("Deformable DETR", Zhu et al., 2020, arXiv:2010.04159; one number of points for
/// each level as in RT-DETRv2 and D-FINE).
#[derive(Clone, Debug, PartialEq)]
pub struct Deformable {
    pub heads: usize,
    /// Height and width of each level's feature map; their tokens follow one another.
    pub levels: Vec<[usize; 2]>,
    /// Sampling points of a head on each level.
    pub points: Vec<usize>,
    /// A point lies at `centre + offset / points of its level * size of the box * offset_scale`.
    pub offset_scale: f32,
    pub method: SamplingMethod,
}

impl Deformable {
    /// Sampling points of a head on all levels.
    pub fn all_points(&self) -> usize {
        self.points.iter().sum()
    }

    /// Tokens of all levels.
    pub fn tokens(&self) -> usize {
        self.levels.iter().map(|[height, width]| height * width).sum()
    }
}

/// A device that the network runs on. Every operation ends in `activation(result + bias + residual)`, where it has these.
pub trait Backend {
    /// An activation on the device. Cloning shares memory.
    type Tensor: Clone;
    /// Numbers of chosen tokens `[batch, k]`, on the device.
    type Indices: Clone;
    /// A convolution's weights and window, prepared for the device.
    type Conv;
    /// A depthwise convolution's weights and window, prepared for the device.
    type Depthwise;
    /// A linear map's weights, prepared for the device.
    type Linear;
    /// A layer norm's weights, prepared for the device.
    type Norm;

    /// `name` (here and below) is that of the layer in `weights.rs`. `weight` `[out, kernel height, kernel width, in]`, `bias` `[out]`.
    /// `affine` `[2]`, a scale and a shift, acts on all channels after the activation (HGNetV2's `LearnableAffineBlock`).
    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Self::Conv>;
    /// `weight` `[kernel height, kernel width, channels]`, `bias` `[channels]`, `affine` as for [`Backend::load_conv`].
    fn load_depthwise(
        &self,
        name: &str,
        weight: &HostTensor,
        bias: &HostTensor,
        affine: Option<&HostTensor>,
        window: Window,
    ) -> Result<Self::Depthwise>;
    /// `weight` `[out, in]`, `bias` `[out]`.
    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Self::Linear>;
    /// Layer norm: `weight` and `bias` `[width]`. Without a bias it is an RMS norm: the mean isn't taken out ("Root Mean Square Layer
    /// Normalization", Zhang and Sennrich, 2019, arXiv:1910.07467).
    fn load_norm(&self, name: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Self::Norm>;
    /// A tensor that doesn't depend on the picture.
    fn constant(&self, tensor: &HostTensor) -> Result<Self::Tensor>;
    /// A learnt tensor that is no layer's weight, `name` as in `weights.rs`.
    fn learnt(&self, _name: &str, tensor: &HostTensor) -> Result<Self::Tensor> {
        self.constant(tensor)
    }

    /// The same numbers, through which no gradient goes back: what training takes as given (`torch.Tensor.detach`).
    fn detach(&self, x: &Self::Tensor) -> Self::Tensor {
        x.clone()
    }

    fn shape(&self, x: &Self::Tensor) -> Vec<usize>;
    /// The same numbers in another shape of the same size; no copy.
    fn reshape(&self, x: &Self::Tensor, shape: &[usize]) -> Result<Self::Tensor>;

    /// `x` `[batch, height, width, in]` → `[batch, out height, out width, out]`; `residual` as the output.
    fn conv(&self, x: &Self::Tensor, conv: &Self::Conv, activation: Activation, residual: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// `x` `[batch, height, width, channels]` → `[batch, out height, out width, channels]`.
    fn depthwise(&self, x: &Self::Tensor, conv: &Self::Depthwise, activation: Activation) -> Result<Self::Tensor>;
    /// One value for each window and channel: `[batch, height, width, channels]` as [`Backend::depthwise`].
    fn pool(&self, x: &Self::Tensor, window: Window, pool: Pool) -> Result<Self::Tensor>;
    /// Each place four times (nearest neighbour): `[batch, height, width, channels]` → `[batch, 2 * height, 2 * width, channels]`.
    fn upsample(&self, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// Joins tensors that are alike but for `axis`, one after another.
    fn concat(&self, parts: &[&Self::Tensor], axis: usize) -> Result<Self::Tensor>;
    /// Channels `start..start + length` of the last axis (`torch.narrow`).
    fn narrow(&self, x: &Self::Tensor, start: usize, length: usize) -> Result<Self::Tensor>;
    /// `x` `[…, in]` → `[…, out]`; `residual` as the output.
    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear, activation: Activation, residual: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// softmax(q·kᵀ/√head_width + bias)·v in each head. `q` `[batch, queries, heads * head_width]`, `k` and `v`
    /// `[batch, keys, heads * head_width]`; `bias` `[batch or 1, queries or 1, keys]`, very negative where a key must not be seen.
    fn attention(&self, q: &Self::Tensor, k: &Self::Tensor, v: &Self::Tensor, heads: usize, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// Multi-scale deformable attention: each query's heads look at a few points around its box. `value` `[batch, tokens, heads * head_width]`,
    /// `offsets` `[batch, queries, heads * points * 2]` (x, y), `weights` `[batch, queries, heads * points]` before their softmax over a head's
    /// points, `boxes` `[batch, queries, 4]` (centre x, centre y, width, height) in fractions of the picture → `[batch, queries, heads * head_width]`.
    fn deformable_attention(
        &self,
        value: &Self::Tensor,
        offsets: &Self::Tensor,
        weights: &Self::Tensor,
        boxes: &Self::Tensor,
        deformable: &Deformable,
    ) -> Result<Self::Tensor>;
    /// The norm over the last dimension.
    fn norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor>;
    /// activation(a + b). Each dimension of `b` is `a`'s, or 1.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    /// a · b, element by element. Each dimension of `b` is `a`'s, or 1.
    fn multiply(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    fn clamp(&self, x: &Self::Tensor, min: f32, max: f32) -> Result<Self::Tensor>;
    /// Softmax over the last axis.
    fn softmax(&self, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// The `k` largest values of the last axis, the largest first: `[…, n]` → `[…, k]`.
    fn top_values(&self, x: &Self::Tensor, k: usize) -> Result<Self::Tensor>;
    /// The `k` tokens whose best score is highest, the best first, of equals the first: `scores` `[batch, tokens, classes]` → `[batch, k]`.
    fn top_tokens(&self, scores: &Self::Tensor, k: usize) -> Result<Self::Indices>;
    /// The rows of chosen tokens: `x` `[batch or 1, tokens, width]` → `[batch, k, width]`.
    fn gather(&self, x: &Self::Tensor, indices: &Self::Indices) -> Result<Self::Tensor>;
    /// The numbers of chosen tokens as a tensor `[batch, k]`.
    fn index_values(&self, indices: &Self::Indices) -> Result<Self::Tensor>;

    /// The network has come to a stage: `backbone`, `position`, `projected`, `encoder_layer0`…, `decoder_layer0`…, `decoder_out`, `logits`,
    /// `pred_boxes`. Nobody looks unless the backend is watched ([`Watch`](crate::watch::Watch)).
    fn stage(&self, _name: &str, _x: &Self::Tensor) -> Result<()> {
        Ok(())
    }
}
