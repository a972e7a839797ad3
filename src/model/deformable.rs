//! The decoder layer of RT-DETR and its descendants: self-attention among the queries, deformable attention to the feature maps, a
//! feed-forward network; post-norm (transformers' `RTDetrDecoderLayer`, `DFineDecoderLayer`, `Deimv2DecoderLayer`).

use super::attention::Attention;
use super::encoder::FeedForward;
use super::load::Loader;
use crate::backend::{Backend, Deformable};
use crate::config::{Activation, Decoder as Config, FfnKind, NormKind};
use crate::error::Result;

pub struct DeformableLayer<B: Backend> {
    self_attention: Attention<B>,
    norm1: B::Norm,
    cross_attention: DeformableAttention<B>,
    mix: Mix<B>,
    norm2: B::Norm,
    ffn: Ffn<B>,
    norm3: B::Norm,
}

/// What the deformable layers look at.
pub struct Levels<T> {
    /// `[batch, tokens of all levels, d_model]`
    pub tokens: T,
    pub deformable: Deformable,
}

/// The queries that a layer is given.
pub struct BoxQueries<'a, T> {
    /// `[batch, queries, d_model]`
    pub content: T,
    /// Added to them where they are compared and where they look, `[batch, queries, d_model]`.
    pub position: &'a T,
    /// Centre, width and height in fractions of the picture, `[batch, queries, 4]`.
    pub boxes: &'a T,
    /// Which query sees which, `[batch or 1, queries, queries]`, for training.
    pub bias: Option<&'a T>,
}

/// How deformable attention's result joins the residual.
enum Mix<B: Backend> {
    Sum,
    Gate(B::Linear),
}

enum Ffn<B: Backend> {
    Mlp(FeedForward<B>),
    SwiGlu { gate: B::Linear, up: B::Linear, down: B::Linear },
}

/// The maps around [`Backend::deformable_attention`].
struct DeformableAttention<B: Backend> {
    heads: usize,
    /// Sampling points of a head on each level.
    points: Vec<usize>,
    offsets: B::Linear,
    weights: B::Linear,
    /// For the values and for the output.
    projections: Option<[B::Linear; 2]>,
}

impl<B: Backend> DeformableLayer<B> {
    /// `loader` is at `decoder.{index}.`; the tokens of the levels are `tokens` wide.
    pub fn load(loader: &Loader<B>, config: &Config, d_model: usize, tokens: usize) -> Result<Self> {
        let norm = |name: &str| match config.norm {
            NormKind::Layer => loader.norm(name, d_model),
            NormKind::Rms => loader.rms_norm(name, d_model),
        };
        let mix = match config.gateway {
            true => Mix::Gate(loader.linear("gate", 2 * d_model, 2 * d_model)?),
            false => Mix::Sum,
        };
        let ffn = match config.ffn_kind {
            FfnKind::Mlp => Ffn::Mlp(FeedForward::load(loader, d_model, config.ffn, config.activation)?),
            FfnKind::SwiGlu => {
                let width = loader.equal_size(["ffn_up", "ffn_gate"], config.ffn);
                let [gate, up] = ["ffn_gate", "ffn_up"].map(|name| loader.linear(name, d_model, width));
                Ffn::SwiGlu { gate: gate?, up: up?, down: loader.linear("ffn2", width, d_model)? }
            }
        };
        Ok(Self {
            self_attention: Attention::load(&loader.part("self_attention"), &config.self_attention, d_model)?,
            norm1: norm("norm1")?,
            cross_attention: DeformableAttention::load(&loader.part("cross_attention"), config, d_model, tokens)?,
            mix,
            norm2: norm("norm2")?,
            ffn,
            norm3: norm("norm3")?,
        })
    }

    /// The contents of the queries `[batch, queries, d_model]` after this layer.
    pub fn forward(&self, backend: &B, queries: BoxQueries<B::Tensor>, levels: &Levels<B::Tensor>) -> Result<B::Tensor> {
        let BoxQueries { content: x, position, boxes, bias } = queries;
        let placed = backend.add(&x, position, Activation::None)?;
        let memory = self.self_attention.memory(backend, &placed, &x)?;
        let x = self.self_attention.forward(backend, &placed, &memory, bias, &x)?;
        drop((placed, memory));
        let x = backend.norm(&x, &self.norm1)?;

        let placed = backend.add(&x, position, Activation::None)?;
        let x = match &self.mix {
            Mix::Sum => self.cross_attention.forward(backend, &placed, boxes, levels, Some(&x))?,
            Mix::Gate(gate) => {
                let seen = self.cross_attention.forward(backend, &placed, boxes, levels, None)?;
                let gates = backend.linear(&backend.concat(&[&x, &seen], 2)?, gate, Activation::Sigmoid, None)?;
                let width = backend.shape(&x)[2];
                let kept = backend.multiply(&x, &backend.narrow(&gates, 0, width)?)?;
                let taken = backend.multiply(&seen, &backend.narrow(&gates, width, width)?)?;
                backend.add(&kept, &taken, Activation::None)?
            }
        };
        drop(placed);
        let x = backend.norm(&x, &self.norm2)?;

        let x = match &self.ffn {
            Ffn::Mlp(ffn) => ffn.forward(backend, &x)?,
            Ffn::SwiGlu { gate, up, down } => {
                let gate = backend.linear(&x, gate, Activation::Silu, None)?;
                let hidden = backend.multiply(&backend.linear(&x, up, Activation::None, None)?, &gate)?;
                backend.linear(&hidden, down, Activation::None, Some(&x))?
            }
        };
        backend.norm(&x, &self.norm3)
    }
}

impl<B: Backend> DeformableAttention<B> {
    fn load(loader: &Loader<B>, config: &Config, d_model: usize, tokens: usize) -> Result<Self> {
        let all_heads = config.self_attention.heads;
        // Without maps of its own for the values, its heads are the tokens' channels.
        let heads = if config.value_projection { loader.size("heads", all_heads) } else { all_heads };
        let points: Vec<usize> = (config.points.iter().enumerate()).map(|(level, &points)| loader.size(&format!("points.{level}"), points)).collect();
        let width = d_model / all_heads * heads;
        let projections =
            config.value_projection.then(|| -> Result<_> { Ok([loader.linear("value", tokens, width)?, loader.linear("output", width, d_model)?]) });
        let all_points = heads * points.iter().sum::<usize>();
        Ok(Self {
            heads,
            points,
            offsets: loader.linear("offsets", d_model, 2 * all_points)?,
            weights: loader.linear("weights", d_model, all_points)?,
            projections: projections.transpose()?,
        })
    }

    /// `residual` + what `queries` (with positions) see, both `[batch, queries, d_model]`.
    fn forward(
        &self,
        backend: &B,
        queries: &B::Tensor,
        boxes: &B::Tensor,
        levels: &Levels<B::Tensor>,
        residual: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        let offsets = backend.linear(queries, &self.offsets, Activation::None, None)?;
        let weights = backend.linear(queries, &self.weights, Activation::None, None)?;
        let tokens = &levels.tokens;
        let deformable = &Deformable { heads: self.heads, points: self.points.clone(), ..levels.deformable.clone() };
        match (&self.projections, residual) {
            (Some([value, output]), residual) => {
                let value = backend.linear(tokens, value, Activation::None, None)?;
                let seen = backend.deformable_attention(&value, &offsets, &weights, boxes, deformable)?;
                backend.linear(&seen, output, Activation::None, residual)
            }
            (None, None) => backend.deformable_attention(tokens, &offsets, &weights, boxes, deformable),
            (None, Some(residual)) => {
                let seen = backend.deformable_attention(tokens, &offsets, &weights, boxes, deformable)?;
                backend.add(&seen, residual, Activation::None)
            }
        }
    }
}
