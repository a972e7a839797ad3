//! What a network costs: parameters, and multiply-accumulates at a given input size, part by part, from its config alone.
//!
//! Counted as multiply-accumulates are convolutions, linear maps and the two products of attention; biases, norms and softmax are not.
//! Counted as parameters is what is trained: not the backbone's biases, which are its frozen batch norm. So do published tables.

use crate::backend::Window;
use crate::config::{Backbone, Config};
use crate::layout::{Role, layout};
use crate::model::{efficientnet, resnet};
use std::collections::HashMap;

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
pub fn cost(config: &Config, size: [usize; 2]) -> Vec<Part> {
    let sizes = Sizes::new(config, size);
    let mut parts: Vec<Part> = Vec::new();
    for entry in layout(config) {
        let name = part(&entry.name);
        let elements: usize = entry.shape.iter().product();
        let macs = match entry.role {
            Role::Matrix | Role::Depthwise => (elements as u64).saturating_mul(sizes.places(&entry.name) as u64),
            _ => 0,
        };
        let place = parts.iter().position(|part| part.name == name).unwrap_or_else(|| {
            parts.push(Part { name: name.into(), shape: sizes.describe(config, name), parameters: 0, macs: sizes.attention(config, name) });
            parts.len() - 1
        });
        let frozen = entry.role == Role::Bias && entry.name.starts_with("backbone.");
        parts[place].parameters += if frozen { 0 } else { elements };
        parts[place].macs = parts[place].macs.saturating_add(macs);
    }
    parts
}

/// The part that a tensor belongs to.
pub fn part(tensor: &str) -> &str {
    let first = tensor.split('.').next().unwrap_or(tensor);
    match first {
        "backbone" | "encoder" | "decoder" => tensor.match_indices('.').nth(1).map_or(tensor, |(end, _)| &tensor[..end]),
        "query_position" | "query_content" | "box_reference" => "queries",
        "class_head" | "box_head" => "heads",
        _ => first,
    }
}

/// The sizes of the activations.
struct Sizes {
    /// Rows and columns after a convolution, by the name of its module.
    maps: HashMap<String, [usize; 2]>,
    /// Of the feature map.
    last: [usize; 2],
    queries: usize,
}

impl Sizes {
    fn new(config: &Config, size: [usize; 2]) -> Self {
        let mut walk = Sizes { maps: HashMap::new(), last: size, queries: config.queries };
        match &config.backbone {
            Backbone::Resnet(net) => {
                walk.conv("backbone.stem", resnet::STEM);
                walk.conv("pool", resnet::POOL);
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.blocks.iter().enumerate() {
                        let name = format!("backbone.stage{}.block{b}", s + 1);
                        let input = walk.last;
                        for (i, window) in resnet::windows(block).into_iter().enumerate() {
                            walk.conv(&format!("{name}.conv{}", i + 1), window);
                        }
                        let output = walk.last;
                        walk.last = input;
                        walk.conv(&format!("{name}.projection"), resnet::shortcut(block));
                        walk.last = output;
                    }
                }
            }
            Backbone::EfficientNetLite(net) => {
                walk.conv("backbone.stem", efficientnet::STEM);
                for (s, stage) in net.stages.iter().enumerate() {
                    for (b, block) in stage.iter().enumerate() {
                        let name = format!("backbone.stage{s}.block{b}");
                        walk.conv(&format!("{name}.expand"), efficientnet::POINTWISE);
                        walk.conv(&format!("{name}.depthwise"), efficientnet::depthwise_window(block));
                        walk.conv(&format!("{name}.project"), efficientnet::POINTWISE);
                    }
                }
            }
        }
        walk
    }

    fn conv(&mut self, module: &str, window: Window) {
        let place = window.place(self.last[0], self.last[1]);
        self.last = [place.out_height, place.out_width];
        self.maps.insert(module.into(), self.last);
    }

    /// Places of the feature map, which are the encoder's tokens.
    fn tokens(&self) -> usize {
        self.last[0] * self.last[1]
    }

    /// How often a weight is applied.
    fn places(&self, tensor: &str) -> usize {
        let module = tensor.trim_end_matches(".weight");
        if let Some([height, width]) = self.maps.get(module) {
            return height * width;
        }
        let of_memory = tensor.contains("cross_attention.key") || tensor.contains("cross_attention.value");
        if tensor.starts_with("encoder.") || tensor.starts_with("input_projection.") || of_memory { self.tokens() } else { self.queries }
    }

    /// The two products of a layer's attentions.
    fn attention(&self, config: &Config, part: &str) -> u64 {
        let products = |queries: usize, keys: usize, width: usize| (queries as u64 * keys as u64).saturating_mul(2 * width as u64);
        match layer(part) {
            Some(("encoder", i)) => products(self.tokens(), self.tokens(), config.encoder[i].self_attention.width()),
            Some(("decoder", i)) => {
                let layer = &config.decoder[i];
                let own = products(self.queries, self.queries, layer.self_attention.width());
                own.saturating_add(products(self.queries, self.tokens(), layer.cross_attention.width()))
            }
            _ => 0,
        }
    }

    fn describe(&self, config: &Config, part: &str) -> String {
        let heads = |a: crate::config::Attention| format!("{} × {}", a.heads, a.head_width);
        if let Some((kind, i)) = layer(part) {
            return match kind {
                "encoder" => format!("heads {}, FFN {}", heads(config.encoder[i].self_attention), config.encoder[i].ffn),
                _ => {
                    let layer = &config.decoder[i];
                    format!("heads {} and {}, FFN {}", heads(layer.self_attention), heads(layer.cross_attention), layer.ffn)
                }
            };
        }
        match part {
            "input_projection" => format!("{} → {} channels, {} × {} tokens", config.backbone.channels(), config.d_model, self.last[0], self.last[1]),
            "queries" => format!("{} of {}", config.queries, config.d_model),
            "heads" => format!("{} classes, boxes", config.classes),
            _ => part.strip_prefix("backbone.").map(|stage| self.describe_stage(config, stage)).unwrap_or_default(),
        }
    }

    fn describe_stage(&self, config: &Config, stage: &str) -> String {
        let number = stage.strip_prefix("stage").and_then(|number| number.parse::<usize>().ok());
        let (blocks, channels, last) = match (&config.backbone, number) {
            (Backbone::Resnet(net), Some(number)) => {
                let stage = &net.stages[number - 1];
                let kind = if stage.blocks.iter().any(|b| b.inner.len() == 2) { "bottleneck" } else { "basic" };
                let blocks = format!("{} {kind} blocks, ", stage.blocks.len());
                (blocks, stage.channels, format!(".block{}.conv1", stage.blocks.len().saturating_sub(1)))
            }
            (Backbone::EfficientNetLite(net), Some(number)) => {
                let stage = &net.stages[number];
                let last = stage.len().saturating_sub(1);
                (format!("{} inverted blocks, ", stage.len()), stage.last().map_or(0, |b| b.channels), format!(".block{last}.project"))
            }
            (Backbone::Resnet(net), None) => (String::new(), net.stem, String::new()),
            (Backbone::EfficientNetLite(net), None) => (String::new(), net.stem, String::new()),
        };
        let [height, width] = self.maps.get(&format!("backbone.{stage}{last}")).copied().unwrap_or_default();
        format!("{blocks}{channels} channels, {height} × {width}")
    }
}

/// `encoder.3` → its kind and number.
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
