//! How far a student's queries are from its teacher's, and the gradient of that.
//!
//! A teacher's scores say more than labels do (Hinton et al. 2015, arXiv:1503.02531): the class loss is against all of them,
//! and a box counts by how sure the teacher is that there is an object. A trimmed network keeps its parent's queries, so they
//! correspond one to one; otherwise they are matched first (as in DETRDistill, Chang et al. 2023, arXiv:2211.10156).

use super::loss::{Normaliser, Parts, Predicted, Weights, box_loss, quality_focal};
use super::matching::{cheapest, log_sum_exp, pair_costs};
use crate::config::ClassActivation;

#[derive(Clone, Debug, PartialEq)]
pub struct Distillation {
    /// Of both networks, as are the classes.
    pub activation: ClassActivation,
    /// With softmax: how much a query where the teacher finds nothing counts.
    pub no_object: f32,
    /// Of the loss.
    pub weights: Weights,
    /// Of what matching minimises.
    pub costs: Weights,
}

impl Distillation {
    pub fn new(activation: ClassActivation) -> Self {
        let criterion = super::loss::Criterion::new(activation);
        Self { activation, no_object: criterion.no_object, weights: criterion.weights, costs: criterion.costs }
    }

    /// Everything so many times.
    pub fn weighted(&self, by: f32) -> Self {
        let Weights { class, l1, giou } = self.weights;
        Self { weights: Weights { class: by * class, l1: by * l1, giou: by * giou }, ..self.clone() }
    }

    /// Query by query: pairs (student's, teacher's) for a student that has its teacher's first `queries` queries.
    pub fn same(queries: usize) -> Vec<(usize, usize)> {
        (0..queries).map(|query| (query, query)).collect()
    }

    /// The cheapest pairs (student's query, teacher's query). If the teacher has more queries, its surest ones take part.
    /// A pair's cost counts by the teacher's score: what finds nothing goes with whatever is left.
    pub fn assign(&self, student: &Predicted, teacher: &Predicted) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, Best)> = (0..teacher.queries()).map(|query| (query, self.best(teacher.logits_of(query)))).collect();
        found.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
        found.truncate(student.queries());
        let wanted: Vec<_> = found.iter().map(|(query, best)| (best.class, teacher.bounds_of(*query))).collect();
        let costs = pair_costs(self.activation, self.costs, student, &wanted);
        let cost = |query: usize, column: usize| f64::from(found[column].1.score) * costs[query * found.len() + column];
        cheapest(student.queries(), found.len(), cost).into_iter().map(|(query, column)| (query, found[column].0)).collect()
    }

    /// What this picture adds to the batch's normaliser: with softmax the queries' weights, and the scores of the
    /// teacher's queries.
    pub fn share(&self, teacher: &Predicted, pairs: &[(usize, usize)]) -> Normaliser {
        let mut share = Normaliser::default();
        for &(_, query) in pairs {
            let best = self.best(teacher.logits_of(query));
            share += Normaliser { class: best.weight, boxes: best.score };
        }
        share
    }

    /// The share of a picture before its queries are matched: with `most` queries, those that the teacher is surest of take part.
    pub fn surest(&self, teacher: &Predicted, most: usize) -> Normaliser {
        let mut all: Vec<usize> = (0..teacher.queries()).collect();
        all.sort_by(|&a, &b| self.best(teacher.logits_of(b)).score.total_cmp(&self.best(teacher.logits_of(a)).score));
        self.share(teacher, &all.into_iter().take(most).map(|query| (0, query)).collect::<Vec<_>>())
    }

    /// The loss of one picture, of classes whose logit of the teacher's isn't negative infinity. `pairs` are (student's query, teacher's query), `normaliser` is the batch's. The gradient of the
    /// weighted sum by the student's logits and boxes is added to `grad_logits` `[queries, classes]` and `grad_boxes`
    /// `[queries, 4]`.
    pub fn loss(
        &self,
        student: &Predicted,
        teacher: &Predicted,
        pairs: &[(usize, usize)],
        normaliser: Normaliser,
        grad_logits: &mut [f32],
        grad_boxes: &mut [f32],
    ) -> Parts {
        let (by_class, by_box) = normaliser.factors(self.activation);
        let mut parts = Parts::default();
        let mut aims = Vec::with_capacity(student.classes);
        for &(query, teachers) in pairs {
            let (logits, wanted) = (student.logits_of(query), teacher.logits_of(teachers));
            let grad_logits = &mut grad_logits[query * student.classes..][..student.classes];
            let best = self.best(wanted);
            parts.class += match self.activation {
                ClassActivation::Softmax => {
                    let share = by_class * best.weight;
                    share * divergence(logits, wanted, share * self.weights.class, grad_logits)
                }
                ClassActivation::Sigmoid => {
                    aims.clear();
                    aims.extend(wanted.iter().map(|&x| (x > f32::NEG_INFINITY).then(|| sigmoid(x))));
                    by_class * quality_focal(logits, &aims, by_class * self.weights.class, grad_logits)
                }
            };
            let grad_boxes = &mut grad_boxes[query * 4..][..4];
            parts += box_loss(student.bounds_of(query), teacher.bounds_of(teachers), best.score * by_box, self.weights, grad_boxes);
        }
        parts
    }

    fn best(&self, logits: &[f32]) -> Best {
        let objects = match self.activation {
            ClassActivation::Softmax => &logits[..logits.len().saturating_sub(1)],
            ClassActivation::Sigmoid => logits,
        };
        let (class, most) = objects.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f32::NEG_INFINITY));
        match self.activation {
            ClassActivation::Softmax => {
                let all = log_sum_exp(logits.iter().copied());
                let nothing = logits.last().map_or(1.0, |x| (x - all).exp());
                Best { class, score: (most - all).exp(), weight: 1.0 - nothing + self.no_object * nothing }
            }
            ClassActivation::Sigmoid => Best { class, score: sigmoid(most), weight: sigmoid(most) },
        }
    }
}

/// What a query of the teacher's says.
struct Best {
    class: usize,
    /// Of that class.
    score: f32,
    /// How much the query's classes count.
    weight: f32,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Kullback and Leibler's divergence of the student's softmax from the teacher's. Adds `share` times its gradient.
fn divergence(logits: &[f32], teacher: &[f32], share: f32, grad: &mut [f32]) -> f32 {
    let known = |(x, wanted): (&f32, &f32)| (*wanted > f32::NEG_INFINITY).then_some(*x);
    let all = log_sum_exp(logits.iter().zip(teacher).filter_map(known).collect::<Vec<_>>().into_iter());
    let teachers = log_sum_exp(teacher.iter().copied());
    let mut loss = 0.0;
    for ((x, wanted), grad) in logits.iter().zip(teacher).zip(grad).filter(|((_, wanted), _)| **wanted > f32::NEG_INFINITY) {
        let (log, log_wanted) = (x - all, wanted - teachers);
        let wanted = log_wanted.exp();
        loss += wanted * (log_wanted - log);
        *grad += share * (log.exp() - wanted);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use ClassActivation::{Sigmoid, Softmax};

    const CLASSES: usize = 4;

    fn random(rng: &mut fastrand::Rng, queries: usize) -> (Vec<f32>, Vec<f32>) {
        let logits = (0..queries * CLASSES).map(|_| 6.0 * rng.f32() - 3.0).collect();
        (logits, (0..queries * 4).map(|_| 0.1 + 0.5 * rng.f32()).collect())
    }

    fn predicted((logits, boxes): &(Vec<f32>, Vec<f32>)) -> Predicted<'_> {
        Predicted { logits, boxes, classes: CLASSES }
    }

    fn loss(distillation: &Distillation, student: &Predicted, teacher: &Predicted) -> (Parts, Vec<f32>, Vec<f32>) {
        let (mut logits, mut boxes) = (vec![0.0; student.logits.len()], vec![0.0; student.boxes.len()]);
        let pairs = distillation.assign(student, teacher);
        let share = distillation.share(teacher, &pairs);
        let parts = distillation.loss(student, teacher, &pairs, share, &mut logits, &mut boxes);
        (parts, logits, boxes)
    }

    #[test]
    fn a_student_like_its_teacher_has_nothing_to_learn() {
        let teacher = random(&mut fastrand::Rng::with_seed(1), 5);
        // The same queries in another order.
        let turned = (teacher.0[CLASSES..].iter().chain(&teacher.0[..CLASSES]).copied().collect(), {
            let mut boxes = teacher.1.clone();
            boxes.rotate_left(4);
            boxes
        });
        for activation in [Softmax, Sigmoid] {
            let distillation = Distillation::new(activation);
            let (teacher, student) = (predicted(&teacher), predicted(&turned));
            assert_eq!(distillation.assign(&student, &teacher), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]);
            let (parts, logits, boxes) = loss(&distillation, &student, &teacher);
            assert!(parts.weighted(distillation.weights).abs() < 1e-5, "{parts:?}");
            assert!(logits.iter().chain(&boxes).all(|g| g.abs() < 1e-6), "{logits:?} {boxes:?}");
        }
    }

    #[test]
    fn descending_the_gradient_lowers_the_loss_as_much_as_it_says() {
        let mut rng = fastrand::Rng::with_seed(2);
        for activation in [Softmax, Sigmoid].into_iter().cycle().take(40) {
            let distillation = Distillation::new(activation);
            let (student, teacher) = (random(&mut rng, 3), random(&mut rng, 6));
            let value =
                |student: &(Vec<f32>, Vec<f32>)| loss(&distillation, &predicted(student), &predicted(&teacher)).0.weighted(distillation.weights);
            let (_, logits, boxes) = loss(&distillation, &predicted(&student), &predicted(&teacher));
            let moved = |by: f32| {
                let step = |from: &[f32], grad: &[f32]| from.iter().zip(grad).map(|(x, g)| x + by * g).collect();
                (step(&student.0, &logits), step(&student.1, &boxes))
            };
            let square: f32 = logits.iter().chain(&boxes).map(|g| g * g).sum();
            let slope = (value(&moved(1e-4)) - value(&moved(-1e-4))) / 2e-4;
            assert!((slope - square).abs() < 0.02 * square, "{activation:?}: {slope} instead of {square}");
        }
    }

    #[test]
    fn a_teacher_with_more_queries_teaches_what_it_is_surest_of() {
        let teacher = (vec![-3.0, -3.0, -3.0, -3.0, 2.0, -3.0, -3.0, -3.0, -3.0, -3.0, 3.0, -3.0], vec![0.5; 12]);
        let student = (vec![0.0; 2 * CLASSES], vec![0.5; 8]);
        let pairs = Distillation::new(Sigmoid).assign(&predicted(&student), &predicted(&teacher));
        let mut taught: Vec<_> = pairs.into_iter().map(|(_, teachers)| teachers).collect();
        taught.sort_unstable();
        assert_eq!(taught, [1, 2]);
    }
}
