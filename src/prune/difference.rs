//! How differently two networks see the same pictures: the one measure that choices are made by. It needs no labels.

use super::inputs::{Inputs, Runner, in_order};
use crate::boxes::iou;
use crate::config::{Architecture, ClassActivation};
use crate::cpu::{Cpu, to_host};
use crate::error::Result;
use crate::progress::{Progress, Silent};
use crate::watch::Observe;
use crate::weights::Weights;
use candle_core::Tensor;

/// What a network says of every query of a picture.
pub struct Answer {
    /// `[queries, classes]`, no-object excluded, in 0..1.
    pub scores: Vec<f32>,
    /// `[queries, 4]`, (centre x, centre y, width, height).
    pub boxes: Vec<f32>,
    pub classes: usize,
    /// The tokens that have become queries, where the network selects them.
    pub tokens: Option<Vec<u32>>,
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
        let mut all = Answer { scores: vec![0.0; queries * self.classes], boxes: vec![0.0; 4 * queries], classes: self.classes, tokens: None };
        for (from, &to) in kept.iter().enumerate().filter(|(_, to)| **to < queries) {
            all.scores[to * self.classes..][..self.classes].copy_from_slice(&self.scores[from * self.classes..][..self.classes]);
            all.boxes[4 * to..][..4].copy_from_slice(&self.boxes[4 * from..][..4]);
        }
        all
    }

    /// With the queries in another network's order, where both have selected them: each goes to the query that it is most like, those that detect
    /// most first (the matching of DETR's training, but greedily). What is left over comes after the other's queries.
    fn matched(&self, other: &Answer) -> Option<Answer> {
        self.tokens.as_ref().zip(other.tokens.as_ref())?;
        let mut order: Vec<usize> = (0..other.queries()).collect();
        order.sort_by(|&a, &b| other.best(b).total_cmp(&other.best(a)).then(a.cmp(&b)));
        let mut places: Vec<Option<usize>> = vec![None; self.queries()];
        for query in order {
            let left = (0..self.queries()).filter(|&own| places[own].is_none());
            let nearest = left.map(|own| (other.distance(query, self, own), own)).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            if let Some((_, own)) = nearest {
                places[own] = Some(query);
            }
        }
        let mut next = other.queries();
        let places: Vec<usize> = places.into_iter().map(|place| place.unwrap_or_else(|| (next, next += 1).0)).collect();
        Some(self.among(&places, next))
    }

    /// How differently two queries detect: what [`difference`] counts of them.
    fn distance(&self, query: usize, other: &Answer, others: usize) -> f32 {
        let [a, b] = [(self, query), (other, others)].map(|(answer, query)| &answer.scores[query * answer.classes..][..answer.classes]);
        let scores: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        scores + self.best(query).powi(2) * (1.0 - iou(self.place(query), other.place(others)))
    }

    fn place(&self, query: usize) -> [f32; 4] {
        [0, 1, 2, 3].map(|i| self.boxes[4 * query + i])
    }
}

/// Notes which tokens are selected.
#[derive(Default)]
struct Selected(Option<Tensor>);

impl Observe<Tensor> for Selected {
    fn stage(&mut self, name: &str, x: &Tensor) -> Result<()> {
        if name == "enc_topk_ind" {
            self.0 = Some(x.clone());
        }
        Ok(())
    }
}

/// What a network says of all pictures, at the size that it takes them.
pub fn look(config: &Architecture, weights: &Weights, inputs: &Inputs) -> Result<Vec<Answer>> {
    look_on(config, weights, inputs, &Silent)
}

/// The same where somebody waits for it.
pub fn look_on(config: &Architecture, weights: &Weights, inputs: &Inputs, progress: &dyn Progress) -> Result<Vec<Answer>> {
    let inputs = &inputs.sized(config.pixels())?.without_tokens();
    let runner = Runner::load(&Cpu, config, weights)?;
    progress.begin("looking at the pictures", inputs.len());
    in_order(inputs.len(), |index| {
        let mut selected = Selected::default();
        let output = inputs.run(&Cpu, &runner, index, &mut selected)?;
        let tokens = selected.0.map(|tokens| to_host(&tokens)).transpose()?;
        let tokens = tokens.map(|tokens| tokens.to_f32().iter().map(|&token| token as u32).collect());
        let (logits, boxes) = (to_host(&output.logits)?, to_host(&output.boxes)?);
        let scores = scores(config, &logits.to_f32());
        progress.step();
        let boxes = boxes.to_f32().into_owned();
        Ok(Answer { classes: scores.len() * 4 / boxes.len().max(1), scores, boxes, tokens })
    })
}

fn scores(config: &Architecture, logits: &[f32]) -> Vec<f32> {
    let rows = logits.chunks_exact(config.classes());
    match config.class_activation() {
        ClassActivation::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        ClassActivation::Softmax => rows
            .flat_map(|row| {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let waves: Vec<f32> = row.iter().map(|x| (x - most).exp()).collect();
                let sum: f32 = waves.iter().sum();
                waves.into_iter().take(config.classes() - 1).map(move |x| x / sum)
            })
            .collect(),
    }
}

/// How much of what the parent detects another network misses or adds: squared differences of scores, and for every query its squared best
/// score times the share of its box that isn't shared, over the parent's squared scores. 0 is the same; 1 is as far off as saying nothing.
/// Where networks select their queries, each is compared with the one that it is most like.
pub fn difference(parent: &[Answer], other: &[Answer]) -> f64 {
    let (mut sum, mut all) = (0.0, f64::MIN_POSITIVE);
    for (parent, other) in parent.iter().zip(other) {
        let matched = other.matched(parent);
        let other = matched.as_ref().unwrap_or(other);
        all += square(parent.scores.iter().copied());
        sum += square(parent.scores.iter().zip(&other.scores).map(|(a, b)| a - b));
        // What the parent has no query for.
        sum += square(other.scores.iter().skip(parent.scores.len()).copied());
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
        let seen = |scores: &[f32], x: f32| {
            vec![Answer { scores: scores.into(), boxes: vec![x, 0.5, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1], classes: 2, tokens: None }]
        };
        let parent = seen(&[0.9, 0.1, 0.2, 0.0], 0.5);
        assert_eq!(difference(&parent, &parent), 0.0);
        assert!((difference(&parent, &seen(&[0.0; 4], 0.5)) - 1.0).abs() < 1e-6);
        let shifted = difference(&parent, &seen(&[0.9, 0.1, 0.2, 0.0], 0.8));
        assert!((shifted - 0.81 / 0.86).abs() < 1e-6, "{shifted}");
        assert_eq!(difference(&parent, &seen(&[f32::NAN, 0.1, 0.2, 0.0], 0.5)), f64::INFINITY);

        // A query that is gone has found nothing; the other is where it was.
        let second = Answer { scores: vec![0.2, 0.0], boxes: vec![0.1; 4], classes: 2, tokens: None };
        let without_first = difference(&parent, &[second.among(&[1], 2)]);
        assert!((without_first - (0.81 + 0.01 + 0.81) / 0.86).abs() < 1e-6, "{without_first}");

        // Queries that were selected, in another order.
        let of = |tokens: &[u32], scores: &[f32]| {
            let answer = Answer { scores: scores.into(), boxes: [0.5, 0.5, 0.2, 0.2].repeat(tokens.len()), classes: 1, tokens: Some(tokens.into()) };
            vec![answer]
        };
        let parent = of(&[7, 3], &[0.9, 0.2]);
        assert_eq!(difference(&parent, &of(&[3, 7], &[0.2, 0.9])), 0.0);
        let other = difference(&parent, &of(&[5, 7, 6], &[0.4, 0.9, 0.1]));
        // The one that is too much is another's, the other is nobody's.
        assert!((other - (0.01 + 0.16) / 0.85).abs() < 1e-6, "{other}");
        assert!((difference(&parent, &of(&[7], &[0.9])) - 0.08 / 0.85).abs() < 1e-6);
    }
}
