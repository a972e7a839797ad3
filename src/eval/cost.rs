//! What a network costs: parameters, and multiply-accumulates at a given input size, part by part, from its config alone.
//!
//! Counted as multiply-accumulates are convolutions, linear maps and the two products of attention; biases, norms and softmax are not.
//! Counted as parameters is what is trained: not the backbone's biases, which are its frozen batch norm. So do published tables.

use crate::config::{Architecture, Backbone, Config, NetworkConfig, RtDetr};
use crate::eval::operations::{Step, operations};
use crate::layout::{Entry, Role, layout_of};

/// A part of a network and its cost for one picture.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// The beginning of its tensors' names, as `encoder.0`; `queries` and `heads` gather several.
    pub name: String,
    /// What it is, in a few words.
    pub shape: String,
    pub parameters: usize,
    pub macs: u64,
}

/// The parts of a network in the order in which it uses them; `size` is the height and width of the input.
pub fn cost(config: &impl NetworkConfig, size: [usize; 2]) -> Vec<Part> {
    let steps = operations(config, size);
    let mut parts: Vec<Part> = Vec::new();
    let architecture = config.architecture();
    for entry in layout_of(&architecture) {
        let name = part(&entry.name);
        let place = parts.iter().position(|part| part.name == name).unwrap_or_else(|| {
            parts.push(Part { name: name.into(), shape: describe(&architecture, name, &steps), parameters: 0, macs: 0 });
            parts.len() - 1
        });
        parts[place].parameters += parameters(&entry);
    }
    for Step { module, operation } in &steps {
        let name = part(module);
        if let Some(part) = parts.iter_mut().find(|part| part.name == name) {
            part.macs = part.macs.saturating_add(operation.macs());
        }
    }
    parts
}

/// How many of a tensor's numbers are counted.
pub fn parameters(entry: &Entry) -> usize {
    let frozen = entry.role == Role::Bias && entry.name.starts_with("backbone.");
    if frozen { 0 } else { entry.shape.iter().product() }
}

/// The part that a tensor belongs to.
pub fn part(tensor: &str) -> &str {
    let first = tensor.split('.').next().unwrap_or(tensor);
    match first {
        "backbone" | "encoder" | "decoder" => tensor.match_indices('.').nth(1).map_or(tensor, |(end, _)| &tensor[..end]),
        "query_position" | "query_content" | "box_reference" => "queries",
        "class_head" | "box_head" | "initial_box" | "quality_head" => "heads",
        _ => first,
    }
}

fn describe(architecture: &Architecture, part: &str, steps: &[Step]) -> String {
    // What a part's last operation makes.
    let [height, width] = steps.iter().rev().find(|step| self::part(&step.module) == part).map_or([0, 0], |step| step.operation.map);
    let config = match architecture {
        Architecture::Detr(config) => config,
        Architecture::RtDetr(config) => return describe_rt_detr(config, part, [height, width]),
    };
    let heads = |a: crate::config::Attention| format!("{} × {}", a.heads, a.head_width);
    if let Some((kind, i)) = layer(part) {
        return match kind {
            "encoder" => format!("heads {}, FFN {}", heads(config.encoder[i].self_attention), config.encoder[i].ffn),
            _ => {
                let layer = &config.decoder[i];
                match layer.self_attention {
                    Some(own) => format!("heads {} and {}, FFN {}", heads(own), heads(layer.cross_attention), layer.ffn),
                    None => format!("heads {} (self-attention folded), FFN {}", heads(layer.cross_attention), layer.ffn),
                }
            }
        };
    }
    match part {
        "input_projection" => format!("{} → {} channels, {height} × {width} tokens", config.backbone.channels(), config.d_model),
        "queries" => format!("{} of {}", config.queries, config.d_model),
        "heads" => format!("{} classes, boxes", config.classes),
        _ => part.strip_prefix("backbone.").map(|stage| describe_stage(config, stage, [height, width])).unwrap_or_default(),
    }
}

fn describe_stage(config: &Config, stage: &str, [height, width]: [usize; 2]) -> String {
    let number = stage.strip_prefix("stage").and_then(|number| number.parse::<usize>().ok());
    let (blocks, channels) = match (&config.backbone, number) {
        (Backbone::Resnet(net), Some(number)) => {
            let stage = &net.stages[number - 1];
            let kind = if stage.blocks.iter().any(|b| b.inner.len() == 2) { "bottleneck" } else { "basic" };
            (format!("{} {kind} blocks, ", stage.blocks.len()), stage.channels)
        }
        (Backbone::EfficientNetLite(net), Some(number)) => {
            let stage = &net.stages[number];
            (format!("{} inverted blocks, ", stage.len()), stage.last().map_or(0, |b| b.channels))
        }
        (Backbone::Resnet(net), None) => (String::new(), net.stem),
        (Backbone::EfficientNetLite(net), None) => (String::new(), net.stem),
    };
    format!("{blocks}{channels} channels, {height} × {width}")
}

/// `encoder.3` → its kind and number.
fn describe_rt_detr(config: &RtDetr, part: &str, [height, width]: [usize; 2]) -> String {
    let decoder = &config.decoder;
    let heads = format!("{} × {}", decoder.self_attention.heads, decoder.self_attention.head_width);
    match part {
        "neck" => format!("{} channels", config.neck.width()),
        "selection" => format!("{} of the tokens", config.queries),
        "heads" => format!("{} classes, boxes", config.classes),
        _ if part.starts_with("decoder.") => format!("heads {heads}, points {:?}, FFN {}", decoder.points, decoder.ffn),
        _ if part.starts_with("backbone.") => format!("{height} × {width}"),
        _ => String::new(),
    }
}

fn layer(part: &str) -> Option<(&str, usize)> {
    let (kind, number) = part.split_once('.')?;
    Some((kind, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EfficientNetLite, ResNet};

    fn total(config: &Config, size: [usize; 2]) -> (usize, u64) {
        let parts = cost(config, size);
        (parts.iter().map(|p| p.parameters).sum(), parts.iter().map(|p| p.macs).sum())
    }

    #[test]
    fn detr_r50_costs_what_is_published() {
        let config = Config::detr(Backbone::Resnet(ResNet::of_depth(50, false).unwrap()));
        let (parameters, macs) = total(&config, [800, 1066]);
        // transformers: sum(p.numel() for p in DetrForObjectDetection(DetrConfig()).parameters())
        assert_eq!(parameters, 41_524_768);
        assert_eq!((macs as f64 / 1e8).round() / 10.0, 81.2, "{macs}");
    }

    #[test]
    fn dilation_makes_the_transformer_see_more_tokens() {
        let parts = |dilated| cost(&Config::detr(Backbone::Resnet(ResNet::of_depth(50, dilated).unwrap())), [320, 320]);
        let encoder = |parts: Vec<Part>| parts.into_iter().find(|p| p.name == "encoder.0").unwrap();
        let (plain, dilated) = (encoder(parts(false)), encoder(parts(true)));
        assert_eq!(plain.parameters, dilated.parameters);
        // 100 and 400 tokens through 4 · 256² and 2 · 256 · 2048 weights, and attention's two products
        assert_eq!(plain.macs, 100 * (4 * 256 * 256 + 2 * 256 * 2048) + 2 * 100 * 100 * 256);
        assert_eq!(dilated.macs, 400 * (4 * 256 * 256 + 2 * 256 * 2048) + 2 * 400 * 400 * 256);
    }

    #[test]
    fn every_part_of_an_efficientnet_is_counted() {
        let parts = cost(&Config::detr(Backbone::EfficientNetLite(EfficientNetLite::lite0())), [384, 384]);
        let stem = &parts[0];
        assert_eq!((stem.parameters, stem.macs), (32 * 27, 192 * 192 * 32 * 27));
        // depthwise 3 × 3 on 32 channels, then 32 → 16
        assert_eq!(parts[1].macs, 192 * 192 * (9 * 32 + 32 * 16));
        assert_eq!(parts[1].name, "backbone.stage0");
    }
}
