//! Where a query looked: the cross-attention of the last decoder layer, head by head, as maps over the picture.
//!
//! Computed on the CPU, whatever detects, by a network of its own: neither backend keeps what attention weighs with. Its projected
//! queries and keys (of deformable attention, the points: `sampling.rs`) are watched, and kept for all queries of the last picture, so that
//! another query of it costs no run.

use super::sampling::Sampling;
use crate::config::{Architecture, NetworkConfig};

use crate::checkpoint::Checkpoint;
use crate::config::{Attention as Heads, Config};
use crate::cpu::CpuSession;
use crate::error::{Error, Result};
use crate::image::{Picture, prepare};
use crate::watch::{Observe, Seen};
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;
use serde::Serialize;

/// A network whose last cross-attention can be looked at.
pub enum Attention {
    Detr(Box<Dense>),
    RtDetr(Box<Sampling>),
}

/// DETR's, which weighs every place of the feature map.
pub struct Dense {
    config: Config,
    heads: Heads,
    /// What the names of the last cross-attention's layers begin with.
    prefix: String,
    session: CpuSession,
    last: Option<Looked>,
}

/// How one query's attention is spread over the picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionMaps {
    pub heads: usize,
    /// Of the feature map, which spans the picture.
    pub rows: usize,
    pub columns: usize,
    /// `[heads, rows, columns]`; each head's sum is 1, or less by the weight of sampling points outside of the picture.
    pub weights: Vec<f32>,
}

/// What all queries of a picture look with and at.
struct Looked {
    /// The picture as the network saw it.
    input: HostTensor,
    /// `[queries, heads * head_width]`
    queries: Vec<f32>,
    /// `[rows * columns, heads * head_width]`
    keys: Vec<f32>,
    rows: usize,
    columns: usize,
}

/// Keeps what the last cross-attention projects.
struct Projections<'a> {
    prefix: &'a str,
    /// Rows and columns of the feature map.
    size: [usize; 2],
    query: Option<Tensor>,
    key: Option<Tensor>,
}

impl Observe<Tensor> for Projections<'_> {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        match seen.layer.strip_prefix(self.prefix) {
            Some("query") => self.query = Some(seen.output.clone()),
            Some("key") => self.key = Some(seen.output.clone()),
            _ => {}
        }
        Ok(())
    }

    fn stage(&mut self, name: &str, x: &Tensor) -> Result<()> {
        if let ("backbone", &[_, rows, columns, _]) = (name, x.dims()) {
            self.size = [rows, columns];
        }
        Ok(())
    }
}

impl Attention {
    pub fn load<C: NetworkConfig>(Checkpoint { config, weights, .. }: &Checkpoint<C>) -> Result<Self> {
        Ok(match config.architecture() {
            Architecture::Detr(config) => Self::Detr(Box::new(Dense::load(&config, weights)?)),
            Architecture::RtDetr(config) => Self::RtDetr(Box::new(Sampling::load(&config, weights)?)),
        })
    }

    /// How many queries can be asked for.
    pub fn queries(&self) -> usize {
        match self {
            Self::Detr(network) => network.config.queries,
            Self::RtDetr(network) => network.queries(),
        }
    }

    /// Where a query (a [`Detection`](super::Detection)'s `query`) looked in a picture.
    pub fn maps(&mut self, picture: &Picture, query: usize) -> Result<AttentionMaps> {
        if query >= self.queries() {
            return Err(Error::Config(format!("there is no query {query}: the network has {}", self.queries())));
        }
        match self {
            Self::Detr(network) => network.maps(picture, query),
            Self::RtDetr(network) => network.maps(picture, query),
        }
    }
}

impl Dense {
    fn load(config: &Config, weights: &Weights) -> Result<Self> {
        let Some((last, layer)) = config.decoder.iter().enumerate().next_back() else {
            return Err(Error::Config("without a decoder there is no attention to look at".into()));
        };
        let session = CpuSession::load(&config.architecture(), weights)?;
        Ok(Self { prefix: format!("decoder.{last}.cross_attention."), config: config.clone(), heads: layer.cross_attention, session, last: None })
    }

    fn maps(&mut self, picture: &Picture, query: usize) -> Result<AttentionMaps> {
        let input = prepare(picture, &self.config.pixels)?;
        let looked = match self.last.take() {
            Some(last) if last.input == input => last,
            _ => self.look(input)?,
        };
        let maps = looked.maps(self.heads, query);
        self.last = Some(looked);
        maps
    }

    /// Runs the network.
    fn look(&mut self, input: HostTensor) -> Result<Looked> {
        let mut seen = Projections { prefix: &self.prefix, size: [0, 0], query: None, key: None };
        self.session.run_observed(&input, None, &mut seen)?;
        let Projections { size: [rows, columns], query, key, .. } = seen;
        let (Some(query), Some(key)) = (query, key) else {
            return Err(Error::Output("its last cross-attention projected nothing".into()));
        };
        Ok(Looked { input, queries: query.flatten_all()?.to_vec1()?, keys: key.flatten_all()?.to_vec1()?, rows, columns })
    }
}

impl Looked {
    /// softmax(q·kᵀ/√head_width) of one query, in each head.
    fn maps(&self, Heads { heads, head_width }: Heads, query: usize) -> Result<AttentionMaps> {
        let width = heads * head_width;
        let query = &self.queries[query * width..][..width];
        let mut weights = Vec::with_capacity(heads * self.rows * self.columns);
        for (head, query) in query.chunks_exact(head_width).enumerate() {
            let scores: Vec<f32> =
                self.keys.chunks_exact(width).map(|key| dot(query, &key[head * head_width..]) / (head_width as f32).sqrt()).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|score| (score - top).exp()).sum();
            weights.extend(scores.iter().map(|score| (score - top).exp() / sum));
        }
        match weights.iter().all(|weight| weight.is_finite()) {
            true => Ok(AttentionMaps { heads, rows: self.rows, columns: self.columns, weights }),
            false => Err(Error::Output("the weights of its attention are no numbers: a number overflowed on the way".into())),
        }
    }
}

/// Over the shorter of the two.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
