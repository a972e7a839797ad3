//! The network as it is trained: DETR with what only training needs.
//!
//! Queries are *anchored*: each has a box reference, from whose sine embedding a small network makes its position ("DAB-DETR",
//! Liu et al., 2022, arXiv:2201.12329). So boxes that aren't learnt can be asked for too: those of denoising. A detector
//! doesn't need the small network: its results are computed once, in [`finished`].
//!
//! | name | shape | what for |
//! |---|---|---|
//! | `training.position.{0,1}` | `[d_model, 2 * d_model]`, `[d_model, d_model]` | from a reference's sine embedding to a position |
//! | `training.label` | `[classes, d_model]` | the content of a denoising query, by class |
//! | `training.dense.norm`, `.class`, `.box.{0,1,2}` | as the decoder's | heads on the encoder's tokens |
//!
//! Weights without these are trained too, without denoising and dense supervision: detectors that were made elsewhere. Both may have
//! further groups of queries (`groups.rs`), which come behind the network's own, and a map for a teacher's hints (`hints.rs`).

use super::trained::Trained;
use super::{groups, hints};
use crate::autograd::{Autograd, Map, Norm};
use crate::backend::Backend;
use crate::config::{Activation, Config};
use crate::error::{Error, Result};
use crate::layout::{Entry, Role, layout};
use crate::model::{Detr, Encoded, Output, PixelMask, Queries};
use crate::weights::{HostTensor, Weights};
use candle_core::{D, Device, Tensor};
use std::f32::consts::TAU;

/// What the names of all tensors begin with that no detector has.
pub const PREFIX: &str = "training.";

/// Width and height of the box that a token of the encoder is taken to stand for: a fifth of the picture.
const TOKEN_SIZE: f32 = 0.2;

/// What hides a key from a query.
const HIDDEN: f32 = -1e30;

/// Whether weights have what training adds to a network with anchored queries.
pub fn is_anchored(weights: &Weights) -> bool {
    let parts = ["label", "position.", "dense."];
    weights.tensors.keys().filter_map(|name| name.strip_prefix(PREFIX)).any(|name| parts.iter().any(|part| name.starts_with(part)))
}

/// The tensors that training adds to a network of this architecture with anchored queries.
pub fn extras(config: &Config) -> Vec<Entry> {
    let (width, classes) = (config.d_model, config.classes);
    let mut list = vec![Entry { name: "training.label".into(), shape: vec![classes, width], role: Role::Rows }];
    let matrices = [
        ("position.0", width, 2 * width),
        ("position.1", width, width),
        ("dense.class", classes, width),
        ("dense.box.0", width, width),
        ("dense.box.1", width, width),
        ("dense.box.2", 4, width),
    ];
    for (name, outputs, inputs) in matrices {
        list.push(Entry { name: format!("training.{name}.weight"), shape: vec![outputs, inputs], role: Role::Matrix });
        list.push(Entry { name: format!("training.{name}.bias"), shape: vec![outputs], role: Role::Bias });
    }
    list.push(Entry { name: "training.dense.norm.weight".into(), shape: vec![width], role: Role::NormScale });
    list.push(Entry { name: "training.dense.norm.bias".into(), shape: vec![width], role: Role::NormShift });
    list
}

/// Refuses weights that lack a tensor of the network, or have some of training's but not all.
pub fn check(config: &Config, weights: &Weights) -> Result<()> {
    layout(config).iter().try_for_each(|entry| weights.get(&entry.name, &entry.shape).map(drop))?;
    if is_anchored(weights) {
        extras(config).iter().try_for_each(|entry| weights.get(&entry.name, &entry.shape).map(drop))?;
        if !config.query_content || !config.box_reference || !config.d_model.is_multiple_of(8) {
            return Err(Error::Config("anchored queries need query contents, box references and a d_model that 8 divides".into()));
        }
    }
    groups::check(config, weights)?;
    hints::check(config, weights)
}

/// A detector's weights: training's own are folded into what a detector has, or left out.
pub fn finished(config: &Config, weights: &Weights) -> Result<Weights> {
    let mut out = Weights::default();
    for entry in layout(config) {
        out.insert(&entry.name, weights.get(&entry.name, &entry.shape)?.clone());
    }
    if is_anchored(weights) {
        let backend = Autograd::new(Device::Cpu, |_| false);
        let anchors = Anchors::load(&backend, config, weights, 0)?;
        let position = anchors.position(&backend, &anchors.references(&backend, None)?)?;
        let position = crate::cpu::to_host(&position)?;
        out.insert("query_position", HostTensor { shape: vec![config.queries, config.d_model], ..position });
    }
    Ok(out)
}

/// A network on candle's autograd.
pub struct Network {
    pub backend: Autograd,
    detr: Detr<Autograd>,
    /// The backbone's first block that is run.
    first_block: usize,
    /// How many queries are the network's own.
    queries: usize,
    /// How many groups of as many follow them.
    groups: usize,
    /// `[1, all, d_model]`: of the network's own queries, then group by group.
    content: Tensor,
    kind: Kind,
    /// From the encoder's tokens to those of a teacher of another width.
    hint: Option<Map>,
}

/// What a network has beside a detector's.
enum Kind {
    Anchored {
        anchors: Box<Anchors>,
        dense: Box<Dense>,
    },
    /// Its queries' positions `[1, all, d_model]` and references `[1, all, 4]` are learnt as they are.
    Plain {
        position: Tensor,
        reference: Option<Tensor>,
    },
}

/// Queries that are asked beside those that are learnt.
pub struct Asked {
    /// Classes `[batch][asked]`: their embedding is the content.
    pub classes: Vec<u32>,
    /// Boxes `[batch, asked, 4]`, (centre x, centre y, width, height).
    pub boxes: Vec<f32>,
    /// Which see each other, `[batch][asked]`: those of the same number.
    pub parties: Vec<Option<usize>>,
}

/// What a network says in training: each decoder layer of `[batch, asked + all]` (where all are the network's own queries, then those of
/// its groups), and the encoder's tokens.
pub struct Said {
    pub layers: Vec<Output<Tensor>>,
    /// What the layers' queries hold, `[batch, asked + all, d_model]`.
    pub contents: Vec<Tensor>,
    /// The encoder's tokens `[batch, tokens, d_model]`, or as they are compared with those of a teacher of another width: in that.
    pub memory: Tensor,
    /// Rows and columns of the tokens.
    pub grid: [usize; 2],
    pub dense: Option<Output<Tensor>>,
}

impl Network {
    /// What is `trained` gets gradients.
    pub fn load(config: &Config, weights: &Weights, trained: &Trained, device: &Device) -> Result<Self> {
        let first_block = config.backbone.first_block(trained.first_stage(&config.backbone));
        let trained = trained.clone();
        let backend = Autograd::new(device.clone(), move |name| trained.includes(name));
        let groups = groups::count(weights);
        let rows = |name: &str, width: usize| learnt(&backend, config, weights, groups, name, width);
        let all = (1 + groups) * config.queries;
        let content = match config.query_content {
            true => rows("query_content", config.d_model)?,
            false => backend.constant(&HostTensor::f32(&[1, all, config.d_model], vec![0.0; all * config.d_model]))?,
        };
        let kind = if is_anchored(weights) {
            Kind::Anchored {
                anchors: Anchors::load(&backend, config, weights, groups)?.into(),
                dense: Dense::load(&backend, config, weights)?.into(),
            }
        } else {
            let reference = config.box_reference.then(|| rows("box_reference", 4)).transpose()?;
            Kind::Plain { position: rows("query_position", config.d_model)?, reference }
        };
        let detr = Detr::load(&backend, config, weights)?;
        let hint = hints::width(weights).map(|teacher| map(&backend, weights, hints::MEMORY, config.d_model, teacher)).transpose()?;
        Ok(Self { hint, backend, detr, first_block, queries: config.queries, groups, content, kind })
    }

    /// How many groups of queries follow its own.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether queries can be asked beside its own.
    pub fn is_anchored(&self) -> bool {
        matches!(self.kind, Kind::Anchored { .. })
    }

    /// `features` `[batch, rows, columns, channels]` are what the first trained stage of the backbone is given; `asked` only where queries
    /// are anchored.
    pub fn forward(&self, features: &Tensor, asked: Option<&Asked>) -> Result<Said> {
        let backend = &self.backend;
        let features = self.detr.blocks(backend, features.clone(), self.first_block..usize::MAX)?;
        let (batch, rows, columns, _) = features.dims4()?;
        let encoded = self.detr.encode(backend, features.clone(), &PixelMask::full(rows, columns))?;

        let (all, width) = (self.content.dim(1)?, self.content.dim(2)?);
        let mut content = self.content.broadcast_as((batch, all, width))?.contiguous()?;
        let bias = bias(asked.filter(|_| self.is_anchored()), batch, self.queries, self.groups, backend.device())?;
        let (position, reference, dense) = match &self.kind {
            Kind::Anchored { anchors, dense } => {
                if let Some(asked) = asked {
                    let count = asked.classes.len() / batch;
                    let classes = Tensor::from_slice(&asked.classes, batch * count, features.device())?;
                    let labels = anchors.label.index_select(&classes, 0)?.reshape((batch, count, width))?;
                    content = Tensor::cat(&[&labels, &content], 1)?;
                }
                let references = anchors.references(backend, asked.map(|asked| (&asked.boxes[..], batch)))?;
                let position = anchors.position(backend, &references)?;
                (position, Some(references), Some(dense.forward(backend, &encoded, rows, columns)?))
            }
            Kind::Plain { position, reference } => (position.clone(), reference.clone(), None),
        };

        let contents = self.detr.decode_each(backend, Queries { content, position: &position, bias: bias.as_ref() }, &encoded)?;
        let layers = contents.iter().map(|x| self.detr.predict(backend, x, reference.as_ref())).collect::<Result<_>>()?;
        let memory = match &self.hint {
            Some(map) => backend.linear(&encoded.memory, map, Activation::None, None)?,
            None => encoded.memory,
        };
        Ok(Said { layers, contents, memory, grid: [rows, columns], dense })
    }
}

/// The bias of the self-attention, `[batch, asked + all, asked + all]` (one for all pictures where nothing is asked); none where every query
/// sees every other. The network's own `queries` are followed by `groups` of as many.
pub(super) fn bias(asked: Option<&Asked>, batch: usize, queries: usize, groups: usize, device: &Device) -> Result<Option<Tensor>> {
    let parties: Vec<&[Option<usize>]> = match asked {
        Some(asked) => asked.parties.chunks_exact((asked.parties.len() / batch).max(1)).collect(),
        None if groups > 0 => vec![&[]],
        None => return Ok(None),
    };
    let count = parties.first().map_or(0, |parties| parties.len());
    let all = count + (1 + groups) * queries;
    let mut bias = Vec::with_capacity(parties.len() * all * all);
    for parties in &parties {
        // An asked query sees its party and the network's own queries, which see each other ("DN-DETR", Li et al., 2022, section
        // 4.5): an answer that was asked for may not be read from the question. A group sees itself.
        let sees = |query: usize, key: usize| match (query.checked_sub(count), key.checked_sub(count)) {
            (None, None) => parties[query] == parties[key],
            (None, Some(key)) => key < queries,
            (Some(_), None) => false,
            (Some(query), Some(key)) => query / queries == key / queries,
        };
        bias.extend((0..all * all).map(|i| if sees(i / all, i % all) { 0.0 } else { HIDDEN }));
    }
    Ok(Some(Tensor::from_vec(bias, (parties.len(), all, all), device)?))
}

/// What `width` numbers of each query are learnt, `[1, (1 + groups) * queries, width]`: of the network's own, then group by group.
fn learnt(backend: &Autograd, config: &Config, weights: &Weights, groups: usize, name: &str, width: usize) -> Result<Tensor> {
    let queries = config.queries;
    let rows = |name: &str| backend.parameter(name, weights.get(name, &[queries, width])?, &[1, queries, width]);
    let own = rows(name)?;
    if groups == 0 {
        return Ok(own);
    }
    let groups = (0..groups).map(|group| rows(&groups::name(group, name)));
    Ok(Tensor::cat(&std::iter::once(Ok(own)).chain(groups).collect::<Result<Vec<_>>>()?, 1)?)
}

/// Box references and what makes positions of them.
struct Anchors {
    maps: [Map; 2],
    /// `[classes, d_model]`
    label: Tensor,
    /// Logits `[1, all, 4]`
    reference: Tensor,
    d_model: usize,
}

impl Anchors {
    fn load(backend: &Autograd, config: &Config, weights: &Weights, groups: usize) -> Result<Self> {
        let width = config.d_model;
        let label = weights.get("training.label", &[config.classes, width])?;
        Ok(Self {
            maps: [map(backend, weights, "training.position.0", 2 * width, width)?, map(backend, weights, "training.position.1", width, width)?],
            label: backend.parameter("training.label", label, &label.shape)?,
            reference: learnt(backend, config, weights, groups, "box_reference", 4)?,
            d_model: width,
        })
    }

    /// Logits `[batch or 1, asked + all, 4]`; `asked` are boxes `[batch, asked, 4]`.
    fn references(&self, backend: &Autograd, asked: Option<(&[f32], usize)>) -> Result<Tensor> {
        let Some((boxes, batch)) = asked else { return Ok(self.reference.clone()) };
        let count = boxes.len() / (4 * batch);
        let asked = backend.constant(&HostTensor::f32(&[batch, count, 4], boxes.iter().map(|&x| logit(x)).collect()))?;
        let own = self.reference.broadcast_as((batch, self.reference.dim(1)?, 4))?.contiguous()?;
        Ok(Tensor::cat(&[&asked, &own], 1)?)
    }

    /// The positions `[…, d_model]` of references (logits) `[…, 4]`.
    fn position(&self, backend: &Autograd, references: &Tensor) -> Result<Tensor> {
        let (batch, count, _) = references.dims3()?;
        // The sigmoid by tanh: its gradient stays finite.
        let boxes = (((references * 0.5)?.tanh()? * 0.5)? + 0.5)?;
        let waves = self.d_model / 4;
        let speeds: Vec<f32> = (0..waves).map(|i| TAU / 10_000f32.powf(i as f32 / waves as f32)).collect();
        let speeds = Tensor::from_vec(speeds, (1, 1, 1, waves), references.device())?;
        let angles = boxes.unsqueeze(3)?.broadcast_mul(&speeds)?;
        let sine = Tensor::cat(&[angles.sin()?, angles.cos()?], D::Minus1)?.reshape((batch, count, 8 * waves))?;
        let x = backend.linear(&sine, &self.maps[0], Activation::Relu, None)?;
        backend.linear(&x, &self.maps[1], Activation::None, None)
    }
}

/// Heads on the encoder's tokens: each says what it sees at its place (the first stage of "Deformable DETR", Zhu et al., 2020,
/// arXiv:2010.04159, appendix A.4). They teach the encoder at every place, and sooner than the decoder can.
struct Dense {
    norm: Norm,
    class: Map,
    boxes: [Map; 3],
}

impl Dense {
    fn load(backend: &Autograd, config: &Config, weights: &Weights) -> Result<Self> {
        let width = config.d_model;
        let norm = |part| weights.get(&format!("training.dense.norm.{part}"), &[width]);
        let map = |name: &str, outputs| map(backend, weights, &format!("training.dense.{name}"), width, outputs);
        Ok(Self {
            norm: backend.load_norm("training.dense.norm", norm("weight")?, Some(norm("bias")?), 1e-5)?,
            class: map("class", config.classes)?,
            boxes: [map("box.0", width)?, map("box.1", width)?, map("box.2", 4)?],
        })
    }

    fn forward(&self, backend: &Autograd, encoded: &Encoded<Tensor>, rows: usize, columns: usize) -> Result<Output<Tensor>> {
        let x = backend.norm(&encoded.memory, &self.norm)?;
        let logits = backend.linear(&x, &self.class, Activation::None, None)?;
        let mut references = Vec::with_capacity(rows * columns * 4);
        for y in 0..rows {
            for x in 0..columns {
                let centre = [(x as f32 + 0.5) / columns as f32, (y as f32 + 0.5) / rows as f32];
                references.extend([centre[0], centre[1], TOKEN_SIZE, TOKEN_SIZE].map(logit));
            }
        }
        let references = backend.constant(&HostTensor::f32(&[1, rows * columns, 4], references))?;
        let x = backend.linear(&x, &self.boxes[0], Activation::Relu, None)?;
        let x = backend.linear(&x, &self.boxes[1], Activation::Relu, None)?;
        let boxes = backend.add(&backend.linear(&x, &self.boxes[2], Activation::None, None)?, &references, Activation::Sigmoid)?;
        Ok(Output { logits, boxes })
    }
}

fn map(backend: &Autograd, weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Map> {
    let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
    backend.load_linear(name, weight, weights.get(&format!("{name}.bias"), &[outputs])?)
}

fn logit(x: f32) -> f32 {
    let x = x.clamp(1e-4, 1.0 - 1e-4);
    (x / (1.0 - x)).ln()
}
