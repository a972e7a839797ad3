//! RT-DETR and its descendants RT-DETRv2, D-FINE and DEIMv2 (the papers are named in `config/rt_detr.rs`): backbone → neck → selection of
//! tokens → decoder whose layers refine boxes.

use super::box_head::{BoxHead, EdgeDistributions, Refinement};
use super::conv_layer::{ConvLayer, Shape};
use super::deformable::{BoxQueries, DeformableLayer, Levels};
use super::detr::Output;
use super::hgnet::HgNetV2;
use super::load::{Loader, Source};
use super::mlp::Mlp;
use super::neck::Neck;
use super::resnet_vd::ResNetVd;
use crate::backend::{Backend, Deformable};
use crate::config::{Activation, MultiScaleBackbone as BackboneConfig, RtDetr as Config};
use crate::error::{Error, Result};
use crate::weights::HostTensor;

/// Side of an anchor on the first level, in fractions of the picture; it doubles from level to level.
const ANCHOR: f32 = 0.05;
/// An anchor nearer to the picture's edge than this takes no part.
const ANCHOR_MARGIN: f32 = 0.01;

/// The whole network on one backend.
pub struct RtDetr<B: Backend> {
    config: Config,
    backbone: Backbone<B>,
    neck: Neck<B>,
    /// Of the neck's maps, where the decoder's tokens are of another width; then those that make further levels.
    projections: Option<Vec<ConvLayer<B>>>,
    selection: Selection<B>,
    position: Mlp<B>,
    layers: Vec<DeformableLayer<B>>,
    class_heads: Vec<B::Linear>,
    box_head: BoxHead<B>,
}

enum Backbone<B: Backend> {
    ResnetVd(ResNetVd<B>),
    Hgnetv2(HgNetV2<B>),
}

struct Selection<B: Backend> {
    output: Option<(B::Linear, B::Norm)>,
    score: B::Linear,
    boxes: Mlp<B>,
    content: Option<B::Tensor>,
}

/// The tokens that queries are selected of.
pub struct Candidates<T> {
    /// `[batch, tokens, d_model]`; zeros where an anchor takes no part.
    pub tokens: T,
    /// Class logits, `[batch, tokens, classes]`.
    pub scores: T,
    /// `[1, tokens, 4]`, before the sigmoid.
    anchors: HostTensor,
}

/// Selected queries: their contents `[batch, queries, d_model]` and boxes as logits `[batch, queries, 4]`.
pub struct Selected<T> {
    pub content: T,
    pub boxes: T,
}

/// What every decoder layer says, for training.
pub struct Decoded<T> {
    /// D-FINE's first boxes, which all layers refine, with the first layer's logits as they are before their correction.
    pub initial: Option<Output<T>>,
    pub layers: Vec<LayerOutput<T>>,
}

pub struct LayerOutput<T> {
    pub output: Output<T>,
    pub distributions: Option<EdgeDistributions<T>>,
}

impl<B: Backend> RtDetr<B> {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `config`.
    pub fn load(backend: &B, config: &Config, weights: &dyn Source) -> Result<Self> {
        config.check()?;
        let loader = Loader::new(backend, weights).with_sizes(&config.sizes);
        let (d_model, decoder) = (config.d_model, &config.decoder);
        let backbone = match &config.backbone {
            BackboneConfig::ResnetVd(net) => Backbone::ResnetVd(ResNetVd::load(&loader.part("backbone"), net)?),
            BackboneConfig::Hgnetv2(net) => Backbone::Hgnetv2(HgNetV2::load(&loader.part("backbone"), net)?),
        };
        let neck = Neck::load(&loader.part("neck"), &config.neck, &backbone.widths())?;
        let projections = config.decoder_projection.then(|| -> Result<Vec<_>> {
            let mut widths = neck.widths();
            let maps = widths.len();
            // Each further level is made of the one before it, the first of the neck's last map.
            let mut levels: Vec<ConvLayer<B>> = Vec::new();
            for i in 0..maps + config.extra_levels {
                let shape = if i < maps { Shape::new(1, 1, Activation::None) } else { Shape::new(3, 2, Activation::None) };
                let input = if i <= maps { widths[i.min(maps - 1)] } else { widths[i - 1] };
                let conv = ConvLayer::load(&loader, &format!("projection{i}"), input, d_model, shape)?;
                if i >= maps {
                    widths.push(conv.width);
                }
                levels.push(conv);
            }
            Ok(levels)
        });
        let projections = projections.transpose()?;
        let first_map = projections.as_ref().map_or(neck.widths().first().copied(), |all| all.first().map(|conv| conv.width));
        let tokens = first_map.unwrap_or(d_model);
        let heads = loader.heads();
        let class_head = |i: usize| heads.linear(&format!("class_head.{i}"), d_model, config.classes);
        Ok(Self {
            config: config.clone(),
            projections,
            selection: Selection::load(&loader.part("selection").heads(), config, tokens)?,
            position: Mlp::load(
                &loader.part("query_position").heads(),
                4,
                decoder.position.hidden,
                d_model,
                decoder.position.layers,
                decoder.position.activation,
            )?,
            layers: (0..decoder.layers)
                .map(|i| DeformableLayer::load(&loader.part(&format!("decoder.{i}")), decoder, d_model, tokens))
                .collect::<Result<_>>()?,
            class_heads: (0..decoder.layers).map(class_head).collect::<Result<_>>()?,
            box_head: BoxHead::load(&heads, decoder, d_model)?,
            backbone,
            neck,
        })
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised.
    pub fn forward(&self, backend: &B, pixels: &B::Tensor) -> Result<Output<B::Tensor>> {
        let maps = self.features(backend, pixels)?;
        let levels = self.encode(backend, maps)?;
        let selected = self.select(backend, &levels)?;
        self.decode(backend, selected, &levels)
    }

    /// The backbone: feature maps, the largest first.
    pub fn features(&self, backend: &B, pixels: &B::Tensor) -> Result<Vec<B::Tensor>> {
        let maps = match &self.backbone {
            Backbone::ResnetVd(net) => net.forward(backend, pixels)?,
            Backbone::Hgnetv2(net) => net.forward(backend, pixels)?,
        };
        show(backend, "backbone", &maps)?;
        Ok(maps)
    }

    /// The neck: feature maps, which are given up, become the tokens of all levels.
    pub fn encode(&self, backend: &B, maps: Vec<B::Tensor>) -> Result<Levels<B::Tensor>> {
        let mut maps = self.neck.forward(backend, maps)?;
        show(backend, "encoder", &maps)?;
        if let Some(projections) = &self.projections {
            let mut levels = projections.iter().zip(&maps).map(|(conv, map)| conv.forward(backend, map)).collect::<Result<Vec<_>>>()?;
            let (mut last, count) = (maps.pop(), levels.len());
            for conv in &projections[count..] {
                last = last.map(|map| conv.forward(backend, &map)).transpose()?;
                levels.extend(last.clone());
            }
            maps = levels;
        }
        let mut sizes = Vec::new();
        let mut tokens = Vec::new();
        for map in &maps {
            let shape = backend.shape(map);
            sizes.push([shape[1], shape[2]]);
            tokens.push(backend.reshape(map, &[shape[0], shape[1] * shape[2], shape[3]])?);
        }
        drop(maps);
        let decoder = &self.config.decoder;
        let deformable = Deformable {
            heads: decoder.self_attention.heads,
            levels: sizes,
            points: decoder.points.clone(),
            offset_scale: decoder.offset_scale,
            method: decoder.method,
        };
        Ok(Levels { tokens: backend.concat(&tokens.iter().collect::<Vec<_>>(), 1)?, deformable })
    }

    /// The tokens with the best class scores become queries.
    pub fn select(&self, backend: &B, levels: &Levels<B::Tensor>) -> Result<Selected<B::Tensor>> {
        let Candidates { tokens, scores, anchors } = self.candidates(backend, levels)?;
        let chosen = self.choose(backend, &scores)?;
        drop(scores);
        self.gather(backend, &tokens, &anchors, &chosen)
    }

    /// All tokens with their class scores.
    pub fn candidates(&self, backend: &B, levels: &Levels<B::Tensor>) -> Result<Candidates<B::Tensor>> {
        let Anchors { logits, valid } = anchors(&levels.deformable.levels);
        let count = valid.len();
        let mut tokens = levels.tokens.clone();
        if valid.contains(&0.0) {
            tokens = backend.multiply(&tokens, &backend.constant(&HostTensor::f32(&[1, count, 1], valid))?)?;
        }
        if let Some((linear, norm)) = &self.selection.output {
            tokens = backend.norm(&backend.linear(&tokens, linear, Activation::None, None)?, norm)?;
        }
        let scores = backend.linear(&tokens, &self.selection.score, Activation::None, None)?;
        Ok(Candidates { tokens, scores, anchors: HostTensor::f32(&[1, count, 4], logits) })
    }

    /// The tokens of the best class scores `[batch, tokens, classes]`, as many as there are queries.
    pub fn choose(&self, backend: &B, scores: &B::Tensor) -> Result<B::Indices> {
        backend.top_tokens(scores, self.config.queries.min(backend.shape(scores)[1]))
    }

    /// The chosen tokens as queries.
    pub fn select_chosen(&self, backend: &B, candidates: &Candidates<B::Tensor>, chosen: &B::Indices) -> Result<Selected<B::Tensor>> {
        self.gather(backend, &candidates.tokens, &candidates.anchors, chosen)
    }

    fn gather(&self, backend: &B, tokens: &B::Tensor, anchors: &HostTensor, chosen: &B::Indices) -> Result<Selected<B::Tensor>> {
        let selected = backend.gather(tokens, chosen)?;
        let anchors = backend.gather(&backend.constant(anchors)?, chosen)?;
        let boxes = self.selection.boxes.forward(backend, &selected, Some(&anchors))?;
        backend.stage("enc_topk_ind", &backend.index_values(chosen)?)?;
        backend.stage("init_reference_points", &boxes)?;
        let content = match &self.selection.content {
            None => selected,
            // As many as there are pictures.
            Some(content) => {
                let shape = backend.shape(&selected);
                let zeros = HostTensor::f32(&shape, vec![0.0; shape.iter().product()]);
                backend.add(&backend.constant(&zeros)?, content, Activation::None)?
            }
        };
        Ok(Selected { content, boxes })
    }

    /// The decoder and its heads.
    pub fn decode(&self, backend: &B, selected: Selected<B::Tensor>, levels: &Levels<B::Tensor>) -> Result<Output<B::Tensor>> {
        let last = self.layers.len() - 1;
        let mut output = None;
        self.run(backend, selected, levels, None, |i, content, refinement| {
            if i == last {
                output = Some(Output { logits: self.logits(backend, i, content, refinement)?, boxes: refinement.boxes().clone() });
            }
            Ok(())
        })?;
        let output = output.ok_or_else(|| Error::Config("a decoder without layers".into()))?;
        backend.stage("logits", &output.logits)?;
        backend.stage("pred_boxes", &output.boxes)?;
        Ok(output)
    }

    /// What every decoder layer says. Which query sees which is told by `bias` `[batch or 1, queries, queries]`. Gradients go back as in the
    /// papers' training: from layer to layer not through boxes.
    pub fn decode_each(
        &self,
        backend: &B,
        selected: Selected<B::Tensor>,
        levels: &Levels<B::Tensor>,
        bias: Option<&B::Tensor>,
    ) -> Result<Decoded<B::Tensor>> {
        let mut decoded = Decoded { initial: None, layers: Vec::new() };
        self.run(backend, selected, levels, bias, |i, content, refinement| {
            if let (0, Some(boxes)) = (i, refinement.initial()) {
                let logits = backend.linear(content, &self.class_heads[0], Activation::None, None)?;
                decoded.initial = Some(Output { logits, boxes: boxes.clone() });
            }
            let output = Output { logits: self.logits(backend, i, content, refinement)?, boxes: refinement.boxes().clone() };
            decoded.layers.push(LayerOutput { output, distributions: refinement.distribution() });
            Ok(())
        })?;
        Ok(decoded)
    }

    /// The decoder's layers; `after` is told of each one's queries and boxes.
    fn run(
        &self,
        backend: &B,
        selected: Selected<B::Tensor>,
        levels: &Levels<B::Tensor>,
        bias: Option<&B::Tensor>,
        mut after: impl FnMut(usize, &B::Tensor, &Refinement<B::Tensor>) -> Result<()>,
    ) -> Result<()> {
        let Selected { mut content, boxes } = selected;
        let mut refinement = Refinement::new(backend, boxes)?;
        let mut position = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let of_layer = match position.take() {
                Some(position) if self.config.decoder.position.once => position,
                _ => self.position(backend, refinement.boxes())?,
            };
            let queries = BoxQueries { content, position: &of_layer, boxes: refinement.boxes(), bias };
            content = layer.forward(backend, queries, levels)?;
            position = Some(of_layer);
            backend.stage(&format!("decoder_layer{i}"), &content)?;
            refinement = self.box_head.refine(backend, i, &content, refinement)?;
            after(i, &content, &refinement)?;
            refinement = refinement.detached(backend);
        }
        Ok(())
    }

    /// Class logits `[batch, queries, classes]` after layer `i`.
    fn logits(&self, backend: &B, i: usize, content: &B::Tensor, refinement: &Refinement<B::Tensor>) -> Result<B::Tensor> {
        let logits = backend.linear(content, &self.class_heads[i], Activation::None, None)?;
        self.box_head.score(backend, i, logits, refinement)
    }

    /// Positions `[batch, queries, d_model]` of boxes `[batch, queries, 4]`.
    fn position(&self, backend: &B, boxes: &B::Tensor) -> Result<B::Tensor> {
        let position = self.position.forward(backend, boxes, None)?;
        match self.config.decoder.position.clamp {
            Some(bound) => backend.clamp(&position, -bound, bound),
            None => Ok(position),
        }
    }
}

impl<B: Backend> Backbone<B> {
    fn widths(&self) -> Vec<usize> {
        match self {
            Self::ResnetVd(net) => net.widths(),
            Self::Hgnetv2(net) => net.widths(),
        }
    }
}

impl<B: Backend> Selection<B> {
    /// `tokens` is the width of the tokens that are selected from.
    fn load(loader: &Loader<B>, config: &Config, tokens: usize) -> Result<Self> {
        let (d_model, selection) = (config.d_model, &config.selection);
        let output = selection.output.then(|| -> Result<_> { Ok((loader.linear("output", tokens, d_model)?, loader.norm("norm", d_model)?)) });
        Ok(Self {
            output: output.transpose()?,
            score: loader.linear("score", d_model, config.classes)?,
            boxes: Mlp::load(&loader.part("box"), d_model, d_model, 4, 3, selection.activation)?,
            content: selection.learnt_content.then(|| loader.rows("content", config.queries, d_model)).transpose()?,
        })
    }
}

fn show<B: Backend>(backend: &B, name: &str, maps: &[B::Tensor]) -> Result<()> {
    maps.iter().enumerate().try_for_each(|(i, map)| backend.stage(&format!("{name}_{i}"), map))
}

/// A box around each place of each level.
pub struct Anchors {
    /// `[tokens, 4]`, before the sigmoid.
    pub logits: Vec<f32>,
    /// 1 where the anchor lies well within the picture, else 0.
    pub valid: Vec<f32>,
}

/// transformers' `generate_anchors`; rows and columns of each level.
pub fn anchors(levels: &[[usize; 2]]) -> Anchors {
    let (mut logits, mut valid) = (Vec::new(), Vec::new());
    for (level, &[height, width]) in levels.iter().enumerate() {
        let side = ANCHOR * (1u64 << level) as f32;
        for y in 0..height {
            for x in 0..width {
                let anchor = [(x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32, side, side];
                let inside = anchor.iter().all(|&a| a > ANCHOR_MARGIN && a < 1.0 - ANCHOR_MARGIN);
                valid.push(if inside { 1.0 } else { 0.0 });
                logits.extend(anchor.map(|a| if inside { (a / (1.0 - a)).ln() } else { f32::MAX }));
            }
        }
    }
    Anchors { logits, valid }
}
