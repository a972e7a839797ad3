//! The network as it is trained: everything from pixels on, with what only training needs.
//!
//! | name | shape | what for |
//! |---|---|---|
//! | `training.label` | `[classes, d_model]` | the content of a denoising query, by class (`denoising_class_embed` in transformers) |

use crate::autograd::Autograd;
use crate::backend::Backend;
use crate::config::{Activation, Architecture, RtDetr as Config};
use crate::error::Result;
use crate::layout::layout_of;
use crate::model::{Decoded, Levels, Output, RtDetr, Selected};
use crate::train::network::{Asked, bias};
use crate::train::trained::Trained;
use crate::weights::{HostTensor, Weights};
use candle_core::{Device, Tensor};

/// The embedding of classes for denoising queries.
pub const LABEL: &str = "training.label";
/// Learnt contents of queries, where an architecture has them.
const CONTENT: &str = "selection.content";
/// The bound of an asked box's logits.
const LOGIT_BOUND: f32 = 1e-5;

/// Refuses weights that lack a tensor of the network, or have one in another shape.
pub fn check(config: &Config, weights: &Weights) -> Result<()> {
    let entries = layout_of(&Architecture::RtDetr(Box::new(config.clone())));
    entries.iter().try_for_each(|entry| weights.get(&entry.name, &entry.shape).map(drop))?;
    match weights.tensors.contains_key(LABEL) {
        true => weights.get(LABEL, &[config.classes, config.d_model]).map(drop),
        false => Ok(()),
    }
}

/// A detector's weights: training's own are left out.
pub fn finished(config: &Config, weights: &Weights) -> Result<Weights> {
    let mut out = Weights::default();
    for entry in layout_of(&Architecture::RtDetr(Box::new(config.clone()))) {
        out.insert(&entry.name, weights.get(&entry.name, &entry.shape)?.clone());
    }
    Ok(out)
}

/// Gives a network what denoising needs, where it hasn't: a new embedding of its classes, by Glorot's rule as in transformers.
pub fn with_label(config: &Config, weights: &mut Weights, seed: u64) {
    if weights.tensors.contains_key(LABEL) {
        return;
    }
    let shape = [config.classes, config.d_model];
    let most = (6.0 / (shape[0] + shape[1]) as f32).sqrt();
    let mut rng = fastrand::Rng::with_seed(seed);
    weights.insert(LABEL, HostTensor::f32(&shape, (0..shape[0] * shape[1]).map(|_| most * (2.0 * rng.f32() - 1.0)).collect()));
}

/// A network on candle's autograd.
pub struct Network {
    pub backend: Autograd,
    net: RtDetr<Autograd>,
    queries: usize,
    d_model: usize,
    label: Option<Tensor>,
    /// `[1, queries, d_model]`
    content: Option<Tensor>,
}

/// What a network says in training.
pub struct TrainOutputs {
    /// The selected tokens, `[batch, queries, …]`.
    pub selection: Output<Tensor>,
    /// Of queries `[batch, asked + queries, …]`.
    pub decoded: Decoded<Tensor>,
}

impl Network {
    /// What is `trained` gets gradients.
    pub fn load(config: &Config, weights: &Weights, trained: &Trained, device: &Device) -> Result<Self> {
        let trained = trained.clone();
        let backend = Autograd::new(device.clone(), move |name| trained.includes(name));
        let net = RtDetr::load(&backend, config, weights)?;
        let (queries, d_model) = (config.queries, config.d_model);
        let label = weights.tensors.contains_key(LABEL).then(|| -> Result<Tensor> {
            let shape = [config.classes, d_model];
            backend.parameter(LABEL, weights.get(LABEL, &shape)?, &shape)
        });
        let content = config
            .selection
            .learnt_content
            .then(|| -> Result<Tensor> { backend.parameter(CONTENT, weights.get(CONTENT, &[queries, d_model])?, &[1, queries, d_model]) });
        Ok(Self { net, queries, d_model, label: label.transpose()?, content: content.transpose()?, backend })
    }

    /// Whether queries can be asked beside those that are selected.
    pub fn can_denoise(&self) -> bool {
        self.label.is_some()
    }

    /// Backbone and neck on `pixels` `[batch, height, width, 3]`.
    pub fn encode(&self, pixels: &Tensor) -> Result<Levels<Tensor>> {
        let maps = self.net.features(&self.backend, pixels)?;
        self.net.encode(&self.backend, maps)
    }

    /// The decoder, on the `chosen` tokens `[batch, queries]` or, where none are given, on those with the best scores. What is `asked` beside
    /// comes before them.
    pub fn decode(&self, levels: &Levels<Tensor>, chosen: Option<Tensor>, asked: Option<&Asked>) -> Result<TrainOutputs> {
        let backend = &self.backend;
        let candidates = self.net.candidates(backend, levels)?;
        let chosen = match chosen {
            Some(chosen) => chosen,
            None => self.net.choose(backend, &candidates.scores)?,
        };
        let selected = self.net.select_chosen(backend, &candidates, &chosen)?;
        let logits = backend.gather(&candidates.scores, &chosen)?;
        let selection = Output { logits, boxes: backend.activate(&selected.boxes, Activation::Sigmoid)? };

        // The decoder teaches nothing of what is selected: only the selection's own losses do.
        let (batch, queries) = chosen.dims2()?;
        let mut boxes = selected.boxes.detach();
        let mut content = match &self.content {
            Some(content) => content.narrow(1, 0, queries)?.broadcast_as((batch, queries, self.d_model))?.contiguous()?,
            None => selected.content.detach(),
        };
        let mut hidden = None;
        if let (Some(asked), Some(label)) = (asked, &self.label) {
            let count = asked.classes.len() / batch;
            let classes = Tensor::from_slice(&asked.classes, batch * count, content.device())?;
            content = Tensor::cat(&[&label.index_select(&classes, 0)?.reshape((batch, count, self.d_model))?, &content], 1)?;
            let logits = asked.boxes.iter().map(|&x| logit(x)).collect();
            boxes = Tensor::cat(&[&backend.constant(&HostTensor::f32(&[batch, count, 4], logits))?, &boxes], 1)?;
            hidden = bias(Some(asked), batch, queries, 0, backend.device())?;
        }
        let decoded = self.net.decode_each(backend, Selected { content, boxes }, levels, hidden.as_ref())?;
        Ok(TrainOutputs { selection, decoded })
    }

    pub fn queries(&self) -> usize {
        self.queries
    }
}

fn logit(x: f32) -> f32 {
    let x = x.clamp(LOGIT_BOUND, 1.0 - LOGIT_BOUND);
    (x / (1.0 - x)).ln()
}
