//! The names of the repositories that the family comes from: lyuwenyu/RT-DETR (`rtdetr_pytorch`, `rtdetrv2_pytorch`), Peterande/D-FINE and
//! Intellindust-AI-Lab/DEIMv2. They save `{"model": …, "ema": {"module": …}}`; what comes before the names is found by `root`.
//!
//! One table leads from their names to transformers' (those of `names::canonical`), so that layers are put together from either in one place.
//! The patterns are those of `foreign/names.rs`, with `@` for a whole part.

use super::super::rename::{Match, alternatives};
use super::super::root::{Named, Rooted};
use crate::config::ModelType;
use std::collections::BTreeMap;

type Rows = &'static [(&'static str, &'static str)];

const COMMON: Rows = &[
    // PResNet. A pool comes before the convolution of a strided shortcut.
    ("backbone.conv1.conv1_+.conv.*", "backbone.model.embedder.embedder.#.convolution.*"),
    ("backbone.conv1.conv1_+.norm.*", "backbone.model.embedder.embedder.#.normalization.*"),
    ("backbone.res_layers.#.blocks.#.branch2a.conv.*", "backbone.model.encoder.stages.#.layers.#.layer.0.convolution.*"),
    ("backbone.res_layers.#.blocks.#.branch2a.norm.*", "backbone.model.encoder.stages.#.layers.#.layer.0.normalization.*"),
    ("backbone.res_layers.#.blocks.#.branch2b.conv.*", "backbone.model.encoder.stages.#.layers.#.layer.1.convolution.*"),
    ("backbone.res_layers.#.blocks.#.branch2b.norm.*", "backbone.model.encoder.stages.#.layers.#.layer.1.normalization.*"),
    ("backbone.res_layers.#.blocks.#.branch2c.conv.*", "backbone.model.encoder.stages.#.layers.#.layer.2.convolution.*"),
    ("backbone.res_layers.#.blocks.#.branch2c.norm.*", "backbone.model.encoder.stages.#.layers.#.layer.2.normalization.*"),
    ("backbone.res_layers.#.blocks.#.short.conv.conv.*", "backbone.model.encoder.stages.#.layers.#.shortcut.1.convolution.*"),
    ("backbone.res_layers.#.blocks.#.short.conv.norm.*", "backbone.model.encoder.stages.#.layers.#.shortcut.1.normalization.*"),
    ("backbone.res_layers.#.blocks.#.short.conv.*", "backbone.model.encoder.stages.#.layers.#.shortcut.convolution.*"),
    ("backbone.res_layers.#.blocks.#.short.norm.*", "backbone.model.encoder.stages.#.layers.#.shortcut.normalization.*"),
    // HGNetV2.
    ("backbone.stem.@.conv.*", "backbone.model.embedder.@.convolution.*"),
    ("backbone.stem.@.bn.*", "backbone.model.embedder.@.normalization.*"),
    ("backbone.stem.@.lab.*", "backbone.model.embedder.@.lab.*"),
    ("backbone.stages.#.downsample.conv.*", "backbone.model.encoder.stages.#.downsample.convolution.*"),
    ("backbone.stages.#.downsample.bn.*", "backbone.model.encoder.stages.#.downsample.normalization.*"),
    ("backbone.stages.#.blocks.#.@.#.conv.*", "backbone.model.encoder.stages.#.blocks.#.@.#.convolution.*"),
    ("backbone.stages.#.blocks.#.@.#.bn.*", "backbone.model.encoder.stages.#.blocks.#.@.#.normalization.*"),
    ("backbone.stages.#.blocks.#.@.#.lab.*", "backbone.model.encoder.stages.#.blocks.#.@.#.lab.*"),
    ("backbone.stages.#.blocks.#.layers.#.conv#.conv.*", "backbone.model.encoder.stages.#.blocks.#.layers.#.conv#.convolution.*"),
    ("backbone.stages.#.blocks.#.layers.#.conv#.bn.*", "backbone.model.encoder.stages.#.blocks.#.layers.#.conv#.normalization.*"),
    ("backbone.stages.#.blocks.#.layers.#.conv#.lab.*", "backbone.model.encoder.stages.#.blocks.#.layers.#.conv#.lab.*"),
    // The encoder.
    ("encoder.input_proj.#.@.*", "encoder_input_proj.#.@.*"),
    ("encoder.encoder.#.layers.#.self_attn.in_proj_*", "encoder.aifi.#.layers.#.self_attn.{q_proj,k_proj,v_proj}.*"),
    ("encoder.encoder.#.layers.#.self_attn.out_proj.*", "encoder.aifi.#.layers.#.self_attn.o_proj.*"),
    ("encoder.encoder.#.layers.#.norm1.*", "encoder.aifi.#.layers.#.self_attn_layer_norm.*"),
    ("encoder.encoder.#.layers.#.norm2.*", "encoder.aifi.#.layers.#.final_layer_norm.*"),
    ("encoder.encoder.#.layers.#.linear1.*", "encoder.aifi.#.layers.#.mlp.fc1.*"),
    ("encoder.encoder.#.layers.#.linear2.*", "encoder.aifi.#.layers.#.mlp.fc2.*"),
    ("encoder.lateral_convs.#.@.*", "encoder.lateral_convs.#.@.*"),
    // The decoder.
    ("decoder.input_proj.#.@.*", "decoder_input_proj.#.@.*"),
    ("decoder.enc_output.proj.*", "enc_output.0.*"),
    ("decoder.enc_output.norm.*", "enc_output.1.*"),
    ("decoder.enc_output.#.*", "enc_output.#.*"),
    ("decoder.enc_score_head.*", "enc_score_head.*"),
    ("decoder.enc_bbox_head.layers.#.*", "enc_bbox_head.layers.#.*"),
    ("decoder.query_pos_head.layers.#.*", "decoder.query_pos_head.layers.#.*"),
    ("decoder.pre_bbox_head.layers.#.*", "decoder.pre_bbox_head.layers.#.*"),
    ("decoder.dec_score_head.#.*", "decoder.class_embed.#.*"),
    ("decoder.dec_bbox_head.#.layers.#.*", "decoder.bbox_embed.#.layers.#.*"),
    ("decoder.tgt_embed.*", "weight_embedding.*"),
    ("decoder.denoising_class_embed.*", "denoising_class_embed.*"),
    ("decoder.decoder.lqe_layers.#.reg_conf.layers.#.*", "decoder.lqe_layers.#.reg_conf.layers.#.*"),
    ("decoder.decoder.layers.#.self_attn.in_proj_*", "decoder.layers.#.self_attn.{q_proj,k_proj,v_proj}.*"),
    ("decoder.decoder.layers.#.self_attn.out_proj.*", "decoder.layers.#.self_attn.o_proj.*"),
    ("decoder.decoder.layers.#.cross_attn.@.*", "decoder.layers.#.encoder_attn.@.*"),
    ("decoder.decoder.layers.#.cross_attn.*", "decoder.layers.#.encoder_attn.*"),
    ("decoder.decoder.layers.#.linear1.*", "decoder.layers.#.mlp.fc1.*"),
    ("decoder.decoder.layers.#.linear2.*", "decoder.layers.#.mlp.fc2.*"),
    ("decoder.decoder.layers.#.gateway.gate.*", "decoder.layers.#.gateway.gate.*"),
    ("decoder.up", "decoder.up"),
    ("decoder.reg_scale", "decoder.reg_scale"),
    ("decoder.anchors", "anchors"),
    ("decoder.valid_mask", "valid_mask"),
];

/// All but DEIMv2 have layer norms, whose names end as transformers'.
const LAYER_NORMS: Rows = &[
    ("decoder.decoder.layers.#.norm1.*", "decoder.layers.#.self_attn_layer_norm.*"),
    ("decoder.decoder.layers.#.norm2.*", "decoder.layers.#.encoder_attn_layer_norm.*"),
    ("decoder.decoder.layers.#.norm3.*", "decoder.layers.#.final_layer_norm.*"),
    ("decoder.decoder.layers.#.gateway.norm.*", "decoder.layers.#.gateway.norm.*"),
];

/// CCFF's blocks are CSP layers.
const RT_DETR: Rows = &[
    ("encoder.downsample_convs.#.@.*", "encoder.downsample_convs.#.@.*"),
    ("encoder.@.#.bottlenecks.#.conv#.@.*", "encoder.@.#.bottlenecks.#.conv#.@.*"),
    ("encoder.@.#.conv#.@.*", "encoder.@.#.conv#.@.*"),
];

/// RepNCSPELAN4.
const D_FINE: Rows = &[
    ("encoder.downsample_convs.#.0.cv#.@.*", "encoder.downsample_convs.#.conv#.@.*"),
    ("encoder.@.#.cv1.@.*", "encoder.@.#.conv1.@.*"),
    ("encoder.@.#.cv2.0.bottlenecks.#.conv#.@.*", "encoder.@.#.csp_rep1.bottlenecks.#.conv#.@.*"),
    ("encoder.@.#.cv2.0.conv#.@.*", "encoder.@.#.csp_rep1.conv#.@.*"),
    ("encoder.@.#.cv2.1.@.*", "encoder.@.#.conv2.@.*"),
    ("encoder.@.#.cv3.0.bottlenecks.#.conv#.@.*", "encoder.@.#.csp_rep2.bottlenecks.#.conv#.@.*"),
    ("encoder.@.#.cv3.0.conv#.@.*", "encoder.@.#.csp_rep2.conv#.@.*"),
    ("encoder.@.#.cv3.1.@.*", "encoder.@.#.conv3.@.*"),
    ("encoder.@.#.cv4.@.*", "encoder.@.#.conv4.@.*"),
];

/// RepNCSPELAN4 with `CSPLayer2`, or RepNCSPELAN5, which has no `cv2.1`. In the lite encoder there is one of each direction.
const DEIMV2: Rows = &[
    ("encoder.downsample_convs.#.0.cv#.@.*", "encoder.downsample_convs.#.conv#.@.*"),
    ("encoder.down_sample#.1.*", "encoder.down_conv#.conv.*"),
    ("encoder.down_sample#.2.*", "encoder.down_conv#.norm.*"),
    ("encoder.bi_fusion.cv.@.*", "encoder.bi_fusion_conv.@.*"),
    ("encoder.@.#.cv1.@.*", "encoder.@.#.conv1.@.*"),
    ("encoder.@.#.cv2.0.bottlenecks.#.conv#.@.*", "encoder.@.#.csp_rep1.bottlenecks.#.conv#.@.*"),
    ("encoder.@.#.cv2.0.conv1.@.*", "encoder.@.#.csp_rep1.conv1.@.*"),
    ("encoder.@.#.cv2.1.@.*", "encoder.@.#.csp_rep1.conv2.@.*"),
    ("encoder.@.#.cv3.0.bottlenecks.#.conv#.@.*", "encoder.@.#.csp_rep2.bottlenecks.#.conv#.@.*"),
    ("encoder.@.#.cv3.0.conv1.@.*", "encoder.@.#.csp_rep2.conv1.@.*"),
    ("encoder.@.#.cv3.1.@.*", "encoder.@.#.csp_rep2.conv2.@.*"),
    ("encoder.@.#.cv4.@.*", "encoder.@.#.conv2.@.*"),
    ("encoder.@.cv1.@.*", "encoder.@.conv1.@.*"),
    ("encoder.@.cv2.0.bottlenecks.#.conv#.@.*", "encoder.@.csp_rep1.bottlenecks.#.conv#.@.*"),
    ("encoder.@.cv2.0.conv1.@.*", "encoder.@.csp_rep1.conv1.@.*"),
    ("encoder.@.cv2.1.@.*", "encoder.@.csp_rep1.conv2.@.*"),
    ("encoder.@.cv3.0.bottlenecks.#.conv#.@.*", "encoder.@.csp_rep2.bottlenecks.#.conv#.@.*"),
    ("encoder.@.cv3.0.conv1.@.*", "encoder.@.csp_rep2.conv1.@.*"),
    ("encoder.@.cv3.1.@.*", "encoder.@.csp_rep2.conv2.@.*"),
    ("encoder.@.cv4.@.*", "encoder.@.conv2.@.*"),
    ("decoder.decoder.layers.#.norm1.scale", "decoder.layers.#.self_attn_layer_norm.weight"),
    ("decoder.decoder.layers.#.norm2.scale", "decoder.layers.#.encoder_attn_layer_norm.weight"),
    ("decoder.decoder.layers.#.norm3.scale", "decoder.layers.#.final_layer_norm.weight"),
    ("decoder.decoder.layers.#.gateway.norm.scale", "decoder.layers.#.gateway.norm.weight"),
    ("decoder.decoder.layers.#.swish_ffn.w12.*", "decoder.layers.#.mlp.{gate_proj,up_proj}.*"),
    ("decoder.decoder.layers.#.swish_ffn.w3.*", "decoder.layers.#.mlp.down_proj.*"),
];

fn rows(model_type: ModelType) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let (norms, own): (Rows, Rows) = match model_type {
        ModelType::RtDetr | ModelType::RtDetrV2 => (LAYER_NORMS, RT_DETR),
        ModelType::DFine => (LAYER_NORMS, D_FINE),
        ModelType::Deimv2 => (&[], DEIMV2),
    };
    own.iter().chain(norms).chain(COMMON)
}

/// Whether names are these repositories', whatever comes before them.
pub fn fits<'n>(mut names: impl Iterator<Item = &'n str>) -> bool {
    names.any(|name| name.ends_with("decoder.enc_score_head.weight") || name.contains("decoder.dec_score_head."))
}

/// Whether a name, without what comes before it, is a detector's.
pub fn known(name: &str) -> bool {
    [ModelType::RtDetr, ModelType::DFine, ModelType::Deimv2].into_iter().any(|kind| renamed(kind, name).is_some())
}

/// What transformers calls a tensor, or the parts that it is made of, row block by row block.
fn renamed(model_type: ModelType, name: &str) -> Option<Vec<String>> {
    let name = rows(model_type).find_map(|(original, canonical)| Some(Match::new(original, name)?.fill(canonical)))?;
    Some(alternatives(&with_prefix(model_type, &name)))
}

/// transformers keeps DEIMv2's backbone elsewhere.
fn with_prefix(model_type: ModelType, canonical: &str) -> String {
    match canonical.strip_prefix("backbone.model.") {
        Some(rest) if model_type == ModelType::Deimv2 => format!("conv_encoder.model.{rest}"),
        _ => canonical.into(),
    }
}

/// What the repository calls a tensor that transformers calls so.
pub fn spelled(model_type: ModelType, canonical: &str) -> Option<String> {
    rows(model_type).find_map(|(original, row)| {
        let row = with_prefix(model_type, row);
        alternatives(&row).iter().find_map(|row| Some(Match::new(row, canonical)?.fill(original)))
    })
}

/// A file's tensors under transformers' names, and which of the architectures they are of. What no row of the table matches keeps its name.
pub fn canonical<'a>(rooted: &Rooted<'a>) -> Result<(ModelType, BTreeMap<String, Named<'a>>), String> {
    refuse(rooted)?;
    let has = |part: &str| rooted.tensors.keys().any(|name| name.contains(part));
    let model_type = match () {
        () if has(".swish_ffn.") => ModelType::Deimv2,
        () if has("decoder.pre_bbox_head.") => ModelType::DFine,
        () if has(".num_points_scale") => ModelType::RtDetrV2,
        () => ModelType::RtDetr,
    };
    let mut tensors = BTreeMap::new();
    for (name, Named { foreign, tensor }) in &rooted.tensors {
        let names = renamed(model_type, name).unwrap_or_else(|| vec![name.clone()]);
        for (part, name) in names.iter().enumerate() {
            let tensor = tensor.rows(part, names.len());
            let tensor = tensor.ok_or_else(|| format!("tensor {foreign} can't be divided into {} blocks of rows", names.len()))?;
            tensors.insert(name.clone(), Named { foreign: foreign.clone(), tensor });
        }
    }
    Ok((model_type, tensors))
}

/// Refuses by name what these repositories can also make and detrim doesn't compute.
fn refuse(rooted: &Rooted) -> Result<(), String> {
    let find = |part: &str| rooted.tensors.iter().find(|(name, _)| name.contains(part)).map(|(_, named)| named.foreign.as_str());
    if let Some(name) = find("backbone.dinov3.").or_else(|| find("backbone.sta.")).or_else(|| find("dinov3")) {
        return Err(format!(
            "a DEIMv2 on a DINOv3 backbone ({name}), as its sizes S to X are, which detrim doesn't read; the sizes Atto, Femto, Pico and N have HGNetV2 and are read"
        ));
    }
    if let Some(name) = find(".conv_bn_fused.") {
        return Err(format!(
            "a model after convert_to_deploy ({name}), which lacks the heads of all decoder layers but the last; give the checkpoint that was trained"
        ));
    }
    let presnet = find("backbone.res_layers.").is_some();
    if presnet && find("backbone.conv1.conv1_3.").is_none() {
        return Err("a PResNet of another variant than d (its stem is one convolution), which is not supported".into());
    }
    if !presnet && find("backbone.stem.stem1.").is_none() {
        let name = rooted.tensors.iter().find(|(name, _)| name.starts_with("backbone.")).map_or("none", |(_, named)| &named.foreign);
        return Err(format!(
            "its backbone (tensors like {name}) is neither a PResNet (backbone.res_layers) nor an HGNetV2 (backbone.stages), which are supported"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        use ModelType::*;
        for (kind, original, canonical) in [
            (RtDetr, "backbone.conv1.conv1_1.conv.weight", &["backbone.model.embedder.embedder.0.convolution.weight"][..]),
            (
                RtDetr,
                "backbone.res_layers.1.blocks.0.short.conv.norm.bias",
                &["backbone.model.encoder.stages.1.layers.0.shortcut.1.normalization.bias"],
            ),
            (RtDetr, "backbone.res_layers.0.blocks.0.short.conv.weight", &["backbone.model.encoder.stages.0.layers.0.shortcut.convolution.weight"]),
            (RtDetrV2, "encoder.fpn_blocks.1.bottlenecks.2.conv1.norm.weight", &["encoder.fpn_blocks.1.bottlenecks.2.conv1.norm.weight"]),
            (
                RtDetrV2,
                "encoder.encoder.0.layers.0.self_attn.in_proj_bias",
                &["q_proj", "k_proj", "v_proj"].map(|part| &*format!("encoder.aifi.0.layers.0.self_attn.{part}.bias").leak()),
            ),
            (
                DFine,
                "backbone.stages.2.blocks.1.layers.0.conv2.bn.running_var",
                &["backbone.model.encoder.stages.2.blocks.1.layers.0.conv2.normalization.running_var"],
            ),
            (DFine, "backbone.stages.2.blocks.1.aggregation.0.lab.scale", &["backbone.model.encoder.stages.2.blocks.1.aggregation.0.lab.scale"]),
            (DFine, "encoder.pan_blocks.0.cv3.0.bottlenecks.1.conv2.conv.weight", &["encoder.pan_blocks.0.csp_rep2.bottlenecks.1.conv2.conv.weight"]),
            (DFine, "encoder.downsample_convs.0.0.cv2.conv.weight", &["encoder.downsample_convs.0.conv2.conv.weight"]),
            (DFine, "decoder.decoder.layers.1.cross_attn.num_points_scale", &["decoder.layers.1.encoder_attn.num_points_scale"]),
            (DFine, "decoder.dec_bbox_head.2.layers.0.weight", &["decoder.bbox_embed.2.layers.0.weight"]),
            (Deimv2, "backbone.stem.stem2a.lab.scale", &["conv_encoder.model.embedder.stem2a.lab.scale"]),
            (Deimv2, "encoder.fpn_block.cv4.conv.weight", &["encoder.fpn_block.conv2.conv.weight"]),
            (Deimv2, "encoder.pan_blocks.0.cv2.1.conv.weight", &["encoder.pan_blocks.0.csp_rep1.conv2.conv.weight"]),
            (Deimv2, "decoder.decoder.layers.0.norm3.scale", &["decoder.layers.0.final_layer_norm.weight"]),
            (Deimv2, "decoder.decoder.layers.0.swish_ffn.w12.bias", &["decoder.layers.0.mlp.gate_proj.bias", "decoder.layers.0.mlp.up_proj.bias"]),
        ] {
            assert_eq!(renamed(kind, original).unwrap_or_default(), canonical, "{original}");
            for name in canonical {
                assert_eq!(spelled(kind, name).as_deref(), Some(original), "{name}");
            }
            assert!(known(original), "{original}");
        }
        for name in [
            "decoder.layers.0.norm1.weight",
            "encoder.layers.0.self_attn.in_proj_weight",
            "backbone.0.body.conv1.weight",
            "model.28.enc_score_head.weight",
        ] {
            assert!(!known(name), "{name}");
        }
    }
}
