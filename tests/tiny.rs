//! A DETR as small as can be, as Hugging Face would save it: for tests of reading.

use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name: their shapes; every number is a half.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// ResNet of four basic blocks of 4 channels, d_model 8, one encoder and one decoder layer, FFN 6, 3 queries, 4 logits.
pub fn hugging_face() -> Shapes {
    let mut shapes = Shapes::new();
    let mut put = |name: &str, shape: &[usize]| {
        shapes.insert(name.to_string(), shape.to_vec());
    };
    let mut convolution = |conv: &str, norm: &str, shape: &[usize]| {
        put(&format!("model.backbone.conv_encoder.model.{conv}.weight"), shape);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            put(&format!("model.backbone.conv_encoder.model.{norm}.{part}"), &shape[..1]);
        }
    };
    convolution("conv1", "bn1", &[4, 3, 7, 7]);
    for stage in 1..=4 {
        convolution(&format!("layer{stage}.0.conv1"), &format!("layer{stage}.0.bn1"), &[4, 4, 3, 3]);
        convolution(&format!("layer{stage}.0.conv2"), &format!("layer{stage}.0.bn2"), &[4, 4, 3, 3]);
        if stage > 1 {
            convolution(&format!("layer{stage}.0.downsample.0"), &format!("layer{stage}.0.downsample.1"), &[4, 4, 1, 1]);
        }
    }
    let mut linear = |name: &str, shape: &[usize]| {
        put(&format!("{name}.weight"), shape);
        put(&format!("{name}.bias"), &shape[..1]);
    };
    linear("model.input_projection", &[8, 4, 1, 1]);
    for (layer, attentions) in [("model.encoder.layers.0", &["self_attn"][..]), ("model.decoder.layers.0", &["self_attn", "encoder_attn"])] {
        for attention in attentions {
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                linear(&format!("{layer}.{attention}.{part}"), &[8, 8]);
            }
            linear(&format!("{layer}.{attention}_layer_norm"), &[8]);
        }
        linear(&format!("{layer}.fc1"), &[6, 8]);
        linear(&format!("{layer}.fc2"), &[8, 6]);
        linear(&format!("{layer}.final_layer_norm"), &[8]);
    }
    linear("model.decoder.layernorm", &[8]);
    linear("class_labels_classifier", &[4, 8]);
    linear("bbox_predictor.layers.0", &[8, 8]);
    linear("bbox_predictor.layers.1", &[8, 8]);
    linear("bbox_predictor.layers.2", &[4, 8]);
    put("model.query_position_embeddings.weight", &[3, 8]);
    shapes
}

/// The file's bytes.
pub fn bytes(shapes: &Shapes) -> Vec<u8> {
    safetensors::serialize(shapes.iter().map(|(name, shape)| (name, Halves(shape))), None).unwrap()
}

/// Writes `model.safetensors` and, if given, `config.json` into a directory.
pub fn save(directory: &Path, shapes: &Shapes, config: Option<&str>) {
    std::fs::write(directory.join("model.safetensors"), bytes(shapes)).unwrap();
    if let Some(config) = config {
        std::fs::write(directory.join("config.json"), config).unwrap();
    }
}

struct Halves<'a>(&'a [usize]);

impl View for Halves<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0
    }

    fn data(&self) -> Cow<'_, [u8]> {
        0.5f32.to_le_bytes().repeat(self.0.iter().product()).into()
    }

    fn data_len(&self) -> usize {
        4 * self.0.iter().product::<usize>()
    }
}
