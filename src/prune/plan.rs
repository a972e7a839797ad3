//! What is taken out of which network: a small TOML file, which carries out exactly the same again on the same pictures.

use super::cut::drop_last;
use super::graft::neurons;
use super::importance::Importance;
use super::inputs::Inputs;
use super::layers::runs;
use super::structure::{Layer, Place, Structure, structures};
use super::trim::Method;
use crate::checkpoint::Card;
use crate::config::{Architecture, Resize};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything is named and numbered as in the parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Encoder layers that are left out.
    pub drop_encoder: Vec<usize>,
    /// Decoder layers that are left out.
    pub drop_decoder: Vec<usize>,
    /// A smaller input.
    pub resize: Option<Resize>,
    /// Whether the first decoder layer that stays is folded, after all else.
    pub fold: bool,
    /// How it was carried out. A plan that somebody wrote has none.
    pub origin: Option<Origin>,
    /// Units that stay of the structures that are cut, by their names.
    /// A layer that stands for others may have neurons of theirs, which are counted on from its own.
    pub keep: BTreeMap<String, Keep>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    pub parent: String,
    /// Of the parent's file.
    pub parent_sha256: String,
    /// Stands for the pictures.
    pub calibration: String,
    pub pictures: usize,
    pub seed: u64,
    pub importance: Importance,
    pub repair: bool,
    pub version: String,
    /// The size of the parent's input, as people read it; nothing in older plans.
    pub input: String,
}

impl Origin {
    /// Of a plan that is carried out on the parent of this card and file with these pictures.
    pub fn new(parent: &Card, config: &Architecture, parent_sha256: &str, inputs: &Inputs, method: Method) -> Self {
        let Method { importance, repair, seed, .. } = method;
        Self {
            parent: parent.name.clone(),
            parent_sha256: parent_sha256.into(),
            calibration: inputs.hash.clone(),
            pictures: inputs.len(),
            seed,
            importance,
            repair,
            version: env!("CARGO_PKG_VERSION").into(),
            input: config.pixels().resize.to_string(),
        }
    }
}

/// How many units stay, or which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Keep {
    Count(usize),
    Units(Vec<usize>),
}

impl Keep {
    pub fn count(&self) -> usize {
        match self {
            Keep::Count(count) => *count,
            Keep::Units(units) => units.len(),
        }
    }
}

impl Plan {
    pub fn dropped(&self) -> Vec<Layer> {
        self.drop_encoder.iter().map(|&i| Layer::Encoder(i)).chain(self.drop_decoder.iter().map(|&i| Layer::Decoder(i))).collect()
    }

    /// The cuts of some structures, by their names, and nothing else: no layer gone, no other size.
    pub fn only(&self, which: impl Fn(&str) -> bool) -> Plan {
        let keep = self.keep.iter().filter(|(name, _)| which(name)).map(|(name, keep)| (name.clone(), keep.clone())).collect();
        Plan { keep, ..Plan::default() }
    }

    /// The same without repair, which alone can give a layer neurons of others: it has as many of its own.
    pub fn unrepaired(&self, config: &Architecture) -> Plan {
        let mut plan = self.clone();
        for structure in structures(config) {
            let names_others = |keep: &Keep| matches!(keep, Keep::Units(units) if units.last().is_some_and(|&unit| unit >= structure.units));
            match self.keep.get(&structure.name).filter(|keep| names_others(keep)) {
                Some(keep) if keep.count() < structure.units => plan.keep.insert(structure.name, Keep::Count(keep.count())),
                Some(_) => plan.keep.remove(&structure.name),
                None => None,
            };
        }
        plan
    }

    /// Whether this is a plan carried out, with each unit named where that one may only say how many.
    pub fn is_carried_out(&self, plan: &Plan) -> bool {
        let same = |(name, keep): (&String, &Keep)| {
            self.keep.get(name).is_some_and(|own| own == keep || matches!(keep, Keep::Count(count) if own.count() == *count))
        };
        let layers = |plan: &Plan| (plan.drop_encoder.clone(), plan.drop_decoder.clone(), plan.fold);
        layers(self) == layers(plan) && self.resize == plan.resize && self.keep.len() == plan.keep.len() && plan.keep.iter().all(same)
    }

    pub fn drop(&mut self, layer: Layer) {
        let list = match layer {
            Layer::Encoder(_) => &mut self.drop_encoder,
            Layer::Decoder(_) => &mut self.drop_decoder,
        };
        list.push(layer.number());
        list.sort_unstable();
    }

    /// Refuses a plan that can't be carried out on this network.
    pub fn check(&self, config: &Architecture) -> Result<()> {
        let fail = |problem: String| Err(Error::Config(problem));
        let [encoder, decoder] = config.layers();
        for (list, count, kind) in [(&self.drop_encoder, encoder, "encoder"), (&self.drop_decoder, decoder, "decoder")] {
            if let Some(&layer) = list.iter().find(|&&layer| layer >= count) {
                return fail(format!("the plan drops {kind} layer {layer}, but there are {count} (counted from 0)"));
            }
            if list.len() >= count && count > 0 || list.windows(2).any(|pair| pair[0] >= pair[1]) {
                return fail(format!("the plan must name {kind} layers in ascending order, and leave one"));
            }
        }
        // Each of its layers refines what the one before has found.
        let prefix = self.drop_decoder.iter().rev().zip((0..decoder).rev()).all(|(&dropped, last)| dropped == last);
        if config.as_detr().is_none() && !prefix {
            return fail(format!("the plan drops decoder layers {:?}; of {} only the last ones can go", self.drop_decoder, config.model_type()));
        }
        let all = structures(config);
        for (name, keep) in &self.keep {
            let Some(structure) = all.iter().find(|structure| structure.name == *name) else {
                return fail(format!("the plan names {name}, which the network doesn't have"));
            };
            if structure.layer().is_some_and(|layer| self.dropped().contains(&layer)) {
                return fail(format!("the plan keeps units of {name}, whose layer it drops"));
            }
            let all = self.nameable(config, structure);
            let fits = match keep {
                Keep::Count(count) => (1..=structure.units).contains(count),
                Keep::Units(units) => !units.is_empty() && units.windows(2).all(|p| p[0] < p[1]) && units.last().is_some_and(|&u| u < all),
            };
            if !fits {
                return fail(format!("{name} has {all} units; the plan must keep some of them, in ascending order"));
            }
        }
        self.config(config).check()
    }

    /// How many units there are to name of a structure: to the neurons of a layer that stands for others, those of the others are added.
    fn nameable(&self, config: &Architecture, structure: &Structure) -> usize {
        let is_ffn = matches!(structure.place, Place::EncoderFfn(_) | Place::DecoderFfn(_));
        let run = runs(config, &self.dropped()).into_iter().find(|(own, _)| own.is_some() && *own == structure.layer());
        match run {
            Some((Some(own), last)) if is_ffn => neurons(config, own, last).len(),
            _ => structure.units,
        }
    }

    /// What the parent becomes.
    pub fn config(&self, parent: &Architecture) -> Architecture {
        self.config_by(parent, &structures(parent))
    }

    /// The same for who knows the parent's structures, of which those that the plan doesn't name may be missing.
    pub fn config_by<'a>(&self, parent: &Architecture, structures: impl IntoIterator<Item = &'a Structure>) -> Architecture {
        let mut config = parent.clone();
        for structure in structures {
            if let Some(keep) = self.keep.get(&structure.name) {
                structure.place.set(&mut config, keep.count());
            }
        }
        if let Some(resize) = self.resize {
            config.pixels_mut().resize = resize;
        }
        match &mut config {
            Architecture::Detr(config) => {
                let left = |list: &[usize], i: usize| !list.contains(&i);
                let mut i = 0;
                config.encoder.retain(|_| (left(&self.drop_encoder, i), i += 1).0);
                i = 0;
                config.decoder.retain(|_| (left(&self.drop_decoder, i), i += 1).0);
                if self.fold {
                    config.fold();
                }
            }
            Architecture::RtDetr(config) => drop(drop_last(config, self.drop_decoder.len())),
        }
        config
    }

    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Config(error.to_string()))
    }

    pub fn parse(text: &str, file: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::Run { file: file.into(), problem: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_other_layers_gone_is_another_plan() {
        let keep = |keep: Keep| BTreeMap::from([("encoder.0.ffn".to_string(), keep)]);
        let plan = Plan { drop_decoder: vec![1], fold: true, keep: keep(Keep::Count(2)), ..Plan::default() };
        let exact = Plan { keep: keep(Keep::Units(vec![0, 3])), ..plan.clone() };
        assert!(exact.is_carried_out(&plan) && exact.is_carried_out(&exact) && !plan.is_carried_out(&exact));
        for other in [
            Plan { drop_decoder: vec![0], ..plan.clone() },
            Plan { drop_decoder: vec![], ..plan.clone() },
            Plan { drop_encoder: vec![1], ..plan.clone() },
            Plan { fold: false, ..plan.clone() },
            Plan { resize: Some(Resize::Stretch { height: 32, width: 32 }), ..plan.clone() },
            Plan { keep: keep(Keep::Count(3)), ..plan.clone() },
            Plan { keep: BTreeMap::new(), ..plan.clone() },
        ] {
            assert!(!exact.is_carried_out(&other), "{other:?}");
        }
    }
}
