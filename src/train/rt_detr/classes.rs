//! A new class head for other classes: what a network knows by name stays.

use super::network::LABEL;
use crate::config::{Label, RtDetr as Config};
use crate::error::{Error, Result};
use crate::train::classes::known_by_name;
use crate::train::run::State;
use crate::weights::HostTensor;

/// The probability that a new class begins with ("Focal Loss", Lin et al., 2017, section 4.1).
const PRIOR: f32 = 0.01;

/// Gives a network that is to be trained a class head for these classes; how many of them it knew. Rows of classes that it knows by name stay,
/// others begin by Glorot's rule and at a low probability.
pub fn replace(config: &mut Config, state: &mut State, labels: Vec<Label>, seed: u64) -> Result<usize> {
    if labels.is_empty() {
        return Err(Error::Config("a detector needs at least one class".into()));
    }
    let known = known_by_name(&config.labels, &labels);
    let mut new = config.clone();
    (new.classes, new.labels) = (labels.len(), labels);
    new.check()?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let heads = (0..config.decoder.layers).map(|i| format!("class_head.{i}")).chain(["selection.score".into()]);
    let names = heads.flat_map(|head| [format!("{head}.weight"), format!("{head}.bias")]).chain([LABEL.into()]);
    for name in names {
        let Some(before) = state.weights.tensors.get(&name) else { continue };
        let width = before.len() / config.classes;
        let most = (6.0 / (new.classes + width) as f32).sqrt();
        let before = (before.to_f32(), before.shape.len());
        let mut rows = Vec::with_capacity(new.classes * width);
        for from in &known {
            match from {
                Some(from) => rows.extend(&before.0[from * width..(from + 1) * width]),
                None if before.1 == 1 => rows.push(-((1.0 - PRIOR) / PRIOR).ln()),
                None => rows.extend((0..width).map(|_| most * (2.0 * rng.f32() - 1.0))),
            }
        }
        let shape = if before.1 == 1 { vec![new.classes] } else { vec![new.classes, width] };
        state.weights.insert(&name, HostTensor::f32(&shape, rows));
        state.moments.0.remove(&name);
        state.average.values.remove(&name);
    }
    let count = known.iter().flatten().count();
    state.provenance.push(format!("given a new class head for {} classes, {count} of them as they were", new.labels.len()));
    *config = new;
    Ok(count)
}
