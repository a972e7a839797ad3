//! How differently two networks see the same pictures: the one measure that choices are made by. It needs no labels.

use super::inputs::{Inputs, in_order};
use crate::boxes::iou;
use crate::config::{ClassActivation, Config};
use crate::cpu::{Cpu, to_host};
use crate::error::Result;
use crate::model::Detr;
use crate::progress::{Progress, Silent};
use crate::weights::Weights;

/// What a network says of every query of a picture.
pub struct Answer {
    /// `[queries, classes]`, no-object excluded, in 0..1.
    pub scores: Vec<f32>,
    /// `[queries, 4]`, (centre x, centre y, width, height).
    pub boxes: Vec<f32>,
    pub classes: usize,
}

impl Answer {
    pub fn queries(&self) -> usize {
        self.boxes.len() / 4
    }

    /// The largest score of a query.
    pub fn best(&self, query: usize) -> f32 {
        self.scores[query * self.classes..][..self.classes].iter().copied().fold(0.0, f32::max)
    }

    /// As an answer of more queries, of which these ones are `kept`: the others say nothing.
    pub fn among(&self, kept: &[usize], queries: usize) -> Answer {
        let mut all = Answer { scores: vec![0.0; queries * self.classes], boxes: vec![0.0; 4 * queries], classes: self.classes };
        for (from, &to) in kept.iter().enumerate().filter(|(_, to)| **to < queries) {
            all.scores[to * self.classes..][..self.classes].copy_from_slice(&self.scores[from * self.classes..][..self.classes]);
            all.boxes[4 * to..][..4].copy_from_slice(&self.boxes[4 * from..][..4]);
        }
        all
    }

    fn place(&self, query: usize) -> [f32; 4] {
        [0, 1, 2, 3].map(|i| self.boxes[4 * query + i])
    }
}

/// What a network says of all pictures, at the size that it takes them.
pub fn look(config: &Config, weights: &Weights, inputs: &Inputs) -> Result<Vec<Answer>> {
    look_on(config, weights, inputs, &Silent)
}

/// The same where somebody waits for it.
pub fn look_on(config: &Config, weights: &Weights, inputs: &Inputs, progress: &dyn Progress) -> Result<Vec<Answer>> {
    let inputs = &inputs.sized(&config.pixels)?;
    let detr = Detr::load(&Cpu, config, weights)?;
    progress.begin("looking at the pictures", inputs.len());
    in_order(inputs.len(), |index| {
        let output = inputs.run(&Cpu, &detr, index)?;
        let (logits, boxes) = (to_host(&output.logits)?, to_host(&output.boxes)?);
        let scores = scores(config, &logits.to_f32());
        progress.step();
        Ok(Answer { classes: scores.len() / config.queries.max(1), scores, boxes: boxes.to_f32().into_owned() })
    })
}

fn scores(config: &Config, logits: &[f32]) -> Vec<f32> {
    let rows = logits.chunks_exact(config.classes);
    match config.class_activation {
        ClassActivation::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        ClassActivation::Softmax => rows
            .flat_map(|row| {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let waves: Vec<f32> = row.iter().map(|x| (x - most).exp()).collect();
                let sum: f32 = waves.iter().sum();
                waves.into_iter().take(config.classes - 1).map(move |x| x / sum)
            })
            .collect(),
    }
}

/// How much of what the parent detects another network misses or adds: squared differences of scores, and for every query its squared best
/// score times the share of its box that isn't shared, over the parent's squared scores. 0 is the same; 1 is as far off as saying nothing.
pub fn difference(parent: &[Answer], other: &[Answer]) -> f64 {
    let (mut sum, mut all) = (0.0, f64::MIN_POSITIVE);
    for (parent, other) in parent.iter().zip(other) {
        all += square(parent.scores.iter().copied());
        sum += square(parent.scores.iter().zip(&other.scores).map(|(a, b)| a - b));
        for query in 0..parent.queries().min(other.queries()) {
            sum += f64::from(parent.best(query).powi(2) * (1.0 - iou(parent.place(query), other.place(query))));
        }
    }
    // Numbers that aren't finite must not pass for a small difference.
    if (sum / all).is_finite() { sum / all } else { f64::INFINITY }
}

fn square(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.map(|x| f64::from(x).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_one_away_and_a_shifted_box_counts_by_its_score() {
        let seen = |scores: &[f32], x: f32| vec![Answer { scores: scores.into(), boxes: vec![x, 0.5, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1], classes: 2 }];
        let parent = seen(&[0.9, 0.1, 0.2, 0.0], 0.5);
        assert_eq!(difference(&parent, &parent), 0.0);
        assert!((difference(&parent, &seen(&[0.0; 4], 0.5)) - 1.0).abs() < 1e-6);
        let shifted = difference(&parent, &seen(&[0.9, 0.1, 0.2, 0.0], 0.8));
        assert!((shifted - 0.81 / 0.86).abs() < 1e-6, "{shifted}");
        assert_eq!(difference(&parent, &seen(&[f32::NAN, 0.1, 0.2, 0.0], 0.5)), f64::INFINITY);

        // A query that is gone has found nothing; the other is where it was.
        let second = Answer { scores: vec![0.2, 0.0], boxes: vec![0.1; 4], classes: 2 };
        let without_first = difference(&parent, &[second.among(&[1], 2)]);
        assert!((without_first - (0.81 + 0.01 + 0.81) / 0.86).abs() < 1e-6, "{without_first}");
    }
}
