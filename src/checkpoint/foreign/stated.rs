//! What the files beside a foreign checkpoint say about it: Hugging Face's `config.json` (old and new layouts, and what
//! detrim adds to it) and `preprocessor_config.json`.

use crate::config::{Activation, ClassActivation, Resize};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// `config.json`, as far as the network's architecture depends on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stated {
    pub model_type: Option<String>,
    pub d_model: Option<usize>,
    pub num_queries: Option<usize>,
    pub encoder_layers: Option<usize>,
    pub decoder_layers: Option<usize>,
    pub encoder_attention_heads: Option<PerLayer>,
    pub decoder_attention_heads: Option<PerLayer>,
    pub encoder_ffn_dim: Option<PerLayer>,
    pub decoder_ffn_dim: Option<PerLayer>,
    /// Ours: the width of every head, where it isn't `d_model / heads`.
    pub head_width: Option<usize>,
    pub activation_function: Option<Activation>,
    pub position_embedding_type: Option<String>,
    pub backbone: Option<String>,
    pub backbone_config: Option<StatedBackbone>,
    pub dilation: Option<bool>,
    pub num_labels: Option<usize>,
    pub id2label: Option<BTreeMap<String, String>>,
    /// Ours.
    pub class_activation: Option<ClassActivation>,
    /// Ours.
    pub pixels: Option<StatedPixels>,
}

/// One number for all layers or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PerLayer {
    All(usize),
    Each(Vec<usize>),
}

/// The new layout's part about the backbone: timm's by name, transformers' own by sizes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StatedBackbone {
    pub model_type: Option<String>,
    pub backbone: Option<String>,
    pub output_stride: Option<usize>,
    pub depths: Option<Vec<usize>>,
    pub hidden_sizes: Option<Vec<usize>>,
    pub embedding_size: Option<usize>,
    pub layer_type: Option<String>,
    pub hidden_act: Option<String>,
    pub downsample_in_first_stage: Option<bool>,
    pub downsample_in_bottleneck: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct StatedPixels {
    /// `stretch` or `shortest_side`.
    pub resize: String,
    /// Height and width, or the short side and the longest that the long one may be.
    pub size: [usize; 2],
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// `preprocessor_config.json`, which has had several layouts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Preprocessor {
    size: Option<Value>,
    max_size: Option<usize>,
    pub image_mean: Option<[f32; 3]>,
    pub image_std: Option<[f32; 3]>,
    pub do_normalize: Option<bool>,
}

impl PerLayer {
    pub fn of(&self, layer: usize) -> Option<usize> {
        match self {
            PerLayer::All(number) => Some(*number),
            PerLayer::Each(numbers) => numbers.get(layer).copied(),
        }
    }
}

impl StatedPixels {
    pub fn rule(&self) -> Result<Resize, String> {
        let [first, second] = self.size;
        match self.resize.as_str() {
            "stretch" => Ok(Resize::Stretch { height: first, width: second }),
            "shortest_side" => Ok(Resize::ShortestSide { short: first, long: second }),
            other => Err(format!("pixels.resize must be stretch or shortest_side, not {other}")),
        }
    }
}

impl Preprocessor {
    /// The rule for the input's size, where one is stated that we know.
    pub fn rule(&self) -> Option<Resize> {
        let size = self.size.as_ref()?;
        let number = |key: &str| usize::try_from(size.get(key)?.as_u64()?).ok();
        if let Some(short) = size.as_u64() {
            return Some(Resize::ShortestSide { short: usize::try_from(short).ok()?, long: self.max_size? });
        }
        if let (Some(short), Some(long)) = (number("shortest_edge"), number("longest_edge")) {
            return Some(Resize::ShortestSide { short, long });
        }
        Some(Resize::Stretch { height: number("height")?, width: number("width")? })
    }
}

impl Stated {
    /// timm's name of the backbone without its tag (`resnet50.a1_in1k`).
    pub fn backbone_name(&self) -> Option<&str> {
        let name = self.backbone_config.as_ref().and_then(|b| b.backbone.as_deref()).or(self.backbone.as_deref())?;
        name.split('.').next()
    }

    /// Whether the last stage is dilated (DC5).
    pub fn is_dilated(&self) -> Result<Option<bool>, String> {
        match self.backbone_config.as_ref().and_then(|b| b.output_stride) {
            Some(16) => Ok(Some(true)),
            Some(32) => Ok(Some(false)),
            Some(other) => Err(format!("an output stride of {other} is not supported (32, or 16 for DC5)")),
            None => Ok(self.dilation),
        }
    }

    /// The classes' names in the order of their logits.
    pub fn names(&self) -> Result<Option<Vec<String>>, String> {
        let Some(labels) = &self.id2label else { return Ok(None) };
        let names = (0..labels.len()).map(|i| labels.get(&i.to_string()).cloned().ok_or_else(|| format!("id2label has no entry {i}")));
        names.collect::<Result<_, _>>().map(Some)
    }

    /// Refuses what our network can't be.
    pub fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.model_type.as_deref().filter(|kind| *kind != "detr") {
            return Err(format!("config.json is about a model of type {kind}; only detr is supported"));
        }
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|kind| *kind != "sine") {
            return Err(format!("position embeddings of type {kind} are not supported (only sine)"));
        }
        if let Some(activation) = self.activation_function.filter(|a| !matches!(a, Activation::Relu | Activation::Gelu | Activation::Silu)) {
            return Err(format!("the activation function {activation:?} is not supported (relu, gelu or silu)"));
        }
        let Some(backbone) = &self.backbone_config else { return Ok(()) };
        if backbone.downsample_in_bottleneck == Some(true) {
            return Err("downsample_in_bottleneck is not supported".into());
        }
        if let Some(activation) = backbone.hidden_act.as_deref().filter(|name| *name != "relu") {
            return Err(format!("a backbone with the activation {activation} is not supported (only relu)"));
        }
        Ok(())
    }
}
