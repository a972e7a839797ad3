//! transformers' `config.json` of the family. `save_pretrained` leaves out what has its default, so that the defaults of the config classes
//! (`configuration_rt_detr.py` and its like, transformers 5.24) are part of what a file says.

use super::super::evidence::Evidence;
use crate::backend::SamplingMethod;
use crate::checkpoint::Guess;
use crate::checkpoint::class_names::from_names;
use crate::config::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Of every norm.
pub const EPSILON: f64 = 1e-5;

/// What `config.json` says under a name, or its default.
struct Stated<'a>(&'a Value);

impl Stated<'_> {
    fn get<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value.clone()).map_err(|error| format!("config.json: {name} is {value}: {error}")),
        }
    }

    fn activation(&self, name: &str, default: &str) -> Result<Activation, String> {
        let stated: String = self.get(name, default.into())?;
        match stated.as_str() {
            "relu" => Ok(Activation::Relu),
            "gelu" => Ok(Activation::Gelu),
            "silu" | "swish" => Ok(Activation::Silu),
            other => Err(format!("config.json: {name} is {other}; relu, gelu and silu are supported")),
        }
    }
}

pub fn config(model_type: ModelType, evidence: &Evidence, classes: usize, guess: &Guess, assumed: &mut Vec<String>) -> Result<RtDetr, String> {
    let stated = Value::Object(evidence.config.clone().unwrap_or_default());
    let stated = Stated(&stated);
    // DEIMv2 as it was trained, rather than as transformers 5.24 computes it: see `Guess::exact_transformers`.
    let as_trained = model_type == ModelType::Deimv2 && !guess.exact_transformers;
    for name in ["batch_norm_eps", "layer_norm_eps"] {
        let epsilon: f64 = stated.get(name, EPSILON)?;
        if epsilon != EPSILON {
            return Err(format!("config.json: {name} is {epsilon}; only {EPSILON} is supported"));
        }
    }
    let d_model: usize = stated.get("d_model", 256)?;
    let backbone = backbone(model_type, &stated)?;
    let maps = backbone.outputs().len();
    let neck = neck(model_type, &stated, as_trained)?;
    let widths: Vec<usize> = stated.get("decoder_in_channels", vec![256, 256, 256])?;
    let decoder_projection = match model_type {
        ModelType::RtDetr | ModelType::RtDetrV2 => true,
        ModelType::DFine | ModelType::Deimv2 => widths.last() != Some(&d_model),
    };
    let (maps, stated_levels): (usize, usize) = (neck.levels(maps), stated.get("num_feature_levels", 3)?);
    let extra_levels = stated_levels.checked_sub(maps);
    let extra_levels =
        extra_levels.ok_or_else(|| format!("config.json: num_feature_levels is {stated_levels}, but there are {maps} feature maps"))?;
    // transformers makes a second one of the same map as the first, and of maps that need no projection copies.
    if extra_levels > 1 || extra_levels == 1 && !decoder_projection {
        let problem = if decoder_projection { "only one more is supported" } else { "more are not supported where decoder_in_channels is d_model" };
        return Err(format!("config.json: num_feature_levels is {stated_levels}, but there are {maps} feature maps; {problem}"));
    }
    let levels = maps + extra_levels;
    if !stated.get("with_box_refine", true)? {
        return Err("config.json: with_box_refine is false: boxes that aren't refined are not supported".into());
    }
    if as_trained {
        assumed.push("DEIMv2 is computed as it was trained, which transformers 5.24 doesn't do (--exact-transformers: as that computes it)".into());
    }
    let labels = labels(evidence, classes, guess, assumed)?;
    let head_activation = if as_trained { Activation::Silu } else { Activation::Relu };
    let selection = Selection { output: !as_trained, activation: head_activation, learnt_content: stated.get("learn_initial_query", false)? };
    Ok(RtDetr {
        model_type,
        d_model,
        decoder_projection,
        extra_levels,
        selection,
        decoder: decoder(model_type, &stated, d_model, levels, as_trained, guess)?,
        queries: guess.queries.map_or_else(|| stated.get("num_queries", 300), Ok)?,
        classes: labels.len(),
        labels,
        pixels: pixels(evidence, guess, Resize::Stretch { height: 640, width: 640 }, "RT-DETR's", assumed)?,
        backbone,
        neck,
        sizes: Default::default(),
    })
}

/// Labels of the class logits: as they are named, else COCO's eighty.
pub fn labels(evidence: &Evidence, classes: usize, guess: &Guess, assumed: &mut Vec<String>) -> Result<Vec<Label>, String> {
    if let Some(names) = evidence.class_names(guess, classes)? {
        return names.labels(classes, assumed);
    }
    if classes == 80 {
        assumed.push("the classes are COCO's eighty (config.json names none; --class-names FILE says otherwise)".into());
        return Ok(Label::coco80());
    }
    assumed.push(format!("the {classes} classes have no names (--class-names FILE names them: a name a line, or a config.json with id2label)"));
    Ok(from_names((0..classes).map(|i| format!("class {i}")).collect()))
}

/// How pictures go in: as the caller or the preprocessor says, else stretched to the size that is `whose`, and without mean and deviation.
pub fn pixels(evidence: &Evidence, guess: &Guess, resize: Resize, whose: &str, assumed: &mut Vec<String>) -> Result<Pixels, String> {
    // These networks have no mask: what is filled up would be seen, and boxes be fractions of it.
    if let Some([height, width]) = evidence.padding()?.filter(|_| guess.resize.is_none()) {
        return Err(format!(
            "preprocessor_config.json: pad_size {height} × {width} is not supported for this architecture (--resize gives a size in its place)"
        ));
    }
    let default = Pixels { mean: [0.0; 3], std: [1.0; 3], resize };
    evidence.pixels(guess, None, default, [whose, "RT-DETR's"], assumed)
}

fn backbone(model_type: ModelType, stated: &Stated) -> Result<MultiScaleBackbone, String> {
    let Some(part) = stated.0.get("backbone_config").filter(|part| part.is_object()) else {
        return Err("config.json has no backbone_config: backbones by name (use_timm_backbone) are not supported".into());
    };
    let part = Stated(part);
    let default = match model_type {
        ModelType::RtDetr | ModelType::RtDetrV2 => "rt_detr_resnet",
        ModelType::DFine | ModelType::Deimv2 => "hgnet_v2",
    };
    let kind: String = part.get("model_type", default.into())?;
    match kind.as_str() {
        "rt_detr_resnet" => {
            let depths: Vec<usize> = part.get("depths", vec![3, 4, 6, 3])?;
            let layer_type: String = part.get("layer_type", "bottleneck".into())?;
            if part.activation("hidden_act", "relu")? != Activation::Relu {
                return Err("config.json: a backbone with another activation than relu is not supported".into());
            }
            Ok(MultiScaleBackbone::ResnetVd(ResNetVd {
                stem: part.get("embedding_size", 64)?,
                channels: part.get("hidden_sizes", vec![256, 512, 1024, 2048])?,
                basic: match layer_type.as_str() {
                    "basic" => true,
                    "bottleneck" => false,
                    other => return Err(format!("config.json: layer_type is {other}, expected basic or bottleneck")),
                },
                downsample_in_first_stage: part.get("downsample_in_first_stage", false)?,
                downsample_in_bottleneck: part.get("downsample_in_bottleneck", false)?,
                outputs: outputs(&part, depths.len())?,
                depths,
            }))
        }
        "hgnet_v2" => {
            let stem: Vec<usize> = part.get("stem_channels", vec![3, 32, 48])?;
            let strides: Vec<usize> = part.get("stem_strides", vec![2, 1, 1, 2, 1])?;
            if stem.len() != 3 || stem[0] != 3 || strides != [2, 1, 1, 2, 1] {
                return Err(format!("config.json: a stem of channels {stem:?} and strides {strides:?} is not supported"));
            }
            if part.activation("hidden_act", "relu")? != Activation::Relu {
                return Err("config.json: a backbone with another activation than relu is not supported".into());
            }
            let channels: Vec<usize> = part.get("stage_out_channels", vec![128, 512, 1024, 2048])?;
            let middle: Vec<usize> = part.get("stage_mid_channels", vec![48, 96, 192, 384])?;
            let blocks: Vec<usize> = part.get("stage_num_blocks", vec![1, 1, 3, 1])?;
            let layers: Vec<usize> = part.get("stage_numb_of_layers", vec![6, 6, 6, 6])?;
            let kernels: Vec<usize> = part.get("stage_kernel_size", vec![3, 3, 5, 5])?;
            let light: Vec<bool> = part.get("stage_light_block", vec![false, false, true, true])?;
            let downsample: Vec<bool> = part.get("stage_downsample", vec![false, true, true, true])?;
            let strides: Vec<usize> = part.get("stage_downsample_strides", vec![2, 2, 2, 2])?;
            // The number of stages is that of `stage_in_channels`.
            let inputs: Vec<usize> = part.get("stage_in_channels", vec![48, 128, 512, 1024])?;
            let count = inputs.len();
            if [middle.len(), blocks.len(), layers.len(), kernels.len(), light.len(), downsample.len(), strides.len(), channels.len()]
                .iter()
                .any(|&n| n < count)
            {
                return Err(format!("config.json: the backbone has {count} stages (stage_in_channels), but not as many of each other stage_… entry"));
            }
            let stages = (0..count).map(|s| HgStage {
                downsample: downsample[s].then_some(strides[s]),
                blocks: blocks[s],
                layers: layers[s],
                middle: middle[s],
                channels: channels[s],
                kernel: kernels[s],
                light: light[s],
            });
            Ok(MultiScaleBackbone::Hgnetv2(HgNetV2 {
                stem: [stem[1], stem[2]],
                stages: stages.collect(),
                affine: part.get("use_learnable_affine_block", false)?,
                outputs: outputs(&part, count)?,
            }))
        }
        other => Err(format!("config.json: a backbone of type {other} is not supported (rt_detr_resnet and hgnet_v2 are)")),
    }
}

/// Which stages' outputs go on. transformers counts the stem as 0, and takes the last one where nothing is said.
fn outputs(backbone: &Stated, stages: usize) -> Result<Vec<usize>, String> {
    let names: Option<Vec<String>> = backbone.get("out_features", None)?;
    let named = names.map(|names| names.iter().map(|name| name.strip_prefix("stage").and_then(|n| n.parse().ok())).collect::<Option<Vec<usize>>>());
    let numbers = match named.flatten() {
        Some(numbers) => numbers,
        None => backbone.get("out_indices", vec![stages])?,
    };
    let outputs = numbers.iter().map(|&n| n.checked_sub(1).filter(|&stage| stage < stages)).collect::<Option<Vec<usize>>>();
    outputs.ok_or_else(|| format!("config.json: the backbone's outputs {numbers:?} are not among its {stages} stages"))
}

fn neck(model_type: ModelType, stated: &Stated, as_trained: bool) -> Result<Neck, String> {
    let width: usize = stated.get("encoder_hidden_dim", 256)?;
    let expansion: f64 = stated.get("hidden_expansion", 1.0)?;
    let depth: f64 = stated.get("depth_mult", 1.0)?;
    let activation = stated.activation("activation_function", "silu")?;
    // Python's round goes to the even number, and `//` rounds down.
    let hidden = (expansion * width as f64 / 2.0).floor().round_ties_even() as usize;
    let repeats = (3.0 * depth).round_ties_even() as usize;
    let block = match model_type {
        ModelType::RtDetr | ModelType::RtDetrV2 => FusionBlock::Csp { hidden: (width as f64 * expansion) as usize, repeats: 3 },
        ModelType::DFine => FusionBlock::Elan4 { hidden, repeats },
        ModelType::Deimv2 => FusionBlock::Elan5 { hidden, repeats, trailing: stated.get("encoder_has_trailing_conv", true)? },
    };
    let kind: String = stated.get("encoder_type", "hybrid".into())?;
    match kind.as_str() {
        "lite" if model_type == ModelType::Deimv2 => return Ok(Neck::Lite(LiteEncoder { width, block, activation })),
        "hybrid" => {}
        other => return Err(format!("config.json: encoder_type is {other}, expected hybrid or lite")),
    }
    let heads: usize = stated.get("encoder_attention_heads", 8)?;
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("config.json: encoder_hidden_dim {width} is no multiple of encoder_attention_heads {heads}"));
    }
    let layer = EncoderLayer { self_attention: Attention { heads, head_width: width / heads }, ffn: stated.get("encoder_ffn_dim", 1024)? };
    let layers: usize = stated.get("encoder_layers", 1)?;
    let fusion: String = if model_type == ModelType::Deimv2 { stated.get("encoder_fuse_op", "sum".into())? } else { "concat".into() };
    // transformers leaves positions out where eval_size is stated; the original computes them for that size.
    let without_positions = !as_trained && stated.0.get("eval_size").is_some_and(|size| !size.is_null());
    let temperature: f32 = stated.get("positional_encoding_temperature", 10_000.0)?;
    Ok(Neck::Hybrid(HybridEncoder {
        width,
        layers: vec![layer; layers],
        encoded_maps: if layers == 0 { Vec::new() } else { stated.get("encode_proj_layers", vec![2])? },
        ffn_activation: stated.activation("encoder_activation_function", "gelu")?,
        position_temperature: (!without_positions).then_some(temperature),
        normalize_before: stated.get("normalize_before", false)?,
        fusion: if fusion == "sum" { Fusion::Sum } else { Fusion::Concat },
        block,
        activation,
    }))
}

/// Decoder layers up to the one that is evaluated: those after it take no part.
fn layers(stated: &Stated, guess: &Guess) -> Result<usize, String> {
    let layers: i64 = stated.get("decoder_layers", 6)?;
    let evaluated: i64 = stated.get("eval_idx", -1)?;
    if let Some(wanted) = guess.decoder_layers {
        let fits = wanted > 0 && i64::try_from(wanted).is_ok_and(|wanted| wanted <= layers);
        return if fits { Ok(wanted) } else { Err(format!("{wanted} decoder layers can't be evaluated: config.json says there are {layers}")) };
    }
    let count = if evaluated < 0 { layers.saturating_add(evaluated).saturating_add(1) } else { evaluated.saturating_add(1) };
    usize::try_from(count)
        .ok()
        .filter(|&count| count > 0 && count as i64 <= layers)
        .ok_or_else(|| format!("config.json: eval_idx {evaluated} is none of {layers} decoder layers"))
}

fn decoder(model_type: ModelType, stated: &Stated, d_model: usize, levels: usize, as_trained: bool, guess: &Guess) -> Result<Decoder, String> {
    let heads: usize = stated.get("decoder_attention_heads", 8)?;
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(format!("config.json: d_model {d_model} is no multiple of decoder_attention_heads {heads}"));
    }
    let points = match stated.0.get("decoder_n_points") {
        Some(Value::Array(_)) => stated.get("decoder_n_points", Vec::new())?,
        _ => vec![stated.get("decoder_n_points", 4)?; levels],
    };
    let method: String = if model_type == ModelType::RtDetr { "default".into() } else { stated.get("decoder_method", "default".into())? };
    let activation = stated.activation("decoder_activation_function", "relu")?;
    let layers = layers(stated, guess)?;
    let stated_ffn: usize = stated.get("decoder_ffn_dim", 1024)?;
    let is_deimv2 = model_type == ModelType::Deimv2;
    let distributions = matches!(model_type, ModelType::DFine | ModelType::Deimv2);
    let head_activation = if as_trained { Activation::Silu } else { Activation::Relu };
    let gateway = match model_type {
        ModelType::RtDetr | ModelType::RtDetrV2 => false,
        ModelType::DFine => true,
        ModelType::Deimv2 => stated.get("use_gateway", true)?,
    };
    Ok(Decoder {
        layers,
        self_attention: Attention { heads, head_width: d_model / heads },
        ffn: if is_deimv2 { stated_ffn / 2 } else { stated_ffn },
        ffn_kind: if is_deimv2 { FfnKind::SwiGlu } else { FfnKind::Mlp },
        activation,
        norm: if is_deimv2 { NormKind::Rms } else { NormKind::Layer },
        points,
        offset_scale: if model_type == ModelType::RtDetr { 0.5 } else { stated.get("decoder_offset_scale", 0.5)? },
        method: match (guess.sampling, method.as_str()) {
            (Some(method), _) => method,
            (None, "default") => SamplingMethod::Default,
            (None, "discrete") => SamplingMethod::Discrete,
            (None, other) => return Err(format!("config.json: decoder_method is {other}, expected default or discrete")),
        },
        value_projection: !distributions,
        gateway,
        position: match is_deimv2 {
            true => QueryPosition { hidden: d_model, layers: 3, activation, once: as_trained, clamp: Some(10.0) },
            false => {
                QueryPosition { hidden: 2 * d_model, layers: 2, activation: Activation::Relu, once: false, clamp: distributions.then_some(10.0) }
            }
        },
        boxes: match distributions {
            false => BoxHead::Offsets,
            true => BoxHead::Distributions {
                bins: stated.get("max_num_bins", 32)?,
                reg_scale: stated.get("reg_scale", 4.0)?,
                up: stated.get("up", 0.5)?,
                shared: is_deimv2 && stated.get("share_bbox_head", false)?,
                activation: head_activation,
                top: stated.get("top_prob_values", 4)?,
                quality_hidden: stated.get("lqe_hidden_dim", 64)?,
                quality_layers: stated.get("lqe_layers", 2)?,
            },
        },
    })
}
