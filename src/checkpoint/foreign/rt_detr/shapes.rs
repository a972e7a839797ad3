//! The config of a checkpoint under an original repository's names, from its tensors' shapes. What shapes can't tell (heads, queries,
//! activations, the input size) is taken from what the file says besides, from the sizes that were published, or from options; the
//! published sizes are those of the repositories' `configs/`.

use super::super::evidence::Evidence;
use super::super::root::Named;
use super::{anchors, original, stated};
use crate::backend::SamplingMethod;
use crate::checkpoint::Guess;
use crate::config::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// A file's tensors by transformers' names.
struct Shapes<'t, 'a> {
    tensors: &'t BTreeMap<String, Named<'a>>,
    model_type: ModelType,
    /// What the backbone's names begin with.
    backbone: &'static str,
}

impl<'t> Shapes<'t, '_> {
    fn get(&self, name: &str) -> Option<&'t [usize]> {
        self.tensors.get(name).map(|named| &named.tensor.shape[..])
    }

    fn has(&self, beginning: &str) -> bool {
        self.tensors.range(beginning.to_string()..).next().is_some_and(|(name, _)| name.starts_with(beginning))
    }

    /// A side of a weight.
    fn side(&self, name: &str, axis: usize) -> Result<usize, String> {
        let spelled = || original::spelled(self.model_type, name).unwrap_or_else(|| name.into());
        let shape = self.get(name).ok_or_else(|| format!("tensor {} is missing", spelled()))?;
        shape.get(axis).copied().ok_or_else(|| format!("tensor {} has shape {shape:?}, expected more sides", spelled()))
    }

    /// How many modules of a list there are.
    fn count(&self, module: impl Fn(usize) -> String) -> usize {
        (0..=64).take_while(|&i| self.has(&module(i))).count()
    }

    fn number(&self, name: &str) -> Option<f32> {
        self.tensors.get(name)?.tensor.to_f32()?.first().copied()
    }
}

/// What a program states beside the tensors in the repositories' terms: in a `config.json` that `PyTorchModelHubMixin` saved, whose parts are
/// the arguments of the modules, or in a `.pth`.
struct Arguments<'e>(&'e Evidence);

impl Arguments<'_> {
    fn value(&self, module: &str, key: &str) -> Option<&Value> {
        let parts = self.0.config.iter().flatten().filter(|(name, _)| name.contains(module));
        let stated = parts.filter_map(|(_, part)| part.get(key)).next();
        // Of a `.pth` only what no other module has an argument of the same name for.
        let unique = ["num_queries", "eval_idx", "cross_attn_method", "mlp_act", "use_encoder_idx", "enc_act"].contains(&key);
        stated.or_else(|| self.0.options.get(key).filter(|_| unique)).filter(|value| !value.is_null())
    }

    fn number(&self, module: &str, key: &str) -> Option<usize> {
        self.value(module, key)?.as_u64().and_then(|number| usize::try_from(number).ok())
    }

    fn activation(&self, module: &str, key: &str) -> Result<Option<Activation>, String> {
        match self.value(module, key).and_then(Value::as_str) {
            None => Ok(None),
            Some("relu") => Ok(Some(Activation::Relu)),
            Some("gelu") => Ok(Some(Activation::Gelu)),
            Some("silu" | "swish") => Ok(Some(Activation::Silu)),
            Some(other) => Err(format!("{module}'s {key} is {other}; relu, gelu and silu are supported")),
        }
    }
}

pub fn config(
    model_type: ModelType,
    tensors: &BTreeMap<String, Named>,
    evidence: &Evidence,
    guess: &Guess,
    assumed: &mut Vec<String>,
) -> Result<RtDetr, String> {
    if guess.exact_transformers {
        return Err("exact_transformers is for tensors under transformers' names; these are the original repository's".into());
    }
    let backbone = if model_type == ModelType::Deimv2 { "conv_encoder.model" } else { "backbone.model" };
    let file = Shapes { tensors, model_type, backbone };
    let arguments = Arguments(evidence);
    let classes = file.side("decoder.class_embed.0.weight", 0)?;
    let scores = file.side("enc_score_head.weight", 0)?;
    if scores != classes {
        return Err(format!(
            "the encoder's score head has {scores} outputs and the decoder's have {classes}: query_select_method agnostic is not supported"
        ));
    }
    let lite = file.has("encoder.bi_fusion_conv.");
    let maps = file.count(|i| format!("encoder_input_proj.{i}."));
    let (backbone, strides) = file.backbone(maps)?;
    let d_model = file.side("enc_score_head.weight", 1)?;
    let decoder_heads = file.decoder_heads(guess)?;
    let encoder_heads = arguments.number("Encoder", "nhead").or(guess.heads).unwrap_or(decoder_heads.0);
    let neck = file.neck(lite, maps, encoder_heads, &arguments)?;
    let mut strides: Vec<usize> = if lite { vec![strides[0], 2 * strides[0]] } else { strides };
    let projections = file.count(|i| format!("decoder_input_proj.{i}."));
    let extra_levels = projections.saturating_sub(strides.len());
    for _ in 0..extra_levels {
        strides.push(2 * strides[strides.len() - 1]);
    }
    let learnt_content = file.get("weight_embedding.weight").is_some();
    let decoder = file.decoder(&backbone, &neck, strides.len(), decoder_heads.0, &arguments, guess, assumed)?;
    let queries = match file.get("weight_embedding.weight") {
        Some(shape) => shape.first().copied().unwrap_or_default(),
        None => guess.queries.or(arguments.number("Transformer", "num_queries")).unwrap_or_else(|| {
            let (queries, name) = published_queries(model_type, lite, d_model);
            assumed.push(format!("{queries} tokens become queries ({name}; --num-queries says otherwise)"));
            queries
        }),
    };
    if guess.heads.is_none() && arguments.number("Encoder", "nhead").is_none() {
        let which = if decoder_heads.1 { "in the encoder" } else { "in encoder and decoder" };
        if !(lite && decoder_heads.1) {
            assumed.push(format!("there are {encoder_heads} attention heads {which} (as published; --heads says otherwise)"));
        }
    }
    let labels = stated::labels(evidence, classes, guess, assumed)?;
    let activation = file.head_activation(&arguments, guess)?;
    let pixels = pixels(&file, &strides, lite, d_model, evidence, guess, assumed)?;
    if let (Resize::Stretch { height, width }, Neck::Hybrid(neck)) = (pixels.resize, &neck)
        && height != width
        && !neck.layers.is_empty()
    {
        assumed.push("positions in the encoder are those of rows and columns; the original numbers a map that isn't square column by column".into());
    }
    Ok(RtDetr {
        model_type,
        d_model,
        decoder_projection: projections > 0,
        extra_levels,
        selection: Selection { output: file.has("enc_output."), activation, learnt_content },
        decoder,
        queries,
        classes,
        labels,
        pixels,
        backbone,
        neck,
        sizes: Default::default(),
    })
}

/// How many queries the published size has, and its name.
fn published_queries(model_type: ModelType, lite: bool, d_model: usize) -> (usize, &'static str) {
    match (model_type, lite, d_model) {
        (ModelType::Deimv2, true, 64) => (100, "DEIMv2-Atto's"),
        (ModelType::Deimv2, true, 96) => (150, "DEIMv2-Femto's"),
        (ModelType::Deimv2, true, 112) => (200, "DEIMv2-Pico's"),
        _ => (300, "as published"),
    }
}

/// The input size that the stored anchors are for, else the published one.
fn pixels(
    file: &Shapes,
    strides: &[usize],
    lite: bool,
    d_model: usize,
    evidence: &Evidence,
    guess: &Guess,
    assumed: &mut Vec<String>,
) -> Result<Pixels, String> {
    let stored = file.tensors.get("anchors").and_then(|named| named.tensor.to_f32());
    let (size, whose) = match (stored.and_then(|anchors| anchors::input_size(&anchors, strides)), file.model_type, lite, d_model) {
        (Some(size), ..) => (size, "the size that its anchors are for"),
        (None, ModelType::Deimv2, true, 64) => ([320, 320], "DEIMv2-Atto's size"),
        (None, ModelType::Deimv2, true, 96) => ([416, 416], "DEIMv2-Femto's size"),
        (None, ..) => ([640, 640], "the published size"),
    };
    stated::pixels(evidence, guess, Resize::Stretch { height: size[0], width: size[1] }, whose, assumed)
}

impl Shapes<'_, '_> {
    /// The backbone, of whose stages the last `maps` go on, and their strides.
    fn backbone(&self, maps: usize) -> Result<(MultiScaleBackbone, Vec<usize>), String> {
        let stages = self.count(|s| format!("{}.encoder.stages.{s}.", self.backbone));
        let first = stages.checked_sub(maps).filter(|_| maps > 0);
        let first = first.ok_or_else(|| format!("its backbone has {stages} stages, but {maps} maps go on (encoder.input_proj)"))?;
        let outputs: Vec<usize> = (first..stages).collect();
        let hgnet = self.has(&format!("{}.embedder.stem1.", self.backbone));
        let backbone = if hgnet {
            MultiScaleBackbone::Hgnetv2(self.hgnet(stages, outputs)?)
        } else {
            MultiScaleBackbone::ResnetVd(self.resnet(stages, outputs)?)
        };
        let mut stride = 4;
        let mut strides = Vec::new();
        for s in 0..stages {
            stride *= match &backbone {
                MultiScaleBackbone::ResnetVd(_) => {
                    if s > 0 {
                        2
                    } else {
                        1
                    }
                }
                MultiScaleBackbone::Hgnetv2(net) => net.stages[s].downsample.unwrap_or(1),
            };
            strides.push(stride);
        }
        Ok((backbone, strides.split_off(first)))
    }

    fn resnet(&self, stages: usize, outputs: Vec<usize>) -> Result<ResNetVd, String> {
        let root = self.backbone;
        let layer = |s: usize, b: usize| format!("{root}.encoder.stages.{s}.layers.{b}");
        let basic = !self.has(&format!("{}.layer.2.", layer(0, 0)));
        for s in 1..stages {
            if !self.has(&format!("{}.shortcut.1.", layer(s, 0))) {
                return Err(format!("stage {s} of its PResNet has a strided shortcut without a pool (variant b), which is not supported"));
            }
        }
        let last = if basic { 1 } else { 2 };
        Ok(ResNetVd {
            stem: self.side(&format!("{root}.embedder.embedder.2.convolution.weight"), 0)?,
            channels: (0..stages).map(|s| self.side(&format!("{}.layer.{last}.convolution.weight", layer(s, 0)), 0)).collect::<Result<_, _>>()?,
            depths: (0..stages).map(|s| self.count(|b| format!("{}.", layer(s, b)))).collect(),
            basic,
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
            outputs,
        })
    }

    fn hgnet(&self, stages: usize, outputs: Vec<usize>) -> Result<HgNetV2, String> {
        let root = self.backbone;
        let stage = |s: usize| -> Result<HgStage, String> {
            let module = format!("{root}.encoder.stages.{s}");
            let block = format!("{module}.blocks.0");
            if self.has(&format!("{block}.aggregation.1.conv.")) {
                return Err("its HGNet has ESE modules (agg: ese), which are not supported".into());
            }
            let light = self.has(&format!("{block}.layers.0.conv1."));
            let conv = if light { format!("{block}.layers.0.conv2") } else { format!("{block}.layers.0") };
            Ok(HgStage {
                // Of PaddlePaddle's and of all that followed.
                downsample: self.has(&format!("{module}.downsample.")).then_some(2),
                blocks: self.count(|b| format!("{module}.blocks.{b}.")),
                layers: self.count(|l| format!("{block}.layers.{l}.")),
                middle: self.side(&format!("{conv}.convolution.weight"), 0)?,
                channels: self.side(&format!("{block}.aggregation.1.convolution.weight"), 0)?,
                kernel: self.side(&format!("{conv}.convolution.weight"), 2)?,
                light,
            })
        };
        Ok(HgNetV2 {
            stem: [
                self.side(&format!("{root}.embedder.stem1.convolution.weight"), 0)?,
                self.side(&format!("{root}.embedder.stem4.convolution.weight"), 0)?,
            ],
            stages: (0..stages).map(stage).collect::<Result<_, _>>()?,
            affine: self.has(&format!("{root}.embedder.stem1.lab.")),
            outputs,
        })
    }

    fn neck(&self, lite: bool, maps: usize, heads: usize, arguments: &Arguments) -> Result<Neck, String> {
        let activation = arguments.activation("Encoder", "act")?.unwrap_or(Activation::Silu);
        let width =
            self.side("encoder_input_proj.0.conv.weight", 0).or_else(|problem| self.side("encoder_input_proj.0.0.weight", 0).map_err(|_| problem))?;
        if lite {
            return Ok(Neck::Lite(LiteEncoder { width, block: self.block("encoder.fpn_block")?, activation }));
        }
        let encoders = self.count(|e| format!("encoder.aifi.{e}."));
        let layers = self.count(|i| format!("encoder.aifi.0.layers.{i}."));
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!("the encoder's width {width} is no multiple of {heads} attention heads (--heads says how many there are)"));
        }
        let layer = |i: usize| -> Result<EncoderLayer, String> {
            let ffn = self.side(&format!("encoder.aifi.0.layers.{i}.mlp.fc1.weight"), 0)?;
            Ok(EncoderLayer { self_attention: Attention { heads, head_width: width / heads }, ffn })
        };
        let stated: Option<Vec<usize>> = arguments.value("Encoder", "use_encoder_idx").and_then(|value| serde_json::from_value(value.clone()).ok());
        // Everywhere the smallest map.
        let encoded = stated.filter(|maps| maps.len() == encoders).unwrap_or_else(|| (maps.saturating_sub(encoders)..maps).collect());
        if maps < 2 {
            return Err("its hybrid encoder has one map only, which is not supported".into());
        }
        // Channels that the first block of the pyramid is given.
        let fused = self.side("encoder.fpn_blocks.0.conv1.conv.weight", 1)?;
        Ok(Neck::Hybrid(HybridEncoder {
            width,
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            encoded_maps: encoded,
            ffn_activation: arguments.activation("Encoder", "enc_act")?.unwrap_or(Activation::Gelu),
            position_temperature: Some(10_000.0),
            normalize_before: false,
            fusion: if fused == width { Fusion::Sum } else { Fusion::Concat },
            block: self.block("encoder.fpn_blocks.0")?,
            activation,
        }))
    }

    fn block(&self, module: &str) -> Result<FusionBlock, String> {
        if matches!(self.model_type, ModelType::RtDetr | ModelType::RtDetrV2) {
            let hidden = self.side(&format!("{module}.conv1.conv.weight"), 0)?;
            return Ok(FusionBlock::Csp { hidden, repeats: self.count(|i| format!("{module}.bottlenecks.{i}.")) });
        }
        let repeats = self.count(|i| format!("{module}.csp_rep1.bottlenecks.{i}."));
        let first = self.side(&format!("{module}.csp_rep1.conv1.conv.weight"), 0)?;
        Ok(match self.model_type {
            ModelType::Deimv2 => FusionBlock::Elan5 { hidden: first / 2, repeats, trailing: self.has(&format!("{module}.csp_rep1.conv2.")) },
            _ => FusionBlock::Elan4 { hidden: first, repeats },
        })
    }

    /// Heads of the decoder, and whether the file tells them: the points of all heads together over those of one.
    fn decoder_heads(&self, guess: &Guess) -> Result<(usize, bool), String> {
        let layer = "decoder.layers.0.encoder_attn";
        let all = self.side(&format!("{layer}.attention_weights.weight"), 0)?;
        match self.get(&format!("{layer}.num_points_scale")) {
            Some(&[each]) if each > 0 && all.is_multiple_of(each) => Ok((all / each, true)),
            Some(shape) => Err(format!("the sampling points' scale has shape {shape:?}, which doesn't go with {all} attention weights")),
            None => Ok((guess.heads.unwrap_or(8), false)),
        }
    }

    /// Sampling points of a head on each level: `num_points_scale` holds 1/n for each of a level's n points.
    fn points(&self, levels: usize, heads: usize) -> Result<Vec<usize>, String> {
        let layer = "decoder.layers.0.encoder_attn";
        let Some(scale) = self.tensors.get(&format!("{layer}.num_points_scale")).and_then(|named| named.tensor.to_f32()) else {
            let all = self.side(&format!("{layer}.attention_weights.weight"), 0)?;
            return match all.checked_div(heads * levels) {
                Some(points) if points > 0 && points * heads * levels == all => Ok(vec![points; levels]),
                _ => Err(format!("{all} attention weights don't go with {heads} heads on {levels} levels (--heads says how many there are)")),
            };
        };
        let mut points = Vec::new();
        let mut rest = &scale[..];
        while let Some(first) = rest.first() {
            let count = (1.0 / first).round() as usize;
            if count == 0 || count > rest.len() {
                return Err(format!("the sampling points' scale {scale:?} holds no inverse numbers of points"));
            }
            points.push(count);
            rest = &rest[count..];
        }
        if points.len() != levels {
            return Err(format!("there are sampling points on {} levels, but {levels} feature maps", points.len()));
        }
        Ok(points)
    }

    /// Inside the heads, the quality heads and DEIMv2's positions.
    fn head_activation(&self, arguments: &Arguments, guess: &Guess) -> Result<Activation, String> {
        let published = if self.model_type == ModelType::Deimv2 { Activation::Silu } else { Activation::Relu };
        let original = matches!(self.model_type, ModelType::RtDetr | ModelType::RtDetrV2);
        let stated = arguments.activation("Transformer", "mlp_act")?;
        // RT-DETR's heads have no choice.
        Ok(if original { published } else { guess.activation.or(stated).unwrap_or(published) })
    }

    #[expect(clippy::too_many_arguments)]
    fn decoder(
        &self,
        backbone: &MultiScaleBackbone,
        neck: &Neck,
        levels: usize,
        heads: usize,
        arguments: &Arguments,
        guess: &Guess,
        assumed: &mut Vec<String>,
    ) -> Result<Decoder, String> {
        let layer = "decoder.layers.0";
        let all = self.count(|i| format!("decoder.layers.{i}."));
        let d_model = self.side("enc_score_head.weight", 1)?;
        if heads == 0 || !d_model.is_multiple_of(heads) {
            return Err(format!("the decoder's width {d_model} is no multiple of {heads} attention heads (--heads says how many there are)"));
        }
        let layers = self.evaluated(all, backbone, neck, arguments, guess, assumed)?;
        let is_deimv2 = self.model_type == ModelType::Deimv2;
        let is_original = matches!(self.model_type, ModelType::RtDetr | ModelType::RtDetrV2);
        let inside = self.head_activation(arguments, guess)?;
        let published = if is_deimv2 { Activation::Silu } else { Activation::Relu };
        let stated = arguments.activation("Transformer", "activation")?;
        let activation = if is_deimv2 { inside } else { guess.activation.or(stated).unwrap_or(published) };
        if guess.activation.is_none() && stated.is_none() && !is_deimv2 {
            let also = if is_original { "" } else { " and the heads" };
            let others = if is_original { "" } else { "; DEIM's, which have the same names, are silu" };
            assumed.push(format!("the activation in the decoder{also} is relu (as published{others}; --activation says otherwise)"));
        }
        let stated = arguments.value("Transformer", "cross_attn_method").and_then(Value::as_str);
        let stated = stated.map(|method| if method == "discrete" { SamplingMethod::Discrete } else { SamplingMethod::Default });
        let method = guess.sampling.or(stated).unwrap_or_default();
        if self.model_type == ModelType::RtDetrV2 && guess.sampling.or(stated).is_none() {
            assumed.push(
                "values between pixels are interpolated (of the published ones, those with dsp in their name are not: --sampling discrete)".into(),
            );
        }
        Ok(Decoder {
            layers,
            self_attention: Attention { heads, head_width: d_model / heads },
            ffn: self.side(&format!("{layer}.mlp.{}.weight", if is_deimv2 { "gate_proj" } else { "fc1" }), 0)?,
            ffn_kind: if is_deimv2 { FfnKind::SwiGlu } else { FfnKind::Mlp },
            activation,
            norm: if is_deimv2 { NormKind::Rms } else { NormKind::Layer },
            points: self.points(levels, heads)?,
            offset_scale: 0.5,
            method,
            value_projection: self.has(&format!("{layer}.encoder_attn.value_proj.")),
            gateway: self.has(&format!("{layer}.gateway.")),
            position: QueryPosition {
                hidden: self.side("decoder.query_pos_head.layers.0.weight", 0)?,
                layers: self.count(|i| format!("decoder.query_pos_head.layers.{i}.")),
                activation: inside,
                once: is_deimv2,
                clamp: (!is_original).then_some(10.0),
            },
            boxes: if is_original { BoxHead::Offsets } else { self.distributions(layers, inside)? },
        })
    }

    /// Decoder layers up to the one that is evaluated.
    fn evaluated(
        &self,
        all: usize,
        backbone: &MultiScaleBackbone,
        neck: &Neck,
        arguments: &Arguments,
        guess: &Guess,
        assumed: &mut Vec<String>,
    ) -> Result<usize, String> {
        let stated = arguments.value("Transformer", "eval_idx").and_then(Value::as_i64);
        let stated = stated.and_then(|last| usize::try_from(if last < 0 { all as i64 + last + 1 } else { last + 1 }).ok());
        let layers = guess.decoder_layers.or(stated).unwrap_or_else(|| {
            // The "m" of RT-DETR-R50: a thinner neck, and the third of six layers is the one that counts.
            let resnet50 = matches!(backbone, MultiScaleBackbone::ResnetVd(net) if !net.basic && net.depths == [3, 4, 6, 3]);
            let thin = matches!(neck, Neck::Hybrid(neck) if matches!(neck.block, FusionBlock::Csp { hidden, .. } if 2 * hidden == neck.width));
            let (layers, whose) = if resnet50 && thin && all == 6 { (3, "as in r50vd_m") } else { (all, "all") };
            assumed.push(format!("{layers} of {all} decoder layers are evaluated ({whose}; --eval-layers says otherwise)"));
            layers
        });
        if layers == 0 || layers > all {
            return Err(format!("{layers} decoder layers can't be evaluated: it has {all}"));
        }
        Ok(layers)
    }

    fn distributions(&self, layers: usize, activation: Activation) -> Result<BoxHead, String> {
        let outputs = self.side("decoder.bbox_embed.0.layers.2.weight", 0)?;
        let quality = "decoder.lqe_layers.0.reg_conf.layers";
        let inputs = self.side(&format!("{quality}.0.weight"), 1)?;
        Ok(BoxHead::Distributions {
            bins: (outputs / 4).saturating_sub(1),
            reg_scale: self.number("decoder.reg_scale").unwrap_or(4.0),
            up: self.number("decoder.up").unwrap_or(0.5),
            shared: layers > 1 && (1..layers).all(|i| self.same_head(0, i)),
            activation,
            top: (inputs / 4).saturating_sub(1),
            quality_hidden: self.side(&format!("{quality}.0.weight"), 0)?,
            quality_layers: self.count(|i| format!("{quality}.{i}.")),
        })
    }

    /// A head that layers share is in the file once for each of them.
    fn same_head(&self, a: usize, b: usize) -> bool {
        let values = |i: usize, j: usize, part: &str| self.tensors.get(&format!("decoder.bbox_embed.{i}.layers.{j}.{part}"))?.tensor.to_f32();
        let same = |j: usize, part: &str| values(a, j, part).is_some_and(|values_a| Some(values_a) == values(b, j, part));
        (0..3).all(|j| same(j, "weight") && same(j, "bias"))
    }
}
