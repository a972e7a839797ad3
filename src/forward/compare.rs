//! How far stages are from what another implementation computed, and how far they may be.
//!
//! PyTorch's own float32 differs from float64 by up to 1.4e-3 on the logits and 3.5e-5 on the boxes of DETR-R50, and by 9e-4 and 6e-5 on
//! DEIMv2-Femto's, whose layers refine boxes that others were sampled at.

use super::Stages;
use crate::error::{Error, Result};
use crate::weights::HostTensor;

const LOGITS: f32 = 5e-3;
const BOXES: f32 = 1e-4;
/// Where decoder layers refine the boxes of selected tokens.
const REFINED_BOXES: f32 = 2e-4;
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
    let order = order(found, expected)?;
    let mut differences = Vec::new();
    for (name, found) in found {
        let Some((_, expected)) = expected.iter().find(|(expected, _)| expected == name) else { continue };
        if found.shape != expected.shape {
            return Err(Error::Shape { name: name.clone(), expected: expected.shape.clone(), found: found.shape.clone() });
        }
        let aligned = order.as_ref().and_then(|order| aligned(found, order));
        let found = aligned.as_ref().unwrap_or(found);
        let expected = expected.to_f32();
        let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let off = found.to_f32().iter().zip(expected.iter()).map(|(f, e)| (f - e).abs()).fold(0.0f32, |top, off| {
            // `max` would pass over a number that isn't one.
            if off.is_nan() { f32::INFINITY } else { top.max(off) }
        });
        differences.push(Difference {
            stage: name.clone(),
            shape: found.shape.clone(),
            largest,
            absolute: off,
            allowed: if name == "pred_boxes" && order.is_some() { REFINED_BOXES } else { allowed(name, largest) },
        });
    }
    Ok(differences)
}

/// The stage that tells which tokens became queries.
const SELECTED: &str = "enc_topk_ind";

/// Where in `found` each of the expected queries is, picture by picture: tokens whose scores are nearly equal may be selected in another order.
fn order(found: &Stages, expected: &Stages) -> Result<Option<Vec<Vec<usize>>>> {
    let selected = |stages: &Stages| stages.iter().find(|(name, _)| name == SELECTED).map(|(_, tensor)| tensor.clone());
    let (Some(found), Some(expected)) = (selected(found), selected(expected)) else { return Ok(None) };
    if found.shape != expected.shape || found.shape.len() != 2 {
        return Err(Error::Shape { name: SELECTED.into(), expected: expected.shape, found: found.shape });
    }
    let (found, queries, expected) = (found.to_f32(), found.shape[1], expected.to_f32());
    let pictures = found.chunks_exact(queries).zip(expected.chunks_exact(queries)).map(|(found, expected)| {
        let place = |token: &f32| {
            let place = found.iter().position(|found| found == token);
            place.ok_or_else(|| Error::Output(format!("token {token} was expected among the selected ones and is not")))
        };
        expected.iter().map(place).collect()
    });
    pictures.collect::<Result<_>>().map(Some)
}

/// A stage of queries in another order.
fn aligned(tensor: &HostTensor, order: &[Vec<usize>]) -> Option<HostTensor> {
    let queries = order.first()?.len();
    if tensor.shape.len() < 2 || tensor.shape.len() > 3 || tensor.shape[..2] != [order.len(), queries] {
        return None;
    }
    let width: usize = tensor.shape[2..].iter().product();
    let numbers = tensor.to_f32();
    let places = order.iter().enumerate().flat_map(|(picture, order)| order.iter().map(move |place| picture * queries + place));
    Some(HostTensor::f32(&tensor.shape, places.flat_map(|place| numbers[place * width..][..width].iter().copied()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn queries_are_compared_by_their_tokens() {
        let stages = |tokens: &[f32], logits: &[f32]| {
            let (tokens, logits) = (HostTensor::f32(&[1, tokens.len()], tokens.to_vec()), HostTensor::f32(&[1, tokens.len(), 1], logits.to_vec()));
            vec![(SELECTED.to_string(), tokens), ("logits".to_string(), logits)]
        };
        let differences = compare(&stages(&[7.0, 3.0], &[1.0, 2.0]), &stages(&[3.0, 7.0], &[2.0, 1.0])).unwrap();
        assert!(differences.iter().all(|difference| difference.absolute == 0.0), "{differences:?}");
        assert!(!compare(&stages(&[7.0, 3.0], &[1.0, 2.0]), &stages(&[3.0, 7.0], &[1.0, 2.0])).unwrap()[1].fits());
        assert!(compare(&stages(&[7.0, 3.0], &[1.0, 2.0]), &stages(&[3.0, 8.0], &[2.0, 1.0])).unwrap_err().to_string().contains("token 8"));
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
