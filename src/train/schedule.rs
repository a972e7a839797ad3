//! The learning rate over a run, as a factor: a linear warm-up, then constant, falling along a cosine, or dropping.
//!
//! It depends on the step alone, so a run that goes on after a break has the same rates as one without.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the learning rate changes after the warm-up. As text, where `F` is a fraction of the run:
///
/// | text | rate |
/// |---|---|
/// | `constant` | stays |
/// | `cosine` | falls along a cosine to 1% |
/// | `cosine:F` | stays, and falls so over the last `F` |
/// | `cosine:F:L` | the same, to the factor `L` |
/// | `step:F,…` | a tenth from `F` on, a hundredth from the next on, … |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Shape {
    Constant,
    /// `last`: the fraction of the run, 0..1, in which the rate falls; `floor`: the factor at the end, 0..1.
    Cosine {
        last: f64,
        floor: f64,
    },
    /// Fractions of the run, 0..1, from each of which on the rate is a tenth of what it was.
    Step(Vec<f64>),
}

/// The factor at the end of a cosine unless told otherwise.
const FLOOR: f64 = 0.01;

/// The learning rate's factor over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The steps over which the rate rises from nearly nothing.
    pub warmup: u64,
    pub shape: Shape,
}

impl Schedule {
    /// The factor on the learning rate at a step (from 0) of a run of `total` steps; in 0..=1. `since` is the step at which the
    /// optimiser's memory began: 0, or the step at which a run without its moments was taken up, which is warmed up for again.
    pub fn factor(&self, step: u64, total: u64, since: u64) -> f64 {
        let warm = (step.saturating_sub(since) + 1) as f64 / self.warmup.max(1) as f64;
        let done = (step as f64 / total.max(1) as f64).min(1.0);
        let shape = match &self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine { last, floor } => {
                // Not before the warm-up is over.
                let start = (1.0 - last).max(self.warmup as f64 / total.max(1) as f64).min(1.0);
                let fallen = if done <= start { 0.0 } else { (done - start) / (1.0 - start) };
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos())
            }
            Shape::Step(drops) => 0.1f64.powi(drops.iter().filter(|&&drop| done >= drop).count() as i32),
        };
        warm.min(1.0) * shape
    }
}

impl FromStr for Shape {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |problem: &str| Error::Config(format!("schedule `{text}`: {problem}"));
        let fraction =
            |text: &str| text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| fail("a number between 0 and 1 was expected"));
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("constant", None) => Ok(Self::Constant),
            ("cosine", None) => Ok(Self::Cosine { last: 1.0, floor: FLOOR }),
            ("cosine", Some(rest)) => {
                let (last, floor) = rest.split_once(':').map_or((rest, None), |(last, floor)| (last, Some(floor)));
                Ok(Self::Cosine { last: fraction(last)?, floor: floor.map_or(Ok(FLOOR), fraction)? })
            }
            ("step", Some(drops)) => Ok(Self::Step(drops.split(',').map(fraction).collect::<Result<_, _>>()?)),
            _ => Err(fail("expected constant, cosine, cosine:F, cosine:F:L or step:F,…")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant => write!(f, "constant"),
            Self::Cosine { last, floor } => write!(f, "cosine:{last}:{floor}"),
            Self::Step(drops) => write!(f, "step:{}", drops.iter().map(f64::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.to_string()
    }
}

impl TryFrom<String> for Shape {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup: u64, shape: &str) -> Schedule {
        Schedule { warmup, shape: shape.parse().unwrap() }
    }

    #[test]
    fn warms_up_and_stays() {
        let schedule = schedule(4, "constant");
        let found: Vec<f64> = (0..6).map(|step| schedule.factor(step, 100, 0)).collect();
        assert_eq!(found, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn warms_up_again_where_the_moments_began_anew() {
        let schedule = schedule(4, "step:0.5");
        assert_eq!(schedule.factor(51, 100, 50), 0.05);
        assert_eq!(schedule.factor(60, 100, 50), 0.1);
    }

    #[test]
    fn a_cosine_over_the_last_part() {
        let schedule = schedule(0, "cosine:0.4:0.2");
        let at = |step| (schedule.factor(step, 1000, 0) * 1e6).round() / 1e6;
        assert_eq!([at(0), at(600), at(800), at(1000), at(2000)], [1.0, 1.0, 0.6, 0.2, 0.2]);
        assert!(at(601) < 1.0 && at(700) > at(701));
    }

    #[test]
    fn a_cosine_over_all_begins_after_the_warm_up() {
        let schedule = schedule(100, "cosine");
        assert_eq!(schedule.factor(99, 1000, 0), 1.0);
        assert!((schedule.factor(550, 1000, 0) - (0.01 + 0.99 / 2.0)).abs() < 1e-9);
    }

    #[test]
    fn drops_by_ten() {
        let schedule = schedule(0, "step:0.5,0.75");
        let found: Vec<f64> = [0, 49, 50, 74, 75].map(|step| (schedule.factor(step, 100, 0) * 1e6).round() / 1e6).into();
        assert_eq!(found, [1.0, 1.0, 0.1, 0.1, 0.01]);
    }

    #[test]
    fn nothing_divides_by_zero() {
        for shape in ["constant", "cosine", "cosine:0", "step:0"] {
            for (step, total, warmup) in [(0, 0, 0), (5, 0, 0), (0, 10, 20), (9, 10, 20), (10, 10, 10)] {
                let found = schedule(warmup, shape).factor(step, total, 0);
                assert!((0.0..=1.0).contains(&found), "{shape} {step} {total} {warmup}: {found}");
            }
        }
    }

    #[test]
    fn text_says_it_all() {
        for text in ["constant", "cosine:0.4:0.01", "step:0.6,0.9"] {
            let shape: Shape = text.parse().unwrap();
            assert_eq!(shape.to_string(), text);
            let json = serde_json::to_string(&shape).unwrap();
            assert_eq!(serde_json::from_str::<Shape>(&json).unwrap(), shape);
        }
        assert_eq!("cosine".parse::<Shape>().unwrap(), Shape::Cosine { last: 1.0, floor: 0.01 });
        for text in ["", "linear", "cosine:1.5", "cosine:x", "cosine:0.5:-1", "step", "step:", "constant:1", "cosine:NaN"] {
            let error = text.parse::<Shape>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
