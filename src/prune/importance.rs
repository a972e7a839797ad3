//! How much each unit of a structure is missed, by several methods.

use super::calibrate::{Grams, Relevance, calibrate};
use super::inputs::Inputs;
use super::obs::{Problem, Removal, alone, removals};
use super::points::usage;
use super::scores::{Scores, scores};
use super::structure::{Layer, Made, Place, Span, Structure, Used};
use super::trim::Method;
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::hash;
use crate::progress::Progress;
use crate::weights::Weights;
use serde::{Deserialize, Serialize};

/// What decides which units go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// The error of the maps that use them once these have been re-solved ("ZipLM", "OSSCAR").
    #[default]
    Obs,
    /// How much the detector's own outputs change with them, to the first order ("Importance Estimation", Molchanov et al., 2019).
    Taylor,
    /// The size of their weights ("Pruning Filters", Li et al., 2016); of layers the last go first.
    Magnitude,
    /// For heads, how decidedly they attend (Voita et al., 2019, call it confidence); for all else as magnitude.
    Attention,
    /// As it comes: what every method must beat.
    Random,
}

impl Importance {
    /// The order in which the layers of a kind go, first to last, where it isn't measured.
    pub fn layers(self, mut all: Vec<Layer>, seed: u64) -> Option<Vec<Layer>> {
        match self {
            // A decoder's first layers are a detector as they are: its heads are shared. What is measured has that to beat.
            Importance::Magnitude => all.reverse(),
            Importance::Random => {
                let kind = all.first().map_or(String::new(), |layer| layer.prefix());
                fastrand::Rng::with_seed(hash::number(&[&seed.to_le_bytes(), kind.as_bytes()])).shuffle(&mut all);
            }
            Importance::Obs | Importance::Taylor | Importance::Attention => return None,
        }
        Some(all)
    }
}

/// What the methods are told of a network.
pub struct Knowledge {
    pub weights: Weights,
    /// Of the maps that use a structure.
    pub grams: Grams,
    /// Scores of each structure's units by its name, where a method has gathered them on the pictures.
    pub scores: Scores,
    pub seed: u64,
    /// Whether the network selects its queries.
    pub selects: bool,
}

impl Knowledge {
    /// Looks at the pictures for what the method must know of these structures.
    pub fn gather(
        config: &Architecture,
        weights: &Weights,
        inputs: &Inputs,
        relevance: &Relevance,
        structures: &[Structure],
        method: Method,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let maps: Vec<String> = structures.iter().flat_map(|structure| structure.used_by.iter().map(|used| used.layer.clone())).collect();
        progress.begin("looking at the pictures", inputs.len());
        let grams = calibrate(config, weights, inputs, &maps, relevance, &|| progress.step())?;
        let mut scores = scores(method.importance, config, weights, inputs, progress)?;
        if structures.iter().any(|structure| matches!(structure.place, Place::Points(_))) && method.importance != Importance::Random {
            scores.extend(usage(config, weights, inputs, relevance)?);
        }
        // No map uses queries: whatever the method, those go that detect least. But chance stays chance.
        if method.importance != Importance::Random {
            scores.insert("queries".into(), relevance.queries());
        }
        Ok(Self { weights: weights.clone(), grams, scores, seed: method.seed, selects: config.as_detr().is_none() })
    }

    /// The maps that use a structure.
    pub fn problems(&self, structure: &Structure) -> Result<Vec<Problem>> {
        structure.used_by.iter().map(|used| self.problem(&used.layer, &used.span)).collect()
    }

    /// One map, where units lie by `span` among its inputs.
    pub fn problem(&self, map: &str, span: &Span) -> Result<Problem> {
        let gram = self.grams.get(map).ok_or_else(|| Error::Config(format!("nothing is known of what {map} is given")))?;
        Problem::new(gram, self.weights.named(&format!("{map}.weight"))?, span)
    }

    /// All units of a structure but the last, the least important first. Errors are comparable within one structure and method.
    pub fn order(&self, method: Importance, structure: &Structure, problems: &[Problem]) -> Result<Vec<Removal>> {
        if let Some(scores) = self.scores.get(&structure.name) {
            // Queries that are selected have no weights of their own: the last go first.
            let selected = structure.place == Place::Queries && self.selects;
            return Ok(if selected { from_the_end(scores) } else { ascending(scores) });
        }
        Ok(match method {
            Importance::Obs => removals(problems, structure)?,
            Importance::Random => {
                let mut random = fastrand::Rng::with_seed(hash::number(&[&self.seed.to_le_bytes(), structure.name.as_bytes()]));
                let mut units: Vec<usize> = (0..structure.units).collect();
                random.shuffle(&mut units);
                let share = |i: usize| (i + 1) as f64 / structure.units as f64;
                units.into_iter().take(structure.units - 1).enumerate().map(|(i, unit)| Removal { unit, error: share(i) }).collect()
            }
            Importance::Magnitude | Importance::Attention | Importance::Taylor => ascending(&self.magnitude(structure)?),
        })
    }

    /// How much each unit of a structure is missed if it goes alone: by obs, the share of the outputs' variance that re-solving can't
    /// save; by Taylor, the expected squared change of the outputs, as a share of squared scores; by attention, heads' confidence;
    /// else the share of the structure's squared weights.
    pub fn alone(&self, method: Importance, structure: &Structure, problems: &[Problem]) -> Result<Vec<f64>> {
        if let Some(scores) = self.scores.get(&structure.name) {
            return Ok(scores.clone());
        }
        if method == Importance::Obs {
            return alone(problems, structure);
        }
        let squares = self.magnitude(structure)?;
        let all = squares.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        Ok(squares.into_iter().map(|square| square / all).collect())
    }

    /// Squares of the weights that make and use each unit.
    fn magnitude(&self, structure: &Structure) -> Result<Vec<f64>> {
        let mut scores = vec![0.0; structure.units];
        let made_by = structure.made_by.iter().map(|Made { tensor, axis, span }| (tensor.clone(), Some(*axis), span));
        let used_by = structure.used_by.iter().map(|Used { layer, span }| (format!("{layer}.weight"), None, span));
        for (name, axis, span) in made_by.chain(used_by) {
            let tensor = self.weights.named(&name)?;
            let axis = axis.unwrap_or(tensor.shape.len() - 1);
            let (length, inner): (usize, usize) = (tensor.shape[axis], tensor.shape[axis + 1..].iter().product());
            let mut squares = vec![0.0; length];
            tensor.to_f32().iter().enumerate().for_each(|(i, x)| squares[i / inner % length] += f64::from(*x).powi(2));
            for (unit, score) in scores.iter_mut().enumerate() {
                *score += span.of(unit).filter_map(|index| squares.get(index)).sum::<f64>();
            }
        }
        Ok(scores)
    }
}

/// Units from the last to the second; the error is the share of all scores that is gone.
fn from_the_end(scores: &[f64]) -> Vec<Removal> {
    let all = scores.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let mut gone = 0.0;
    let removal = |unit: usize| {
        gone += scores[unit];
        Removal { unit, error: gone / all }
    };
    (1..scores.len()).rev().map(removal).collect()
}

/// Units by their scores; the error is the share of all scores that is gone.
fn ascending(scores: &[f64]) -> Vec<Removal> {
    let all = scores.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let mut units: Vec<usize> = (0..scores.len()).collect();
    units.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    units.pop();
    let mut gone = 0.0;
    let removal = |unit| {
        gone += scores[unit];
        Removal { unit, error: gone / all }
    };
    units.into_iter().map(removal).collect()
}
