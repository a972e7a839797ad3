//! Trims for a report: every network is written as soon as it is made, and one that is there already, by the same settings, is used again.
//!
//! A file says in its card's provenance by which settings it was made.

use crate::checkpoint::{Card, Checkpoint, Guess, Storage, open_any, to_bytes};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::output::write;
use crate::progress::Progress;
use crate::prune::budget::{Budget, Limit, Meter};
use crate::prune::importance::Importance;
use crate::prune::plan::{Origin, Plan};
use crate::prune::recipe::{MULTIPLE, Recipe};
use crate::prune::repair::Side;
use crate::prune::search::Search;
use crate::prune::survey::Surveyor;
use crate::prune::trim::{Method, carry_out};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where a parent is trimmed, and with what.
pub struct Workshop<'a> {
    pub parent: &'a Side<'a>,
    pub card: &'a Card,
    /// Of the parent's file.
    pub sha256: &'a str,
    pub meter: Meter<'a>,
    /// Where the networks and their plans go.
    pub folder: &'a Path,
    pub progress: &'a dyn Progress,
}

/// A trimmed network with and without repair: the same units are gone.
pub struct Pair {
    /// Relative to the folder.
    pub repaired: String,
    pub unrepaired: String,
}

impl Workshop<'_> {
    /// The parent as f16, for a fair comparison.
    pub fn parent(&self) -> Result<String> {
        let (config, weights) = (self.parent.config.clone(), self.parent.weights.clone());
        let card = Card { name: "parent".into(), ..self.card.clone() };
        let bytes = to_bytes(&Checkpoint { config, weights, card, guesses: vec![] }, Storage::F16)?;
        let file = self.folder.join("parent.safetensors");
        if std::fs::read(&file).ok().as_ref() != Some(&bytes) {
            write(&file, &bytes)?;
        }
        Ok("parent.safetensors".into())
    }

    /// What a recipe makes by the surveyor's method.
    pub fn recipe(&self, name: &str, recipe: &Recipe, surveyor: &Surveyor) -> Result<Pair> {
        let importance = surveyor.method.importance;
        let what = format!("recipe {name} ({})", self.stamp(recipe)?);
        let file = if importance == Importance::Obs { name.into() } else { format!("methods/{name}-{}", word(importance)) };
        self.pair(&file, &what, surveyor.method, || Ok(recipe.plan(surveyor, &self.meter)?.found.plan))
    }

    /// What the surveyor's method makes for limits of multiply-accumulates. The input keeps its size, for no method decides about that. Queries stay: they
    /// cost next to nothing, and outputs are compared query by query.
    pub fn limits(&self, surveyor: &Surveyor, limits: &[(String, Limit)]) -> Result<Vec<Result<Pair>>> {
        let importance = surveyor.method.importance;
        let mut pairs = Vec::new();
        for (text, limit) in limits {
            let budget = Budget { macs: Some(*limit), ..Budget::default() };
            let name = format!("curves/{}-{}", word(importance), file_name(text));
            let pair = self.pair(&name, &format!("at most {text} multiply-accumulates"), surveyor.method, || {
                let survey = surveyor.survey(false, |name| name != "queries")?;
                Ok(Search::new(self.parent.config, survey, &budget, &self.meter, MULTIPLE)?.best()?.plan)
            });
            pairs.push(fatal(pair)?);
        }
        Ok(pairs)
    }

    /// Stands for a recipe and all that it goes by.
    fn stamp(&self, recipe: &Recipe) -> Result<String> {
        let profile = self.meter.profile.filter(|_| recipe.budget.latency.is_some());
        Ok(sha256((json(recipe)? + &json(&profile)?).as_bytes())[..12].into())
    }

    /// How a network was made, as its file tells it.
    fn made(&self, what: &str, Method { importance, repair, seed, .. }: Method) -> String {
        let [name, sha256, version] = [&self.card.name, self.sha256, env!("CARGO_PKG_VERSION")];
        let (pictures, hash) = (self.parent.inputs.len(), &self.parent.inputs.hash);
        let repaired = if repair { "repaired" } else { "not repaired" };
        let by = word(importance);
        format!(
            "trimmed from {name} (sha256 {sha256}) by detrim {version}: {what} by {by}, {repaired}, folded, on {pictures} pictures ({hash}), seed {seed}"
        )
    }

    fn pair(&self, name: &str, what: &str, method: Method, plan: impl FnOnce() -> Result<Plan>) -> Result<Pair> {
        let unrepaired = format!("{name}-unrepaired");
        let exact = match self.there(name, &self.made(what, method))? {
            Some(plan) => plan,
            None => self.make(name, what, &plan()?, method)?,
        };
        // By the exact plan: what differs is the repair alone.
        let (bare, method) = (exact.unrepaired(self.parent.config), Method { repair: false, ..method });
        if self.there(&unrepaired, &self.made(what, method))?.is_none_or(|plan| !plan.is_carried_out(&bare)) {
            self.make(&unrepaired, what, &bare, method)?;
        }
        Ok(Pair { repaired: format!("{name}.safetensors"), unrepaired: format!("{unrepaired}.safetensors") })
    }

    /// The plan of a network that was made like this before.
    fn there(&self, name: &str, made: &str) -> Result<Option<Plan>> {
        let (model, plan) = self.files(name);
        if !model.is_file() || !plan.is_file() {
            return Ok(None);
        }
        let Ok(checkpoint) = open_any(&model, &Guess::default()) else { return Ok(None) };
        if checkpoint.card.provenance.iter().all(|line| line != made) {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&plan).map_err(|source| Error::Io { file: plan.display().to_string(), source })?;
        let Ok(plan) = Plan::parse(&text, &plan.display().to_string()) else { return Ok(None) };
        // What stands for a first decoder layer gives queries contents, which the plan doesn't tell.
        let mut expected = plan.config(self.parent.config);
        if let (Architecture::Detr(expected), Architecture::Detr(found)) = (&mut expected, &checkpoint.config) {
            expected.query_content = found.query_content;
        }
        Ok((expected == checkpoint.config).then_some(plan))
    }

    /// Carries a plan out and writes what comes of it.
    fn make(&self, name: &str, what: &str, plan: &Plan, method: Method) -> Result<Plan> {
        let done = carry_out(self.parent, plan, method, self.progress)?;
        let mut plan = done.plan;
        plan.origin = Some(Origin::new(self.card, self.parent.config, self.sha256, self.parent.inputs, method));
        let mut card = self.card.clone();
        card.name = name.rsplit('/').next().unwrap_or(name).into();
        card.provenance.push(self.made(what, method));
        let trimmed = Checkpoint { config: done.config, weights: done.weights, card, guesses: vec![] };
        let (file, beside) = self.files(name);
        let folder = file.parent().unwrap_or(self.folder);
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { file: folder.display().to_string(), source })?;
        // The model last: where it is, its plan is.
        write(&beside, plan.to_toml()?.as_bytes())?;
        write(&file, &to_bytes(&trimmed, Storage::F16)?)?;
        Ok(plan)
    }

    fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("{name}.safetensors")), self.folder.join(format!("{name}.toml")))
    }
}

/// Errors that would meet the next network too; what can't be had of this network is left to the caller.
pub fn fatal<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error @ Error::Io { .. }) => Err(error),
        other => Ok(other),
    }
}

/// A method's name on the command line.
pub fn word(importance: Importance) -> String {
    format!("{importance:?}").to_lowercase()
}

/// A limit as a file's name: `-10%` → `macs-10`.
fn file_name(limit: &str) -> String {
    let name: String = limit.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    format!("macs{name}")
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Config(error.to_string()))
}
