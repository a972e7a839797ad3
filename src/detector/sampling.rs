//! Where a query of RT-DETR's family looked: the sampling points of the last decoder layer's deformable attention, each as heavy as its
//! weight, on a map of the finest level's size.

use super::attention::AttentionMaps;
use crate::backend::Deformable;
use crate::config::{Architecture, RtDetr as Config};
use crate::cpu::CpuSession;
use crate::error::{Error, Result};
use crate::image::{Picture, prepare};
use crate::watch::Observe;
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;

/// A network whose last deformable attention can be looked at.
pub struct Sampling {
    config: Config,
    session: CpuSession,
    last: Option<Looked>,
}

/// Keeps what the last deformable attention looked with.
#[derive(Default)]
struct Last(Option<(Tensor, Tensor, Tensor, Deformable)>);

impl Observe<Tensor> for Last {
    fn deformable(&mut self, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<()> {
        self.0 = Some((offsets.clone(), weights.clone(), boxes.clone(), deformable.clone()));
        Ok(())
    }
}

/// What all queries of a picture looked with.
struct Looked {
    /// The picture as the network saw it.
    input: HostTensor,
    /// `[queries, heads * points * 2]`
    offsets: Vec<f32>,
    /// `[queries, heads * points]`, before their softmax.
    weights: Vec<f32>,
    /// `[queries, 4]`
    boxes: Vec<f32>,
    deformable: Deformable,
}

impl Sampling {
    pub fn load(config: &Config, weights: &Weights) -> Result<Self> {
        let session = CpuSession::load(&Architecture::RtDetr(Box::new(config.clone())), weights)?;
        Ok(Self { config: config.clone(), session, last: None })
    }

    pub fn queries(&self) -> usize {
        self.config.queries
    }

    pub fn maps(&mut self, picture: &Picture, query: usize) -> Result<AttentionMaps> {
        let input = prepare(picture, &self.config.pixels)?;
        let looked = match self.last.take() {
            Some(last) if last.input == input => last,
            _ => self.look(input)?,
        };
        let maps = looked.maps(query);
        self.last = Some(looked);
        maps
    }

    /// Runs the network.
    fn look(&mut self, input: HostTensor) -> Result<Looked> {
        let mut last = Last::default();
        self.session.run_observed(&input, None, &mut last)?;
        let Some((offsets, weights, boxes, deformable)) = last.0 else {
            return Err(Error::Output("its decoder looked at nothing".into()));
        };
        let numbers = |tensor: Tensor| -> Result<Vec<f32>> { Ok(tensor.flatten_all()?.to_vec1()?) };
        Ok(Looked { input, offsets: numbers(offsets)?, weights: numbers(weights)?, boxes: numbers(boxes)?, deformable })
    }
}

impl Looked {
    fn maps(&self, query: usize) -> Result<AttentionMaps> {
        let Deformable { heads, levels, points, offset_scale, .. } = &self.deformable;
        let all = self.deformable.all_points();
        let (Some(&[rows, columns]), Some(place)) = (levels.first(), self.boxes.get(query * 4..query * 4 + 4)) else {
            return Err(Error::Config(format!("there is no query {query} in a picture of this size")));
        };
        // Each point's level has so many points.
        let of_level: Vec<f32> = points.iter().flat_map(|&count| std::iter::repeat_n(count as f32, count)).collect();
        let mut maps = vec![0.0; heads * rows * columns];
        for (head, map) in maps.chunks_exact_mut(rows * columns).enumerate() {
            let first = (query * heads + head) * all;
            let weights = softmax(&self.weights[first..first + all]);
            for ((offset, weight), count) in self.offsets[2 * first..].chunks_exact(2).zip(weights).zip(&of_level) {
                let along = |axis: usize, side: usize| (place[axis] + offset[axis] / count * place[2 + axis] * offset_scale) * side as f32 - 0.5;
                splat(map, [rows, columns], [along(1, rows), along(0, columns)], weight);
            }
        }
        match maps.iter().all(|weight| weight.is_finite()) {
            true => Ok(AttentionMaps { heads: *heads, rows, columns, weights: maps }),
            false => Err(Error::Output("the weights of its attention are no numbers: a number overflowed on the way".into())),
        }
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = scores.iter().map(|score| (score - top).exp()).sum();
    scores.iter().map(|score| (score - top).exp() / sum).collect()
}

/// Adds a weight to the four places around a point, as bilinear sampling reads them; what lies outside of the map is seen by nobody.
fn splat(map: &mut [f32], [rows, columns]: [usize; 2], [y, x]: [f32; 2], weight: f32) {
    for (row, share_down) in [(y.floor(), 1.0 - (y - y.floor())), (y.floor() + 1.0, y - y.floor())] {
        for (column, share_along) in [(x.floor(), 1.0 - (x - x.floor())), (x.floor() + 1.0, x - x.floor())] {
            if row >= 0.0 && column >= 0.0 && (row as usize) < rows && (column as usize) < columns {
                map[row as usize * columns + column as usize] += weight * share_down * share_along;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_falls_on_the_places_around_it() {
        let looked = Looked {
            input: HostTensor::f32(&[1], vec![0.0]),
            // One head, two points on the only level: at the box's centre, and half of its width to the right (offset 2 of 2 points, scaled by half).
            offsets: vec![0.0, 0.0, 2.0, 0.0],
            weights: vec![0.0, 3f32.ln()],
            boxes: vec![0.375, 0.5, 0.5, 0.5],
            deformable: Deformable { heads: 1, levels: vec![[2, 4]], points: vec![2], offset_scale: 0.5, method: Default::default() },
        };
        let maps = looked.maps(0).unwrap();
        // Centre: x = 0.375 * 4 - 0.5 = 1, y between the two rows; to the right by 0.25 * 4 = 1.
        let expected = [0.0, 0.125, 0.375, 0.0, 0.0, 0.125, 0.375, 0.0];
        assert!(maps.weights.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{:?}", maps.weights);
        assert!(looked.maps(1).is_err());
    }
}
