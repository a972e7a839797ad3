//! Finds the architecture of a foreign checkpoint: from the tensors' shapes, with what shapes can't tell from `config.json`,
//! the caller or DETR's defaults, and checked against `config.json` where there is one.

use super::evidence::Evidence;
use super::rename::Renamed;
use super::stated::{PerLayer, Stated, StatedPixels};
use crate::checkpoint::Guess;
use crate::checkpoint::class_names::from_names;
use crate::config::*;
use serde_json::Value;

/// Everything that is known about a foreign checkpoint.
pub struct Clues<'a> {
    pub tensors: &'a Renamed<'a>,
    pub evidence: &'a Evidence,
    pub guess: &'a Guess,
}

/// DETR's number of attention heads.
const HEADS: usize = 8;
/// Strides of the stages of EfficientNet-Lite.
const LITE_STRIDES: [usize; 7] = [1, 2, 2, 2, 1, 2, 1];

/// The config, and what had to be assumed for it.
pub fn derive(clues: &Clues) -> Result<(Config, Vec<String>), String> {
    let mut guesses = Vec::new();
    let (by_config, by_options) = (clues.evidence.config::<Stated>()?, Stated::of_options(&clues.evidence.options));
    let has_config = by_config.is_some();
    let by_config = by_config.unwrap_or_default();
    let stated = by_config.clone().or(by_options.clone());
    refuse_unsupported(clues, &stated)?;
    let d_model = clues.size("input_projection.weight", 0)?;
    let backbone = backbone(clues, &stated, &mut guesses)?;
    let heads = Heads::new(clues, &stated, d_model, &mut guesses);

    let encoder = (0..clues.count("encoder.")).map(|i| {
        let name = format!("encoder.{i}");
        let self_attention = heads.attention(&format!("{name}.self_attention"), stated.encoder_attention_heads.as_ref(), i)?;
        Ok(EncoderLayer { self_attention, ffn: clues.size(&format!("{name}.ffn1.weight"), 0)? })
    });
    let decoder = (0..clues.count("decoder.")).map(|i| {
        let name = format!("decoder.{i}");
        let attention = |part: &str| heads.attention(&format!("{name}.{part}"), stated.decoder_attention_heads.as_ref(), i);
        let (self_attention, cross_attention) = (Some(attention("self_attention")?), attention("cross_attention")?);
        Ok(DecoderLayer { self_attention, cross_attention, ffn: clues.size(&format!("{name}.ffn1.weight"), 0)? })
    });
    let (encoder, decoder) = (encoder.collect::<Result<_, String>>()?, decoder.collect::<Result<_, String>>()?);

    let activation = clues.guess.activation.or(stated.activation_function).unwrap_or_else(|| {
        guesses.push("the feed-forward networks' activation is relu (DETR's; --activation says otherwise)".into());
        Activation::Relu
    });
    let class_activation = clues.guess.class_activation.or(stated.class_activation).unwrap_or_else(|| {
        if !has_config {
            guesses.push("class logits go through softmax, the last one is no-object (DETR's; --class-activation says otherwise)".into());
        }
        ClassActivation::Softmax
    });
    let classes = clues.size("class_head.weight", 0)?;
    let config = Config {
        backbone,
        d_model,
        encoder,
        decoder,
        queries: clues.size("query_position", 0)?,
        classes,
        activation,
        class_activation,
        query_content: clues.tensors.shape("query_content").is_some(),
        box_reference: clues.tensors.shape("box_reference").is_some(),
        labels: labels(clues, classes.saturating_sub(usize::from(class_activation == ClassActivation::Softmax)), &mut guesses)?,
        pixels: pixels(clues, &stated, &mut guesses)?,
    };
    config.check().map_err(|error| error.to_string())?;
    compare(&config, &by_config).map_err(|problem| format!("config.json says {problem}"))?;
    // Options are what a program was started with, maybe long ago: tensors that were exchanged since are no reason to refuse the file.
    if let Err(problem) = compare(&config, &by_options) {
        guesses.push(format!("the tensors are right where the training's options say {problem}"));
    }
    Ok((config, guesses))
}

/// Of a file that holds a backbone alone: under the paper's transformer.
pub fn bare(clues: &Clues) -> Result<(Config, Vec<String>), String> {
    let mut guesses = Vec::new();
    // The config of a backbone alone has other entries; the caller may still say what a detector's would.
    let is_detectors = clues.evidence.config.as_ref().is_some_and(|config| config.get("model_type").is_none_or(|kind| kind == "detr"));
    let stated = if is_detectors { clues.evidence.config()?.unwrap_or_default() } else { Stated::default() };
    refuse_unsupported(clues, &stated)?;
    let backbone = backbone(clues, &stated, &mut guesses)?;
    let config = Config { pixels: pixels(clues, &stated, &mut guesses)?, ..Config::detr(backbone) };
    config.check().map_err(|error| error.to_string())?;
    Ok((config, guesses))
}

impl Clues<'_> {
    /// A side of a tensor that must be there.
    fn size(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.tensors.shape(name).ok_or_else(|| format!("tensor {} is missing", self.tensors.foreign_name(name)))?;
        shape.get(axis).copied().ok_or_else(|| format!("tensor {} has an impossible shape {shape:?}", self.tensors.tensors[name].foreign))
    }

    /// How many parts are numbered after this prefix. A gap counts, so that what is missing in it will be named.
    fn count(&self, prefix: &str) -> usize {
        let names = self.tensors.tensors.range(prefix.to_string()..).map(|(name, _)| name).take_while(|name| name.starts_with(prefix));
        let numbers = names.filter_map(|name| name[prefix.len()..].split('.').next()?.parse::<usize>().ok());
        numbers.max().map_or(0, |last| last + 1)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.shape(name).is_some()
    }
}

fn refuse_unsupported(clues: &Clues, stated: &Stated) -> Result<(), String> {
    stated.check()?;
    if clues.evidence.options.get("pre_norm") == Some(&Value::Bool(true)) {
        return Err("a DETR that normalises before its layers (the training's option pre_norm) is not supported".into());
    }
    for stray in &clues.tensors.strays {
        if stray.contains("row_embed") || stray.contains("column_embed") || stray.contains("col_embed") {
            return Err(format!("tensor {stray}: learned position embeddings are not supported (only sine)"));
        }
        if stray.contains("transformer.encoder.norm.") || stray.contains("model.encoder.layernorm.") {
            return Err(format!("tensor {stray}: a DETR that normalises before its layers (pre-norm) is not supported"));
        }
    }
    Ok(())
}

fn backbone(clues: &Clues, stated: &Stated, guesses: &mut Vec<String>) -> Result<Backbone, String> {
    let dilated = clues.guess.dilation.or(stated.is_dilated()?);
    if clues.tensors.tensors.keys().any(|name| name.contains(".depthwise.")) {
        if dilated == Some(true) {
            return Err("dilation (DC5) is not supported for EfficientNet".into());
        }
        return efficientnet(clues).map(Backbone::EfficientNetLite);
    }
    if clues.count("backbone.stage") < 2 {
        return Err(
            "it holds no backbone that detrim knows (ResNet or EfficientNet-Lite under the names of timm, torchvision or transformers)".into()
        );
    }
    let dilated = dilated.unwrap_or_else(|| {
        guesses.push("the backbone's last stage is not dilated (--dilation says otherwise)".into());
        false
    });
    let first_stride = if stated.backbone_config.as_ref().and_then(|b| b.downsample_in_first_stage) == Some(true) { 2 } else { 1 };
    resnet(clues, dilated, first_stride).map(Backbone::Resnet)
}

fn resnet(clues: &Clues, dilated: bool, first_stride: usize) -> Result<ResNet, String> {
    let last = clues.count("backbone.stage") - 1;
    let stages = (1..=last).map(|s| {
        let mut channels = 0;
        let blocks = (0..clues.count(&format!("backbone.stage{s}.block"))).map(|b| {
            let name = format!("backbone.stage{s}.block{b}");
            let bottleneck = clues.has(&format!("{name}.conv3.weight"));
            let width = |conv: usize| clues.size(&format!("{name}.conv{conv}.weight"), 0);
            let inner = if bottleneck { vec![width(1)?, width(2)?] } else { vec![width(1)?] };
            channels = width(inner.len() + 1)?;
            let stride = match (b, s) {
                (0, 1) => first_stride,
                (0, _) => 2,
                _ => 1,
            };
            let projection = clues.has(&format!("{name}.projection.weight"));
            let block = ResNetBlock { inner, stride, dilation: 1, second_dilation: None, projection };
            Ok(if dilated && s == last { block.dilated(b == 0) } else { block })
        });
        let blocks = blocks.collect::<Result<Vec<_>, String>>()?;
        Ok(ResNetStage { channels, blocks })
    });
    Ok(ResNet { stem: clues.size("backbone.stem.weight", 0)?, stages: stages.collect::<Result<_, String>>()? })
}

fn efficientnet(clues: &Clues) -> Result<EfficientNetLite, String> {
    let stem = clues.size("backbone.stem.weight", 0)?;
    let mut input = stem;
    let count = clues.count("backbone.stage");
    if count != LITE_STRIDES.len() {
        return Err(format!("its EfficientNet has {count} stages; EfficientNet-Lite has {}", LITE_STRIDES.len()));
    }
    let stages = LITE_STRIDES.iter().enumerate().map(|(s, &stride)| {
        let blocks = (0..clues.count(&format!("backbone.stage{s}.block"))).map(|b| {
            let name = format!("backbone.stage{s}.block{b}");
            let channels = clues.size(&format!("{name}.project.weight"), 0)?;
            let stride = if b == 0 { stride } else { 1 };
            let expand = format!("{name}.expand.weight");
            let expansion = clues.has(&expand).then(|| clues.size(&expand, 0)).transpose()?;
            let kernel = clues.size(&format!("{name}.depthwise.weight"), 2)?;
            let block = InvertedResidual { expansion, kernel, stride, channels, residual: stride == 1 && input == channels };
            input = channels;
            Ok(block)
        });
        blocks.collect::<Result<Vec<_>, String>>()
    });
    Ok(EfficientNetLite { stem, stages: stages.collect::<Result<_, _>>()? })
}

/// How the width of an attention layer is divided into heads.
struct Heads<'a> {
    clues: &'a Clues<'a>,
    d_model: usize,
    /// For layers about which nothing is stated.
    default: usize,
    head_width: Option<usize>,
}

impl<'a> Heads<'a> {
    fn new(clues: &'a Clues<'a>, stated: &Stated, d_model: usize, guesses: &mut Vec<String>) -> Self {
        let known = clues.guess.heads.is_some() || (stated.encoder_attention_heads.is_some() && stated.decoder_attention_heads.is_some());
        let head_width = clues.guess.head_width.or(stated.head_width);
        if !known && head_width.is_none() {
            guesses.push(format!("every attention has {HEADS} heads (DETR's; --heads says otherwise)"));
        }
        Self { clues, d_model, default: clues.guess.heads.unwrap_or(HEADS), head_width }
    }

    fn attention(&self, name: &str, stated: Option<&PerLayer>, layer: usize) -> Result<Attention, String> {
        let name = format!("{name}.query.weight");
        let width = self.clues.size(&name, 0)?;
        let stated = if self.clues.guess.heads.is_some() { None } else { stated };
        let heads = stated.map_or(Some(self.default), |heads| heads.of(layer));
        let heads = heads.filter(|heads| *heads > 0).ok_or_else(|| format!("no number of attention heads is stated for layer {layer}"))?;
        let (head_width, rest) = match (self.head_width, stated) {
            (Some(head_width), _) => (head_width, 0),
            (None, Some(PerLayer::Each(_))) => (width / heads, width % heads),
            // A trimmed layer has fewer heads of the width that all had.
            (None, _) => (self.d_model / heads, self.d_model % heads),
        };
        if head_width == 0 || rest != 0 || !width.is_multiple_of(head_width) {
            let foreign = &self.clues.tensors.tensors[&name].foreign;
            let division = self.head_width.map_or(format!("{heads} heads"), |width| format!("heads of width {width}"));
            return Err(format!("tensor {foreign} has {width} rows, which can't be divided into {division} (see --heads and --head-width)"));
        }
        Ok(Attention { heads: width / head_width, head_width })
    }
}

fn labels(clues: &Clues, classes: usize, guesses: &mut Vec<String>) -> Result<Vec<Label>, String> {
    if let Some(names) = clues.evidence.class_names(clues.guess, classes)? {
        return names.labels(classes, guesses);
    }
    if classes == 91 {
        // What DETR's own program trains on, where it says so.
        if clues.evidence.options.get("dataset_file") != Some(&"coco".into()) {
            guesses.push("the 91 classes are COCO's (--class-names FILE says otherwise)".into());
        }
        return Ok(Label::coco91());
    }
    guesses.push(format!("the {classes} classes have no names (--class-names FILE names them: a name a line, or a config.json with id2label)"));
    Ok(from_names((0..classes).map(|i| format!("class {i}")).collect()))
}

fn pixels(clues: &Clues, stated: &Stated, guesses: &mut Vec<String>) -> Result<Pixels, String> {
    let ours = stated.pixels.as_ref().map(|pixels: &StatedPixels| Ok::<_, String>((pixels.rule()?, pixels.mean, pixels.std))).transpose()?;
    let pixels = clues.evidence.pixels(clues.guess, ours, Pixels::detr(), ["DETR's"; 2], guesses)?;
    if let Some([height, width]) = clues.evidence.padding()?.filter(|_| ours.is_none() && clues.guess.resize.is_none()) {
        guesses.push(format!("pictures aren't filled up to {height} × {width} (pad_size): the filling is masked, and would change features at the lower and right border only"));
    }
    Ok(pixels)
}

/// Where the tensors make another network than is stated.
fn compare(config: &Config, stated: &Stated) -> Result<(), String> {
    let mut claims = vec![
        ("d_model", stated.d_model, config.d_model),
        ("num_queries", stated.num_queries, config.queries),
        ("encoder_layers", stated.encoder_layers, config.encoder.len()),
        ("decoder_layers", stated.decoder_layers, config.decoder.len()),
        ("num_labels", stated.num_labels, config.labels.len()),
    ];
    let per_layer = |claim: &Option<PerLayer>, layer: usize| claim.as_ref().and_then(|claim| claim.of(layer));
    for (i, layer) in config.encoder.iter().enumerate() {
        claims.push(("encoder_ffn_dim", per_layer(&stated.encoder_ffn_dim, i), layer.ffn));
    }
    for (i, layer) in config.decoder.iter().enumerate() {
        claims.push(("decoder_ffn_dim", per_layer(&stated.decoder_ffn_dim, i), layer.ffn));
    }
    let counts: Vec<usize> = match &config.backbone {
        Backbone::Resnet(net) => net.stages.iter().map(|s| s.blocks.len()).collect(),
        Backbone::EfficientNetLite(net) => net.stages.iter().map(Vec::len).collect(),
    };
    if let Some((name, claim, found)) = claims.into_iter().find(|(_, claim, found)| claim.is_some_and(|claim| claim != *found)) {
        return Err(format!("{name} is {}, but the tensors say {found}", claim.unwrap_or_default()));
    }
    if let Some(depths) = stated.backbone_config.as_ref().and_then(|b| b.depths.as_ref()).filter(|depths| **depths != counts) {
        return Err(format!("the backbone's stages have {depths:?} blocks, but the tensors say {counts:?}"));
    }
    if let Some(name) = stated.backbone_name() {
        let known: Vec<usize> = match (name, name.strip_prefix("resnet").and_then(|depth| ResNet::of_depth(depth.parse().ok()?, false))) {
            ("tf_efficientnet_lite0", _) => EfficientNetLite::lite0().stages.iter().map(Vec::len).collect(),
            (_, Some(net)) => net.stages.iter().map(|s| s.blocks.len()).collect(),
            _ => return Err(format!("the backbone is {name}, which is not supported (resnet18, 34, 50, 101 or tf_efficientnet_lite0)")),
        };
        if counts != known {
            return Err(format!("the backbone is {name}, whose stages have {known:?} blocks, but the tensors say {counts:?}"));
        }
    }
    Ok(())
}
