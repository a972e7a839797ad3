//! The first decoder layer's self-attention sees the queries' contents and positions alone, not the picture: what it gives is computed
//! once and stored as what the queries hold.

use crate::config::Config;
use crate::cpu::{Cpu, to_host};
use crate::error::Result;
use crate::layout::layout;
use crate::model::Detr;
use crate::weights::{HostTensor, Weights};
use std::collections::BTreeSet;

/// Folds a network, which answers as before (up to rounding) with fewer tensors. Whether there was anything to fold.
pub fn fold(config: &mut Config, weights: &mut Weights) -> Result<bool> {
    let mut folded = config.clone();
    if !folded.fold() {
        return Ok(false);
    }
    let content = to_host(&Detr::load(&Cpu, config, weights)?.asked(&Cpu)?)?;
    let left: BTreeSet<String> = layout(&folded).into_iter().map(|entry| entry.name).collect();
    for entry in layout(config).iter().filter(|entry| !left.contains(&entry.name)) {
        weights.tensors.remove(&entry.name);
    }
    weights.insert("query_content", HostTensor { shape: vec![config.queries, config.d_model], ..content });
    *config = folded;
    Ok(true)
}
