//! What is stated about a DETR: by Hugging Face's `config.json` (old and new layouts, and what detrim adds to it), or by what the training
//! program was started with, which facebookresearch/detr keeps in its checkpoints.

use crate::config::{Activation, ClassActivation, Resize};
use serde::Deserialize;
use serde_json::{Map, Value};

/// `config.json`, as far as the network's architecture depends on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stated {
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

impl Stated {
    /// Of the options of facebookresearch/detr's `main.py`. Other programs have other options, or these with other meanings: what has
    /// another type than there is left out.
    pub fn of_options(options: &Map<String, Value>) -> Self {
        let number = |key: &str| options.get(key)?.as_u64().and_then(|number| usize::try_from(number).ok());
        let text = |key: &str| options.get(key)?.as_str();
        let all = |key: &str| number(key).map(PerLayer::All);
        let position = text("position_embedding").map(|kind| match kind {
            "v2" => "sine",
            "v3" => "learned",
            other => other,
        });
        Self {
            d_model: number("hidden_dim"),
            num_queries: number("num_queries"),
            encoder_layers: number("enc_layers"),
            decoder_layers: number("dec_layers"),
            encoder_attention_heads: all("nheads"),
            decoder_attention_heads: all("nheads"),
            encoder_ffn_dim: all("dim_feedforward"),
            decoder_ffn_dim: all("dim_feedforward"),
            position_embedding_type: position.map(Into::into),
            backbone: text("backbone").map(Into::into),
            dilation: options.get("dilation").and_then(Value::as_bool),
            ..Self::default()
        }
    }

    /// What this says, and where it says nothing, what the other does.
    pub fn or(self, other: Self) -> Self {
        Self {
            d_model: self.d_model.or(other.d_model),
            num_queries: self.num_queries.or(other.num_queries),
            encoder_layers: self.encoder_layers.or(other.encoder_layers),
            decoder_layers: self.decoder_layers.or(other.decoder_layers),
            encoder_attention_heads: self.encoder_attention_heads.or(other.encoder_attention_heads),
            decoder_attention_heads: self.decoder_attention_heads.or(other.decoder_attention_heads),
            encoder_ffn_dim: self.encoder_ffn_dim.or(other.encoder_ffn_dim),
            decoder_ffn_dim: self.decoder_ffn_dim.or(other.decoder_ffn_dim),
            head_width: self.head_width.or(other.head_width),
            activation_function: self.activation_function.or(other.activation_function),
            position_embedding_type: self.position_embedding_type.or(other.position_embedding_type),
            backbone: self.backbone.or(other.backbone),
            backbone_config: self.backbone_config.or(other.backbone_config),
            dilation: self.dilation.or(other.dilation),
            num_labels: self.num_labels.or(other.num_labels),
            class_activation: self.class_activation.or(other.class_activation),
            pixels: self.pixels.or(other.pixels),
        }
    }

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

    /// Refuses what our network can't be.
    pub fn check(&self) -> Result<(), String> {
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
