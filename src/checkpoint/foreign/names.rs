//! The one table that maps other projects' tensor names to ours.
//!
//! A name is what the file puts before all (`root.rs`) + `prefix` + something that a row of the table matches. In a pattern `#` is a number, `+` a number that is
//! one less in the other spelling's `#`, a final `*` the last part (`weight`, `bias`, `running_mean`, …), and `{a,b}` stands for
//! tensors that lie in one, row block by block. Batch norm, which our network doesn't have, goes under `….norm.*` until it
//! is folded into the convolution before it. `rename.rs` applies the table.

/// One spelling of one part of the network.
pub struct Dialect {
    pub prefixes: &'static [&'static str],
    pub rows: &'static [(&'static str, &'static str)],
    /// Which kind of EfficientNet block it is for: with a third convolution, or without.
    pub third_convolution: Option<bool>,
}

/// In a detector, or alone.
const BACKBONES: &[&str] = &[
    "model.backbone.conv_encoder.model._backbone.",
    "model.backbone.conv_encoder.model.",
    "model.backbone.model.",
    "backbone.conv_encoder.model._backbone.",
    "backbone.conv_encoder.model.",
    "backbone.model.",
    "backbone.0.body.",
    "",
];

pub static DIALECTS: [Dialect; 7] = [
    // Hugging Face transformers: as saved, and (`o_proj`, `mlp`) as version 5 names them in memory. Without `model.`: its model without heads.
    Dialect {
        prefixes: &["model.", ""],
        rows: &[
            ("input_projection.*", "input_projection.*"),
            ("encoder.layers.#.self_attn.q_proj.*", "encoder.#.self_attention.query.*"),
            ("encoder.layers.#.self_attn.k_proj.*", "encoder.#.self_attention.key.*"),
            ("encoder.layers.#.self_attn.v_proj.*", "encoder.#.self_attention.value.*"),
            ("encoder.layers.#.self_attn.out_proj.*", "encoder.#.self_attention.output.*"),
            ("encoder.layers.#.self_attn.o_proj.*", "encoder.#.self_attention.output.*"),
            ("encoder.layers.#.self_attn_layer_norm.*", "encoder.#.norm1.*"),
            ("encoder.layers.#.fc1.*", "encoder.#.ffn1.*"),
            ("encoder.layers.#.fc2.*", "encoder.#.ffn2.*"),
            ("encoder.layers.#.mlp.fc1.*", "encoder.#.ffn1.*"),
            ("encoder.layers.#.mlp.fc2.*", "encoder.#.ffn2.*"),
            ("encoder.layers.#.final_layer_norm.*", "encoder.#.norm2.*"),
            ("decoder.layers.#.self_attn.q_proj.*", "decoder.#.self_attention.query.*"),
            ("decoder.layers.#.self_attn.k_proj.*", "decoder.#.self_attention.key.*"),
            ("decoder.layers.#.self_attn.v_proj.*", "decoder.#.self_attention.value.*"),
            ("decoder.layers.#.self_attn.out_proj.*", "decoder.#.self_attention.output.*"),
            ("decoder.layers.#.self_attn.o_proj.*", "decoder.#.self_attention.output.*"),
            ("decoder.layers.#.self_attn_layer_norm.*", "decoder.#.norm1.*"),
            ("decoder.layers.#.encoder_attn.q_proj.*", "decoder.#.cross_attention.query.*"),
            ("decoder.layers.#.encoder_attn.k_proj.*", "decoder.#.cross_attention.key.*"),
            ("decoder.layers.#.encoder_attn.v_proj.*", "decoder.#.cross_attention.value.*"),
            ("decoder.layers.#.encoder_attn.out_proj.*", "decoder.#.cross_attention.output.*"),
            ("decoder.layers.#.encoder_attn.o_proj.*", "decoder.#.cross_attention.output.*"),
            ("decoder.layers.#.encoder_attn_layer_norm.*", "decoder.#.norm2.*"),
            ("decoder.layers.#.fc1.*", "decoder.#.ffn1.*"),
            ("decoder.layers.#.fc2.*", "decoder.#.ffn2.*"),
            ("decoder.layers.#.mlp.fc1.*", "decoder.#.ffn1.*"),
            ("decoder.layers.#.mlp.fc2.*", "decoder.#.ffn2.*"),
            ("decoder.layers.#.final_layer_norm.*", "decoder.#.norm3.*"),
            ("decoder.layernorm.*", "decoder.norm.*"),
            ("query_position_embeddings.weight", "query_position"),
            ("query_content", "query_content"),
            ("box_reference", "box_reference"),
        ],
        third_convolution: None,
    },
    // The same, outside of its `model.`.
    Dialect {
        prefixes: &[""],
        rows: &[("class_labels_classifier.*", "class_head.*"), ("bbox_predictor.layers.#.*", "box_head.#.*")],
        third_convolution: None,
    },
    // facebookresearch/detr, whose attention is torch's: queries, keys and values in one tensor.
    Dialect {
        prefixes: &[""],
        rows: &[
            ("input_proj.*", "input_projection.*"),
            ("transformer.encoder.layers.#.self_attn.in_proj_weight", "encoder.#.self_attention.{query,key,value}.weight"),
            ("transformer.encoder.layers.#.self_attn.in_proj_bias", "encoder.#.self_attention.{query,key,value}.bias"),
            ("transformer.encoder.layers.#.self_attn.out_proj.*", "encoder.#.self_attention.output.*"),
            ("transformer.encoder.layers.#.norm1.*", "encoder.#.norm1.*"),
            ("transformer.encoder.layers.#.linear1.*", "encoder.#.ffn1.*"),
            ("transformer.encoder.layers.#.linear2.*", "encoder.#.ffn2.*"),
            ("transformer.encoder.layers.#.norm2.*", "encoder.#.norm2.*"),
            ("transformer.decoder.layers.#.self_attn.in_proj_weight", "decoder.#.self_attention.{query,key,value}.weight"),
            ("transformer.decoder.layers.#.self_attn.in_proj_bias", "decoder.#.self_attention.{query,key,value}.bias"),
            ("transformer.decoder.layers.#.self_attn.out_proj.*", "decoder.#.self_attention.output.*"),
            ("transformer.decoder.layers.#.norm1.*", "decoder.#.norm1.*"),
            ("transformer.decoder.layers.#.multihead_attn.in_proj_weight", "decoder.#.cross_attention.{query,key,value}.weight"),
            ("transformer.decoder.layers.#.multihead_attn.in_proj_bias", "decoder.#.cross_attention.{query,key,value}.bias"),
            ("transformer.decoder.layers.#.multihead_attn.out_proj.*", "decoder.#.cross_attention.output.*"),
            ("transformer.decoder.layers.#.norm2.*", "decoder.#.norm2.*"),
            ("transformer.decoder.layers.#.linear1.*", "decoder.#.ffn1.*"),
            ("transformer.decoder.layers.#.linear2.*", "decoder.#.ffn2.*"),
            ("transformer.decoder.layers.#.norm3.*", "decoder.#.norm3.*"),
            ("transformer.decoder.norm.*", "decoder.norm.*"),
            ("query_embed.weight", "query_position"),
            ("class_embed.*", "class_head.*"),
            ("bbox_embed.layers.#.*", "box_head.#.*"),
        ],
        third_convolution: None,
    },
    // ResNet in torchvision and timm.
    Dialect {
        prefixes: BACKBONES,
        rows: &[
            ("conv1.*", "backbone.stem.*"),
            ("bn1.*", "backbone.stem.norm.*"),
            ("layer#.#.conv#.*", "backbone.stage#.block#.conv#.*"),
            ("layer#.#.bn#.*", "backbone.stage#.block#.conv#.norm.*"),
            ("layer#.#.downsample.0.*", "backbone.stage#.block#.projection.*"),
            ("layer#.#.downsample.1.*", "backbone.stage#.block#.projection.norm.*"),
        ],
        third_convolution: None,
    },
    // ResNet in Hugging Face transformers.
    Dialect {
        prefixes: BACKBONES,
        rows: &[
            ("embedder.embedder.convolution.*", "backbone.stem.*"),
            ("embedder.embedder.normalization.*", "backbone.stem.norm.*"),
            ("encoder.stages.#.layers.#.layer.#.convolution.*", "backbone.stage+.block#.conv+.*"),
            ("encoder.stages.#.layers.#.layer.#.normalization.*", "backbone.stage+.block#.conv+.norm.*"),
            ("encoder.stages.#.layers.#.shortcut.convolution.*", "backbone.stage+.block#.projection.*"),
            ("encoder.stages.#.layers.#.shortcut.normalization.*", "backbone.stage+.block#.projection.norm.*"),
        ],
        third_convolution: None,
    },
    // EfficientNet in timm: blocks that expand first (expand, depthwise, project) …
    Dialect {
        prefixes: BACKBONES,
        rows: &[
            ("conv_stem.*", "backbone.stem.*"),
            ("bn1.*", "backbone.stem.norm.*"),
            ("blocks.#.#.conv_pw.*", "backbone.stage#.block#.expand.*"),
            ("blocks.#.#.bn1.*", "backbone.stage#.block#.expand.norm.*"),
            ("blocks.#.#.conv_dw.*", "backbone.stage#.block#.depthwise.*"),
            ("blocks.#.#.bn2.*", "backbone.stage#.block#.depthwise.norm.*"),
            ("blocks.#.#.conv_pwl.*", "backbone.stage#.block#.project.*"),
            ("blocks.#.#.bn3.*", "backbone.stage#.block#.project.norm.*"),
        ],
        third_convolution: Some(true),
    },
    // … and blocks that don't (depthwise, project).
    Dialect {
        prefixes: BACKBONES,
        rows: &[
            ("blocks.#.#.conv_dw.*", "backbone.stage#.block#.depthwise.*"),
            ("blocks.#.#.bn1.*", "backbone.stage#.block#.depthwise.norm.*"),
            ("blocks.#.#.conv_pw.*", "backbone.stage#.block#.project.*"),
            ("blocks.#.#.bn2.*", "backbone.stage#.block#.project.norm.*"),
        ],
        third_convolution: Some(false),
    },
];
