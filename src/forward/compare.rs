//! How far stages are from what another implementation computed, and how far they may be.
//!
//! PyTorch's own float32 differs from float64 by up to 1.4e-3 on the logits and 3.5e-5 on the boxes of DETR-R50.

use super::Stages;
use crate::error::{Error, Result};

const LOGITS: f32 = 5e-3;
const BOXES: f32 = 1e-4;
/// Of a stage's largest number, for every other stage.
const RELATIVE: f32 = 1e-3;

/// How far one stage is off.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub stage: String,
    pub shape: Vec<usize>,
    /// The largest expected number, whatever its sign.
    pub largest: f32,
    /// The largest difference; infinite where a number isn't finite.
    pub absolute: f32,
    /// What `absolute` may be.
    pub allowed: f32,
}

impl Difference {
    /// The largest difference as a part of the largest number.
    pub fn relative(&self) -> f32 {
        if self.absolute == 0.0 { 0.0 } else { self.absolute / self.largest }
    }

    pub fn fits(&self) -> bool {
        self.absolute.is_finite() && self.absolute <= self.allowed
    }
}

/// The largest difference that a stage may show whose largest number is this.
pub fn allowed(stage: &str, largest: f32) -> f32 {
    match stage {
        "logits" => LOGITS,
        "pred_boxes" => BOXES,
        _ => RELATIVE * largest,
    }
}

/// Compares every expected stage, in the order of computation. Fails where one is of another shape or isn't computed at all.
pub fn compare(found: &Stages, expected: &Stages) -> Result<Vec<Difference>> {
    if let Some((name, _)) = expected.iter().find(|(name, _)| !found.iter().any(|(found, _)| found == name)) {
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::Output(format!("there is no stage {name} (there are {})", names.join(", "))));
    }
    let mut differences = Vec::new();
    for (name, found) in found {
        let Some((_, expected)) = expected.iter().find(|(expected, _)| expected == name) else { continue };
        if found.shape != expected.shape {
            return Err(Error::Shape { name: name.clone(), expected: expected.shape.clone(), found: found.shape.clone() });
        }
        let expected = expected.to_f32();
        let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let off = found.to_f32().iter().zip(expected.iter()).map(|(f, e)| (f - e).abs()).fold(0.0f32, |top, off| {
            // `max` would pass over a number that isn't one.
            if off.is_nan() { f32::INFINITY } else { top.max(off) }
        });
        differences.push(Difference { stage: name.clone(), shape: found.shape.clone(), largest, absolute: off, allowed: allowed(name, largest) });
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::HostTensor;

    fn stages(name: &str, numbers: &[f32]) -> Stages {
        vec![("first".into(), HostTensor::f32(&[1], vec![0.0])), (name.into(), HostTensor::f32(&[numbers.len()], numbers.to_vec()))]
    }

    fn off(name: &str, found: &[f32], expected: &[f32]) -> Difference {
        compare(&stages(name, found), &stages(name, expected)[1..].to_vec()).unwrap().remove(0)
    }

    #[test]
    fn tolerances_are_absolute_for_outputs_and_relative_within() {
        let difference = off("backbone", &[-8.004, 1.0], &[-8.0, 1.0]);
        assert!((difference.largest, difference.allowed) == (8.0, 8e-3) && difference.fits(), "{difference:?}");
        assert!((difference.relative() - 5e-4).abs() < 1e-6);
        assert!(!off("backbone", &[1.0, 2.1], &[1.0, 2.0]).fits());
        assert!(off("logits", &[100.0], &[100.004]).fits() && !off("logits", &[100.0], &[100.006]).fits());
        assert!(off("pred_boxes", &[0.5], &[0.50009]).fits() && !off("pred_boxes", &[0.5], &[0.50011]).fits());
    }

    #[test]
    fn what_is_not_a_number_never_fits() {
        assert!(!off("logits", &[f32::NAN, 1.0], &[0.0, 1.0]).fits());
        assert!(!off("logits", &[f32::INFINITY], &[f32::INFINITY]).fits());
        assert!(!off("backbone", &[1.0], &[f32::INFINITY]).fits());
        assert!(off("backbone", &[0.0], &[0.0]).fits());
    }

    #[test]
    fn another_shape_and_an_unknown_stage_are_errors() {
        assert!(compare(&stages("logits", &[1.0]), &stages("logits", &[1.0, 2.0])).is_err());
        let error = compare(&stages("logits", &[1.0]), &stages("lögits", &[1.0])).unwrap_err().to_string();
        assert!(error.contains("no stage lögits (there are first, logits)"), "{error}");
    }
}
