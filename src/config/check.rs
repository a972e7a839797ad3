//! What every config must keep to, whoever wrote the file that it came from.

use super::*;
use crate::error::{Error, Result};

/// More channels, queries or neurons than any detector has.
const MAX_WIDTH: usize = 1 << 16;
/// More layers than any transformer has, and more blocks than any backbone.
const MAX_LAYERS: usize = 1024;
/// More than any kernel's side, stride or dilation.
const MAX_WINDOW: usize = 32;
/// A larger input than any detector is given.
pub(crate) const MAX_SIDE: usize = 8192;

impl Config {
    /// Refuses what no network can have, so that later code needn't look again: with sizes bounded, products of a few don't overflow.
    pub fn check(&self) -> Result<()> {
        let of_decoder = self.decoder.iter().flat_map(|l| l.self_attention.into_iter().chain([l.cross_attention]));
        let attentions = self.encoder.iter().map(|l| l.self_attention).chain(of_decoder);
        let folded = self.decoder.first().is_some_and(|l| l.self_attention.is_none());
        let mut widths = vec![self.d_model, self.queries, self.classes];
        widths.extend(self.encoder.iter().map(|l| l.ffn).chain(self.decoder.iter().map(|l| l.ffn)));
        widths.extend(self.backbone.widths());
        let blocks_fit = match &self.backbone {
            Backbone::Resnet(net) => net.blocks_fit(),
            Backbone::EfficientNetLite(net) => net.blocks_fit(),
        };
        let attention_fits = |a: Attention| a.heads.checked_mul(a.head_width).is_some_and(|width| (1..=MAX_WIDTH).contains(&width));
        let size_fits = match self.pixels.resize {
            Resize::ShortestSide { short, long } => short > 0 && long >= short && long <= MAX_SIDE,
            Resize::Stretch { height, width } | Resize::Within { height, width } => {
                (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width)
            }
            Resize::Original => true,
        };
        let no_object = usize::from(self.class_activation == ClassActivation::Softmax);
        let layers = self.encoder.len().max(self.decoder.len()).max(self.backbone.stages()).max(self.backbone.blocks());
        for (fits, problem) in [
            (layers <= MAX_LAYERS, format!("{layers} layers or blocks are more than the {MAX_LAYERS} that detrim reads")),
            (self.d_model > 0 && self.d_model.is_multiple_of(4), format!("d_model must be a multiple of 4, not {}", self.d_model)),
            (self.queries > 0, "there must be at least one query".into()),
            (self.classes > no_object, format!("{} class logits leave no class", self.classes)),
            (self.labels.len() + no_object == self.classes, format!("{} labels don't go with {} class logits", self.labels.len(), self.classes)),
            (widths.iter().all(|width| (1..=MAX_WIDTH).contains(width)), format!("every width must be from 1 to {MAX_WIDTH}")),
            (attentions.into_iter().all(attention_fits), format!("the heads of every attention must be from 1 to {MAX_WIDTH} wide together")),
            (self.decoder.iter().skip(1).all(|l| l.self_attention.is_some()), "only the first decoder layer may do without self-attention".into()),
            (!folded || self.query_content, "a decoder without its first self-attention needs query contents: what that gave".into()),
            (blocks_fit, "a block of the backbone has an impossible stride, dilation, kernel, shortcut or number of convolutions".into()),
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

impl Backbone {
    /// The channels of all its convolutions.
    fn widths(&self) -> Vec<usize> {
        match self {
            Backbone::Resnet(net) => {
                let stages = net.stages.iter().flat_map(|s| s.blocks.iter().flat_map(|b| b.inner.iter().copied()).chain([s.channels]));
                stages.chain([net.stem]).collect()
            }
            Backbone::EfficientNetLite(net) => {
                let blocks = net.stages.iter().flatten().flat_map(|b| [b.channels, b.expansion.unwrap_or(1)]);
                blocks.chain([net.stem]).collect()
            }
        }
    }
}

fn windows_fit(sizes: &[usize]) -> bool {
    sizes.iter().all(|size| (1..=MAX_WINDOW).contains(size))
}

impl ResNet {
    fn blocks_fit(&self) -> bool {
        let mut input = self.stem;
        self.stages.iter().all(|stage| {
            let mut fits = !stage.blocks.is_empty();
            for block in &stage.blocks {
                fits &= matches!(block.inner.len(), 1 | 2) && windows_fit(&[block.stride, block.dilation, block.second_dilation.unwrap_or(1)]);
                // The identity can't change the shape.
                fits &= block.projection || (block.stride == 1 && input == stage.channels);
                input = stage.channels;
            }
            fits
        })
    }
}

impl EfficientNetLite {
    fn blocks_fit(&self) -> bool {
        let mut input = self.stem;
        self.stages.iter().flatten().all(|block| {
            let fits = windows_fit(&[block.kernel, block.stride]) && (!block.residual || (block.stride == 1 && input == block.channels));
            input = block.channels;
            fits
        })
    }
}
