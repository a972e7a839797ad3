//! Architectures that have a name: the paper's transformer, torchvision's ResNets, EfficientNet-Lite0.

use super::*;

impl Config {
    /// The paper's transformer on a backbone: 6 + 6 layers of 8 heads, 100 queries, COCO's classes.
    pub fn detr(backbone: Backbone) -> Self {
        let (attention, ffn) = (Attention { heads: 8, head_width: 32 }, 2048);
        Self {
            backbone,
            d_model: 256,
            encoder: vec![EncoderLayer { self_attention: attention, ffn }; 6],
            decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn }; 6],
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
}

impl ResNetBlock {
    /// The same block in a stage that is dilated instead of strided. The stage's `first` block keeps the previous dilation in its
    /// first 3×3 convolution, as in torchvision (bottleneck blocks) and timm (both kinds).
    pub fn dilated(self, first: bool) -> Self {
        let second_dilation = (first && self.inner.len() == 1).then_some(2);
        Self { stride: 1, dilation: if first { 1 } else { 2 }, second_dilation, ..self }
    }
}

impl ResNet {
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
                let inner = if bottleneck { vec![width, width] } else { vec![width] };
                let block = ResNetBlock { inner, stride, dilation: 1, second_dilation: None, projection: b == 0 && (s > 0 || input != channels) };
                if dilate { block.dilated(b == 0) } else { block }
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
