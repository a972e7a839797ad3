//! A recipe: a few lines of TOML that say what to take out of any network. Presets are recipes that come with the program.

use super::budget::{Budget, Meter};
use super::calibrate::Relevance;
use super::layers::Dropped;
use super::plan::{Keep, Plan};
use super::search::{Found, Search};
use super::structure::{Place, Structure, structures};
use super::survey::{Survey, Surveyor};
use super::trial::{Tried, try_plans};
use crate::config::Architecture;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Presets by name.
pub const PRESETS: [(&str, &str); 6] = [
    ("layers", include_str!("presets/layers.toml")),
    ("heads", include_str!("presets/heads.toml")),
    ("channels", include_str!("presets/channels.toml")),
    ("article", include_str!("presets/article.toml")),
    ("combined", include_str!("presets/combined.toml")),
    ("speed", include_str!("presets/speed.toml")),
];

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    pub layers: Layers,
    /// What stays of each structure that a pattern names: `*` stands for any letters, `backbone.last` for the backbone's last stage.
    pub keep: BTreeMap<String, Amount>,
    /// What stays of all units together of the structures that a pattern names, taken where they are missed least.
    pub total: BTreeMap<String, Amount>,
    pub budget: Budget,
    /// A budget leaves the input its size.
    pub keep_size: bool,
    /// Kept neurons and channels are multiples of this.
    pub multiple: Option<usize>,
}

/// How many layers stay; those that go are chosen by what their absence does.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Layers {
    pub encoder: Option<Amount>,
    pub decoder: Option<Amount>,
}

/// A number of units, or a share of them; or those that are used.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, expecting = "what is kept must be a number of units, a share above 0.0 and up to 1.0, or \"used\"")]
pub enum Amount {
    Count(usize),
    Share(f64),
    Which(Which),
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Queries that have detected something on any of the pictures.
    Used,
}

impl Amount {
    fn of(self, units: usize, multiple: usize) -> Result<usize> {
        match self {
            Amount::Count(count) if count > 0 => Ok(count.min(units)),
            Amount::Share(share) if share > 0.0 && share <= 1.0 => {
                let count = (share * units as f64).round() as usize;
                Ok((count.max(1)).next_multiple_of(multiple.max(1)).min(units))
            }
            Amount::Which(Which::Used) => Err(Error::Config("only queries can be kept by whether they are \"used\"".into())),
            _ => Err(Error::Config("what is kept must be a number of units, or a share above 0.0 and up to 1.0".into())),
        }
    }
}

/// Kept channels are multiples of this if nobody says otherwise: what kernels work in.
pub const MULTIPLE: usize = 8;

impl Recipe {
    /// A preset's, or a file's.
    pub fn open(name: &str) -> Result<Self> {
        if let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
            return Self::parse(text, name);
        }
        let names = || PRESETS.map(|(name, _)| name).join(", ");
        let text = std::fs::read_to_string(name)
            .map_err(|error| Error::Run { file: name.into(), problem: format!("neither a preset ({}) nor a recipe's file: {error}", names()) })?;
        Self::parse(&text, name)
    }

    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let fail = |problem: String| Error::Run { file: file.into(), problem };
        let recipe: Self = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
        recipe.budget.check().map_err(|error| fail(error.to_string()))?;
        Ok(recipe)
    }

    /// Where there is no device's profile: a preset does without its limit on latency, a recipe of somebody's own means it.
    /// Whether a limit was left out.
    pub fn leave_out_latency(&mut self, name: &str) -> Result<bool> {
        if self.budget.latency.is_some() && PRESETS.iter().all(|(preset, _)| *preset != name) {
            let problem = "its limit on latency needs a profile of the device (detrim bench --profile)".into();
            return Err(Error::Run { file: name.into(), problem });
        }
        Ok(self.budget.latency.take().is_some())
    }

    /// Refuses, before anything is measured, what can't be done to a network.
    pub fn check(&self, config: &Architecture, meter: &Meter, fold: bool) -> Result<()> {
        let by_hand = !(self.keep.is_empty() && self.total.is_empty() && self.layers == Layers::default());
        if self.budget.is_empty() != by_hand {
            let problem = if by_hand { "what stays or what it may cost (a budget), not both" } else { "what stays or what it may cost (a budget)" };
            return Err(Error::Config(format!("a recipe says either {problem}")));
        }
        if !by_hand {
            let survey = Survey::unmeasured(config, !self.keep_size, fold);
            return Search::new(config, survey, &self.budget, meter, self.multiple.unwrap_or(MULTIPLE)).map(drop);
        }
        let (amounts, layers) = (self.keep.iter().chain(&self.total), [self.layers.encoder, self.layers.decoder]);
        for amount in layers.into_iter().flatten() {
            amount.of(1, 1)?;
        }
        for (pattern, amount) in amounts {
            known(pattern, config)?;
            if !matches!(amount, Amount::Which(_)) {
                amount.of(1, 1)?;
            }
        }
        Ok(())
    }

    /// What the recipe takes out of a network.
    pub fn plan(&self, surveyor: &Surveyor, meter: &Meter) -> Result<Tried> {
        let config = surveyor.parent.config;
        let multiple = self.multiple.unwrap_or(MULTIPLE);
        self.check(config, meter, surveyor.method.fold)?;
        if !self.budget.is_empty() {
            let survey = surveyor.survey(!self.keep_size, |_| true)?;
            return try_plans(surveyor, Search::new(config, survey, &self.budget, meter, multiple)?);
        }
        let plan = self.by_hand(surveyor, multiple)?;
        Ok(Tried { found: Found { plan, predicted: f64::NAN }, trials: vec![] })
    }

    /// What stays is said, not what it may cost.
    fn by_hand(&self, surveyor: &Surveyor, multiple: usize) -> Result<Plan> {
        let (config, method) = (surveyor.parent.config, surveyor.method);
        let mut plan = Plan { fold: method.fold, ..Plan::default() };
        if self.layers != Layers::default() {
            let [encoder, decoder] = surveyor.layers()?;
            let mut leave_out = |amount: Option<Amount>, count: usize, order: &[Dropped]| -> Result<()> {
                let kept = amount.map_or(Ok(count), |amount| amount.of(count, 1))?;
                order.iter().take(count - kept).for_each(|dropped| plan.drop(dropped.layer));
                Ok(())
            };
            let [encoder_layers, decoder_layers] = config.layers();
            leave_out(self.layers.encoder, encoder_layers, encoder)?;
            leave_out(self.layers.decoder, decoder_layers, decoder)?;
        }
        let dropped = plan.dropped();
        let all = structures(config);
        let left = || all.iter().filter(|structure| structure.stays(&dropped, method.fold));
        for (pattern, amount) in &self.keep {
            for structure in left().filter(|structure| matches(&full(pattern, config), &structure.name)) {
                let keep = match amount {
                    Amount::Which(Which::Used) if structure.place == Place::Queries => Keep::Units(used(surveyor.parent.relevance)?),
                    amount => Keep::Count(amount.of(structure.units, if structure.is_few() { 1 } else { multiple })?),
                };
                plan.keep.insert(structure.name.clone(), keep);
            }
        }
        for (pattern, amount) in &self.total {
            let survey = surveyor.structures(|name| matches(&full(pattern, config), name))?;
            let named: Vec<_> = survey.iter().filter(|s| s.structure.stays(&dropped, method.fold)).collect();
            let mut kept: Vec<usize> = named.iter().map(|s| s.structure.units).collect();
            let units: usize = kept.iter().sum();
            // What folding takes away is gone already.
            let named_units = |s: &&Structure| s.stays(&dropped, false) && matches(&full(pattern, config), &s.name);
            let before: usize = all.iter().filter(named_units).map(|s| s.units).sum();
            for _ in 0..units.saturating_sub(amount.of(before, 1)?) {
                let price = |i: usize| named[i].difference(kept[i] - 1) - named[i].difference(kept[i]);
                let cheapest = (0..named.len()).filter(|&i| kept[i] > 1).min_by(|&a, &b| price(a).total_cmp(&price(b)));
                match cheapest {
                    Some(i) => kept[i] -= 1,
                    None => break,
                }
            }
            for (s, kept) in named.iter().zip(kept) {
                plan.keep.insert(s.structure.name.clone(), Keep::Count(kept));
            }
        }
        Ok(plan)
    }
}

/// The queries that have detected something.
fn used(relevance: &Relevance) -> Result<Vec<usize>> {
    /// Lower scores are no detections.
    const DETECTED: f32 = 0.1;
    let used = relevance.used(DETECTED);
    if used.is_empty() {
        return Err(Error::Config("no query has detected anything on these pictures, so that none would be kept".into()));
    }
    Ok(used)
}

/// A pattern with its stage named.
fn full(pattern: &str, config: &Architecture) -> String {
    match pattern.strip_prefix("backbone.last") {
        Some(rest) => format!("backbone.{}{rest}", last_stage(config)),
        None => pattern.into(),
    }
}

fn last_stage(config: &Architecture) -> String {
    match config {
        Architecture::Detr(config) => config.backbone.stage_name(config.backbone.stages().saturating_sub(1)),
        Architecture::RtDetr(config) => format!("stage{}", config.backbone.outputs().last().copied().unwrap_or(0)),
    }
}

fn known(pattern: &str, config: &Architecture) -> Result<()> {
    let names: Vec<String> = structures(config).into_iter().map(|structure| structure.name).collect();
    if names.iter().any(|name| matches(&full(pattern, config), name)) {
        return Ok(());
    }
    Err(Error::Config(format!("the recipe names {pattern:?}, which nothing in the network is called; there are {}", names.join(", "))))
}

/// Whether a name follows a pattern in which `*` stands for any letters. Each part between two stars is taken where it first occurs: a later
/// place would leave the rest less room, so that nothing need be tried twice, however many stars there are.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Card, Storage};
    use crate::progress::Silent;
    use crate::prune::difference::Answer;
    use crate::prune::importance::Importance;
    use crate::prune::repair::Side;
    use crate::prune::tiny;
    use crate::prune::trim::Method;

    #[test]
    fn without_a_profile_only_a_preset_does_without_its_limit_on_latency() {
        let mut preset = Recipe::open("combined").unwrap();
        let others = Budget { latency: None, ..preset.budget.clone() };
        assert!(preset.budget.latency.is_some() && preset.leave_out_latency("combined").unwrap());
        assert_eq!(preset.budget, others);
        assert!(!preset.leave_out_latency("combined").unwrap());
        let mut own = Recipe::parse("[budget]\nlatency = \"40ms\"", "own.toml").unwrap();
        assert!(own.leave_out_latency("own.toml").unwrap_err().to_string().starts_with("own.toml: "));
        assert!(!Recipe::parse("[budget]\nparams = \"-5%\"", "own.toml").unwrap().leave_out_latency("own.toml").unwrap());
    }

    #[test]
    fn patterns_and_amounts() {
        assert!(matches("*_attention", "encoder.0.self_attention") && matches("*", "") && matches("a*c*", "abcd"));
        assert!(!matches("*.ffn", "encoder.0.ffn1") && !matches("a*b", "a"));
        assert!(matches("a*a", "aa") && !matches("a*a", "a") && matches("**", "x") && matches("a**b*", "a.b.c") && matches("*é*", "caféx"));
        // Trying every place for every star would take years.
        let stars = "*a".repeat(200);
        assert!(!matches(&format!("{stars}b"), &"a".repeat(400)) && matches(&format!("{stars}*"), &"a".repeat(400)));
        assert_eq!(Amount::Share(0.5).of(100, 8).unwrap(), 56);
        assert_eq!(Amount::Share(0.01).of(6, 8).unwrap(), 6);
        assert_eq!(Amount::Count(4).of(6, 8).unwrap(), 4);
        assert!(Amount::Share(1.5).of(6, 1).is_err() && Amount::Count(0).of(6, 1).is_err());
        for (name, text) in PRESETS {
            Recipe::parse(text, name).unwrap();
        }
        assert!(Recipe::parse("layer = 3", "recipe.toml").unwrap_err().to_string().starts_with("recipe.toml: "));
    }

    #[test]
    fn queries_that_never_detect_go_where_the_used_are_asked_for() {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 2);
        let meter = Meter::new(&config, &Card::default(), Storage::F16, None).unwrap();
        let plan = |scores: [[f32; 4]; 2], text: &str| {
            let answer = |scores: &[f32; 4]| Answer { scores: scores.to_vec(), boxes: vec![0.5; 16], classes: 1, tokens: None };
            let relevance = Relevance::of(&scores.each_ref().map(answer));
            let parent = Side { config: &config, weights: &weights, inputs: &inputs, relevance: &relevance };
            let surveyor = Surveyor::new(&parent, Method { importance: Importance::Obs, repair: true, seed: 0, fold: false }, &Silent);
            Recipe::parse(text, "recipe.toml").unwrap().plan(&surveyor, &meter).map(|tried| tried.found.plan)
        };
        let used = "[keep]\nqueries = \"used\"";
        let found = plan([[0.9, 0.05, 0.0, 0.0], [0.0, 0.09, 0.0, 0.1]], used).unwrap();
        assert_eq!(found.keep["queries"], Keep::Units(vec![0, 3]));
        assert!(plan([[0.01; 4]; 2], used).unwrap_err().to_string().contains("no query"));
        assert!(plan([[0.9; 4]; 2], "[keep]\n\"*.ffn\" = \"used\"").unwrap_err().to_string().contains("only queries"));
        assert!(Recipe::parse("[keep]\nqueries = \"best\"", "recipe.toml").unwrap_err().to_string().contains("or \"used\""));
    }
}
