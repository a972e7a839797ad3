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

/// A device that the network runs on. Every operation ends in `activation(result + bias + residual)`, where it has these.
pub trait Backend {
    /// An activation on the device. Cloning shares memory.
    type Tensor: Clone;
    /// A convolution's weights and window, prepared for the device.
    type Conv;
    /// A depthwise convolution's weights and window, prepared for the device.
    type Depthwise;
    /// A linear map's weights, prepared for the device.
    type Linear;
    /// A layer norm's weights, prepared for the device.
    type Norm;

    /// `name` (here and below) is that of the layer in `weights.rs`. `weight` `[out, kernel height, kernel width, in]`, `bias` `[out]`.
    fn load_conv(&self, name: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Self::Conv>;
    /// `weight` `[kernel height, kernel width, channels]`, `bias` `[channels]`.
    fn load_depthwise(&self, name: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Self::Depthwise>;
    /// `weight` `[out, in]`, `bias` `[out]`.
    fn load_linear(&self, name: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Self::Linear>;
    /// `weight` and `bias` `[width]`.
    fn load_norm(&self, name: &str, weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<Self::Norm>;
    /// A tensor that doesn't depend on the picture.
    fn constant(&self, tensor: &HostTensor) -> Result<Self::Tensor>;

    fn shape(&self, x: &Self::Tensor) -> Vec<usize>;
    /// The same numbers in another shape of the same size; no copy.
    fn reshape(&self, x: &Self::Tensor, shape: &[usize]) -> Result<Self::Tensor>;

    /// `x` `[batch, height, width, in]` → `[batch, out height, out width, out]`; `residual` as the output.
    fn conv(&self, x: &Self::Tensor, conv: &Self::Conv, activation: Activation, residual: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// `x` `[batch, height, width, channels]` → `[batch, out height, out width, channels]`.
    fn depthwise(&self, x: &Self::Tensor, conv: &Self::Depthwise, activation: Activation) -> Result<Self::Tensor>;
    /// Largest value of each window; padding never wins. `[batch, height, width, channels]` as [`Backend::depthwise`].
    fn max_pool(&self, x: &Self::Tensor, window: Window) -> Result<Self::Tensor>;
    /// `x` `[…, in]` → `[…, out]`; `residual` as the output.
    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear, activation: Activation, residual: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// softmax(q·kᵀ/√head_width + bias)·v in each head. `q` `[batch, queries, heads * head_width]`, `k` and `v`
    /// `[batch, keys, heads * head_width]`; `bias` `[batch or 1, queries or 1, keys]`, very negative where a key must not be seen.
    fn attention(&self, q: &Self::Tensor, k: &Self::Tensor, v: &Self::Tensor, heads: usize, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// Layer norm over the last dimension.
    fn layer_norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor>;
    /// activation(a + b); `b` has `a`'s shape, or 1 as its batch.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;

    /// The network has come to a stage: `backbone`, `position`, `projected`, `encoder_layer0`…, `decoder_layer0`…, `decoder_out`, `logits`,
    /// `pred_boxes`. Nobody looks unless the backend is watched ([`Watch`](crate::watch::Watch)).
    fn stage(&self, _name: &str, _x: &Self::Tensor) -> Result<()> {
        Ok(())
    }
}
