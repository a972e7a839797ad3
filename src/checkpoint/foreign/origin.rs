//! Says what a file holds whose tensors aren't a detector's that detrim knows: some of their names, and the project they are likely of.

/// Beginnings or parts of names by which a project's files are told, and what to say of it. The first that fits counts.
const ORIGINS: [(&[&str], &str); 18] = [
    (&["lora_A.", "lora_B.", "lora_embedding_"], "an adapter of PEFT's, not a whole model: merge it first (merge_and_unload) and save that"),
    // The head has a number, as all of its modules have.
    (
        &[
            "0.enc_score_head.",
            "1.enc_score_head.",
            "2.enc_score_head.",
            "3.enc_score_head.",
            "4.enc_score_head.",
            "5.enc_score_head.",
            "6.enc_score_head.",
            "7.enc_score_head.",
            "8.enc_score_head.",
            "9.enc_score_head.",
        ],
        "an RT-DETR of ultralytics, whose network is another one: give a checkpoint of lyuwenyu/RT-DETR or of Hugging Face's transformers",
    ),
    (
        &["bbox_head.", "neck.convs", "self_attn.attn.in_proj"],
        "mmdetection's names, whose modules detrim doesn't read: give a checkpoint of the model's own repository or of Hugging Face's transformers",
    ),
    (
        &["attentions.0.attn."],
        "detrex's names, whose modules detrim doesn't read: give a checkpoint of the model's own repository or of Hugging Face's transformers",
    ),
    (
        &["decoder_input_proj.", "encoder_input_proj.", "encoder.aifi."],
        "transformers' names of an RT-DETR, D-FINE or DEIMv2: its config.json must lie beside it",
    ),
    (&["proposal_generator.", "backbone.bottom_up.", "roi_heads.box_pooler"], "detectron2's names"),
    (&["rpn.head.", "roi_heads.box_head", "backbone.fpn."], "torchvision's names of a Faster R-CNN"),
    (&["model.0.conv.weight", "model.1.conv.weight", "model.model.0.conv.weight"], "ultralytics' names (YOLO)"),
    (&["encoder.lateral_convs", "dec_score_head", "enc_score_head"], "names of an RT-DETR or D-FINE"),
    (&["level_embed", "sampling_offsets"], "names of a Deformable DETR or a successor of it"),
    (&["vit.embeddings.", "vit.encoder.layer"], "transformers' names of a YOLOS"),
    (&["attn.qkv.weight", "patch_embed.proj"], "timm's names of a vision transformer"),
    (&["cond_stage_model.", "unet.", "diffusion_model."], "names of a diffusion model"),
    (&["self_attn.rotary_emb", "embed_tokens.weight", "lm_head.weight"], "names of a language model"),
    (&["detection_transformer", "ca_qcontent_proj", "ref_point_head"], "names of a Conditional or DAB-DETR"),
    (&["img_backbone.", "pts_bbox_head."], "mmdetection3d's names"),
    (&["exp_avg", "param_groups"], "an optimiser's state"),
    (&["layer1.0.conv1.weight", "conv_stem.weight", "embedder.embedder.convolution"], "names of an image classifier or a backbone"),
];

/// A name as it may be shown: without control characters, cut where it is too long.
pub fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let text: String = name.chars().flat_map(char::escape_debug).take(MOST).collect();
    if text.chars().count() == MOST { text + "…" } else { text }
}

/// `its 812 tensors are called a, b, c, … (mmdetection's names)`
pub fn describe<'n>(names: impl Iterator<Item = &'n str> + Clone) -> String {
    const SHOWN: usize = 4;
    let count = names.clone().count();
    // The first of each part of the network says more than the first few of all.
    let mut first: Vec<&str> = Vec::new();
    for name in names.clone() {
        let part = |name: &'n str| name.split('.').next();
        if first.len() < SHOWN && !first.iter().any(|other| part(other) == part(name)) {
            first.push(name);
        }
    }
    if let (1, Some(more)) = (first.len(), names.clone().nth(1)) {
        first.push(more);
    }
    let list = first.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    let more = if count > first.len() { ", …" } else { "" };
    let origin = origin(names).map(|origin| format!(" ({origin})")).unwrap_or_default();
    match count {
        0 => "it holds no tensors".into(),
        1 => format!("its one tensor is called {list}{origin}"),
        _ => format!("its {count} tensors are called {list}{more}{origin}"),
    }
}

fn origin<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<&'static str> {
    let fits = |marks: &[&str]| names.clone().any(|name| marks.iter().any(|mark| name.contains(mark)));
    ORIGINS.iter().find(|(marks, _)| fits(marks)).map(|(_, origin)| *origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_described_by_its_names() {
        let tell = |names: &[&str]| describe(names.iter().copied());
        let found = tell(&["backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "bbox_head.fc_cls.bias", "bbox_head.fc_cls.weight"]);
        let expected = "its 4 tensors are called backbone.conv1.weight, bbox_head.fc_cls.bias, … (mmdetection's names, ";
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(tell(&["a\u{1b}[2J"]), "its one tensor is called a\\u{1b}[2J");
        assert!(tell(&["model.22.cv2.weight", "model.0.conv.weight"]).ends_with("(ultralytics' names (YOLO))"));
        assert!(tell(&["blocks.0.attn.qkv.weight", "head.weight"]).contains("timm"));
        assert!(tell(&["transformer.encoder.layers.0.attentions.0.attn.in_proj_weight"]).contains("detrex"));
        assert!(shown(&"x".repeat(1000)).chars().count() < 100);
    }
}
