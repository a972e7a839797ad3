//! Which tensors, by transformers' names, a layer of ours is made of. A layer has several names where versions of transformers
//! or ties between modules differ.

use crate::config::{ModelType, MultiScaleBackbone, Neck, RtDetr};

/// The modules that a layer of ours is made of; of each list the first that the file has.
pub enum Foreign {
    /// A linear map, a norm or an embedding.
    Plain(Vec<String>),
    /// A convolution with a batch norm, and perhaps a learnt scale and shift.
    ConvNorm { conv: Vec<String>, norm: Vec<String>, affine: Vec<String> },
    /// A 3×3 and a 1×1 convolution whose sum counts.
    RepVgg { wide: Branch, narrow: Branch },
}

/// One of RepVGG's convolutions.
pub struct Branch {
    pub conv: Vec<String>,
    pub norm: Vec<String>,
}

impl Branch {
    pub fn conv_norm(&self) -> Foreign {
        Foreign::ConvNorm { conv: self.conv.clone(), norm: self.norm.clone(), affine: Vec::new() }
    }
}

impl Foreign {
    pub fn plain(&self) -> Vec<String> {
        match self {
            Self::Plain(names) => names.clone(),
            Self::ConvNorm { conv, .. } => conv.clone(),
            Self::RepVgg { wide, .. } => wide.conv.clone(),
        }
    }

    pub fn affine(&self) -> Vec<String> {
        match self {
            Self::ConvNorm { affine, .. } => affine.clone(),
            _ => Vec::new(),
        }
    }
}

/// A tensor's name as transformers 5 has it, without the `model.` that detectors begin with.
pub fn canonical(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let mut name = name.replace(".out_proj.", ".o_proj.");
    if let Some(rest) = name.strip_prefix("encoder.encoder.") {
        name = format!("encoder.aifi.{rest}");
    }
    // Of a layer: `layers.N.fc1`, which is now a part of `mlp`.
    for fc in ["fc1", "fc2"] {
        for part in [".weight", ".bias"] {
            let old = format!(".{fc}{part}");
            if let Some(before) = name.strip_suffix(&old).filter(|before| before.contains("layers.") && !before.ends_with(".mlp")) {
                name = format!("{before}.mlp{old}");
            }
        }
    }
    name
}

/// Whether a name is of a detector of the family.
pub fn known(name: &str) -> bool {
    const PARTS: [&str; 10] = [
        "backbone",
        "conv_encoder",
        "encoder_input_proj",
        "encoder",
        "decoder_input_proj",
        "decoder",
        "enc_output",
        "enc_score_head",
        "enc_bbox_head",
        "denoising_class_embed",
    ];
    let name = name.strip_prefix("model.").unwrap_or(name);
    let (part, rest) = name.split_once('.').unwrap_or((name, ""));
    // The heads stand outside of `model.`, too.
    !rest.is_empty() && (PARTS.contains(&part) || ["class_embed", "bbox_embed"].contains(&part))
}

/// What only training reads, or follows from the config.
pub fn is_for_training(name: &str) -> bool {
    const PARTS: [&str; 9] = [
        "num_batches_tracked",
        "pos_embed",
        "denoising_class_embed",
        "n_points_scale",
        "num_points_scale",
        "anchors",
        "valid_mask",
        "decoder.up",
        "decoder.reg_scale",
    ];
    // Heads stand twice in a file, at the root and in the decoder, and so does a shared one for each layer.
    PARTS.iter().any(|part| name.contains(part)) || name.contains("class_embed.") || name.contains("bbox_embed.") || name.contains("enc_output.")
}

fn plain(names: &[String]) -> Foreign {
    Foreign::Plain(names.to_vec())
}

/// `module.conv` and `module.norm`.
fn conv_norm(module: &str) -> Foreign {
    Foreign::ConvNorm { conv: vec![format!("{module}.conv")], norm: vec![format!("{module}.norm")], affine: Vec::new() }
}

/// `module.0` and `module.1`, or as [`conv_norm`].
fn sequential(modules: &[String]) -> Foreign {
    let names = |number: &str, name: &str| modules.iter().flat_map(|m| [format!("{m}.{number}"), format!("{m}.{name}")]).collect();
    Foreign::ConvNorm { conv: names("0", "conv"), norm: names("1", "norm"), affine: Vec::new() }
}

/// A layer of a backbone of transformers.
fn backbone_conv(modules: &[String]) -> Foreign {
    let names = |name: &str| modules.iter().map(|module| format!("{module}.{name}")).collect();
    Foreign::ConvNorm { conv: names("convolution"), norm: names("normalization"), affine: names("lab") }
}

/// The number at the end of a name.
fn number(name: &str) -> usize {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// The modules of a layer, by its name in our weights (without `.weight` and the like).
pub fn foreign(config: &RtDetr, layer: &str) -> Foreign {
    let parts: Vec<&str> = layer.split('.').collect();
    match &parts[..] {
        ["backbone", rest @ ..] => {
            let prefix = if config.model_type == ModelType::Deimv2 { "conv_encoder.model" } else { "backbone.model" };
            match &config.backbone {
                MultiScaleBackbone::ResnetVd(_) => resnet(prefix, rest),
                MultiScaleBackbone::Hgnetv2(net) => hgnet(prefix, rest, net.stages.iter().map(|stage| stage.light).collect()),
            }
        }
        ["neck", rest @ ..] => neck(config, rest),
        [name] if name.starts_with("projection") => sequential(&[format!("decoder_input_proj.{}", number(name))]),
        ["selection", rest @ ..] => match rest {
            ["output"] => plain(&["enc_output.0".into()]),
            ["norm"] => plain(&["enc_output.1".into()]),
            ["score"] => plain(&["enc_score_head".into()]),
            ["content"] => plain(&["weight_embedding".into()]),
            ["box", i] => plain(&[format!("enc_bbox_head.layers.{i}")]),
            _ => plain(&[layer.into()]),
        },
        ["query_position", i] => plain(&[format!("decoder.query_pos_head.layers.{i}")]),
        ["decoder", i, rest @ ..] => decoder(config, &format!("decoder.layers.{i}"), rest),
        ["class_head", i] => plain(&[format!("decoder.class_embed.{i}"), format!("class_embed.{i}")]),
        ["initial_box", i] => plain(&[format!("decoder.pre_bbox_head.layers.{i}")]),
        ["quality_head", i, j] => plain(&[format!("decoder.lqe_layers.{i}.reg_conf.layers.{j}")]),
        ["box_head", i, j] => plain(&["decoder.bbox_embed", "bbox_embed"].map(|module| format!("{module}.{i}.layers.{j}"))),
        // A shared head: a file may have that of any layer. The last one is the one that `save_pretrained` keeps.
        ["box_head", j] => {
            let names =
                (0..config.decoder.layers).rev().flat_map(|i| ["decoder.bbox_embed", "bbox_embed"].map(|module| format!("{module}.{i}.layers.{j}")));
            Foreign::Plain(names.collect())
        }
        _ => plain(&[layer.into()]),
    }
}

fn hgnet(prefix: &str, rest: &[&str], light: Vec<bool>) -> Foreign {
    match rest {
        ["stem", name] => backbone_conv(&[format!("{prefix}.embedder.stem{name}")]),
        [stage, rest @ ..] => {
            let s = number(stage);
            let stage = format!("{prefix}.encoder.stages.{s}");
            match rest {
                ["downsample"] => backbone_conv(&[format!("{stage}.downsample")]),
                [block, rest @ ..] => {
                    let block = format!("{stage}.blocks.{}", number(block));
                    backbone_conv(&[match rest {
                        ["squeeze"] => format!("{block}.aggregation.0"),
                        ["excite"] => format!("{block}.aggregation.1"),
                        [layer, part] if light.get(s) == Some(&true) => {
                            format!("{block}.layers.{}.conv{}", number(layer), if *part == "pointwise" { 1 } else { 2 })
                        }
                        [layer, ..] => format!("{block}.layers.{}", number(layer)),
                        [] => block,
                    }])
                }
                [] => backbone_conv(&[stage]),
            }
        }
        [] => backbone_conv(&[prefix.into()]),
    }
}

fn resnet(prefix: &str, rest: &[&str]) -> Foreign {
    match rest {
        ["stem", i] => backbone_conv(&[format!("{prefix}.embedder.embedder.{i}")]),
        [stage, block, name] => {
            let block = format!("{prefix}.encoder.stages.{}.layers.{}", number(stage), number(block));
            match *name {
                // After a pool, where the shortcut has a stride.
                "shortcut" => backbone_conv(&[format!("{block}.shortcut"), format!("{block}.shortcut.1")]),
                conv => backbone_conv(&[format!("{block}.layer.{}", number(conv))]),
            }
        }
        _ => backbone_conv(&[prefix.into()]),
    }
}

fn neck(config: &RtDetr, rest: &[&str]) -> Foreign {
    let deimv2 = config.model_type == ModelType::Deimv2;
    match (&config.neck, rest) {
        (Neck::Hybrid(_), [name]) if name.starts_with("projection") => {
            let i = number(name);
            sequential(&[format!("encoder_input_proj.{i}"), format!("conv_encoder.encoder_input_proj.{i}")])
        }
        // transformers' name, and DEIMv2's as the table of `original.rs` has it.
        (Neck::Lite(_), ["projection0"]) => sequential(&["encoder.input_proj.0".into(), "encoder_input_proj.0".into()]),
        (Neck::Lite(_), [name]) => conv_norm(&match *name {
            "downsample0" => "encoder.down_conv1".into(),
            "downsample1" => "encoder.down_conv2".into(),
            "fusion" => "encoder.bi_fusion_conv".to_string(),
            other => other.into(),
        }),
        (_, [name, i, rest @ ..]) if name.starts_with("encoder") => {
            let layer = format!("encoder.aifi.{}.layers.{i}", number(name));
            match rest {
                ["self_attention", part] => plain(&[format!("{layer}.self_attn.{}", projection(part))]),
                ["norm1"] => plain(&[format!("{layer}.self_attn_layer_norm")]),
                ["norm2"] => plain(&[format!("{layer}.final_layer_norm")]),
                ["ffn1"] => plain(&mlp(&layer, 0)),
                _ => plain(&mlp(&layer, 1)),
            }
        }
        (_, [name]) if name.starts_with("lateral") => conv_norm(&format!("encoder.lateral_convs.{}", number(name))),
        (_, [name]) if name.starts_with("downsample") => conv_norm(&format!("encoder.downsample_convs.{}", number(name))),
        (_, [name, part]) if name.starts_with("downsample") => {
            conv_norm(&format!("encoder.downsample_convs.{}.conv{}", number(name), if *part == "pointwise" { 1 } else { 2 }))
        }
        (neck, [name, rest @ ..]) => {
            let lists = matches!(neck, Neck::Hybrid(_));
            let direction = if name.starts_with("up") { "fpn" } else { "pan" };
            let module = if lists { format!("encoder.{direction}_blocks.{}", number(name)) } else { format!("encoder.{direction}_block") };
            fusion_block(&module, rest, deimv2)
        }
        (_, []) => conv_norm("encoder"),
    }
}

fn fusion_block(module: &str, rest: &[&str], deimv2: bool) -> Foreign {
    match rest {
        // The last one has the number of the convolutions in the file.
        ["conv4"] if deimv2 => conv_norm(&format!("{module}.conv2")),
        [csp, rest @ ..] if csp.starts_with("csp") => fusion_block(&format!("{module}.csp_rep{}", number(csp)), rest, deimv2),
        [name] if name.starts_with("repeat") => {
            let branch = |i: usize| {
                let module = format!("{module}.bottlenecks.{}.conv{i}", number(name));
                Branch { conv: vec![format!("{module}.conv")], norm: vec![format!("{module}.norm")] }
            };
            Foreign::RepVgg { wide: branch(1), narrow: branch(2) }
        }
        [name] => conv_norm(&format!("{module}.{name}")),
        _ => conv_norm(module),
    }
}

fn decoder(config: &RtDetr, layer: &str, rest: &[&str]) -> Foreign {
    let module = |name: &str| plain(&[format!("{layer}.{name}")]);
    match rest {
        ["self_attention", part] => module(&format!("self_attn.{}", projection(part))),
        ["cross_attention", part] => module(match *part {
            "offsets" => "encoder_attn.sampling_offsets",
            "weights" => "encoder_attn.attention_weights",
            "value" => "encoder_attn.value_proj",
            _ => "encoder_attn.output_proj",
        }),
        ["gate"] => module("gateway.gate"),
        ["norm1"] => module("self_attn_layer_norm"),
        ["norm2"] if config.decoder.gateway => module("gateway.norm"),
        ["norm2"] => module("encoder_attn_layer_norm"),
        ["norm3"] => module("final_layer_norm"),
        ["ffn1"] => plain(&mlp(layer, 0)),
        ["ffn_gate"] => module("mlp.gate_proj"),
        ["ffn_up"] => module("mlp.up_proj"),
        _ => plain(&[mlp(layer, 1), vec![format!("{layer}.mlp.down_proj")]].concat()),
    }
}

/// RT-DETR's and D-FINE's names of a layer's two maps.
fn mlp(layer: &str, i: usize) -> Vec<String> {
    vec![format!("{layer}.mlp.fc{}", i + 1), format!("{layer}.mlp.layers.{i}")]
}

fn projection(part: &str) -> &'static str {
    match part {
        "query" => "q_proj",
        "key" => "k_proj",
        "value" => "v_proj",
        _ => "o_proj",
    }
}
