//! Gradients are the loss's finite differences; labels that can't tell leave queries alone. (Values: `tests/losses.rs`.)

use super::*;
use ClassActivation::{Sigmoid, Softmax};

const QUERIES: usize = 6;
const CLASSES: usize = 5;

struct Scene {
    logits: Vec<f32>,
    boxes: Vec<f32>,
    targets: Vec<Target>,
}

impl Scene {
    /// Six queries; three certain targets, a crowd and two doubtful ones of which one is where query 1 is.
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bounds = || [0.3 + 0.4 * rng.f32(), 0.3 + 0.4 * rng.f32(), 0.1 + 0.4 * rng.f32(), 0.1 + 0.4 * rng.f32()];
        let boxes: Vec<_> = (0..QUERIES).map(|_| bounds()).collect();
        let at = |class, bounds, weight| Target { class, bounds, weight };
        let near = boxes[1].map(|x| x + 0.01);
        let targets = vec![
            at(0, bounds(), 1.0),
            at(2, bounds(), 0.6),
            at(3, near, 0.2),
            at(1, [0.5, 0.5, 0.6, 0.6], 0.0),
            at(3, bounds(), 1.0),
            at(0, near, 0.25),
        ];
        let logits = (0..QUERIES * CLASSES).map(|_| 4.0 * rng.f32() - 2.0).collect();
        Self { logits, boxes: boxes.into_flattened(), targets }
    }

    fn predicted(&self) -> Predicted<'_> {
        Predicted { logits: &self.logits, boxes: &self.boxes, classes: CLASSES }
    }
}

const KNOWN: [bool; CLASSES] = [true, true, false, true, true];
const PAIRS: [(usize, usize); 3] = [(0, 4), (3, 0), (5, 1)];
const NORMALISER: Normaliser = Normaliser { class: 2.9, boxes: 2.6 };

fn loss(criterion: &Criterion, scene: &Scene) -> (Parts, Vec<f32>, Vec<f32>) {
    let (mut logits, mut boxes) = (vec![0.0; scene.logits.len()], vec![0.0; scene.boxes.len()]);
    let parts = criterion.loss(&scene.predicted(), &scene.targets, &KNOWN, &PAIRS, NORMALISER, &mut logits, &mut boxes);
    (parts, logits, boxes)
}

#[test]
fn gradients_are_finite_differences() {
    for (activation, seed) in [Softmax, Sigmoid].into_iter().flat_map(|activation| (0..20).map(move |seed| (activation, seed))) {
        let mut criterion = Criterion::new(activation);
        criterion.weights.class = 1.5;
        let scene = Scene::new(seed);
        let (_, grad_logits, grad_boxes) = loss(&criterion, &scene);

        let moved = |of: fn(&mut Scene) -> &mut Vec<f32>, i: usize, by: f32| {
            let mut scene = Scene::new(seed);
            of(&mut scene)[i] += by;
            loss(&criterion, &scene)
        };
        for (i, grad) in grad_logits.iter().enumerate() {
            let (up, down) = (moved(|scene| &mut scene.logits, i, 2e-2), moved(|scene| &mut scene.logits, i, -2e-2));
            let slope = (up.0.weighted(criterion.weights) - down.0.weighted(criterion.weights)) / 4e-2;
            assert!((slope - grad).abs() < 2e-4, "{activation:?} seed {seed} logit {i}: {grad}, but {slope}");
        }
        for (i, grad) in grad_boxes.iter().enumerate() {
            let (up, down) = (moved(|scene| &mut scene.boxes, i, 1e-3), moved(|scene| &mut scene.boxes, i, -1e-3));
            // A score's aim depends on the box too, but is no reason to move it.
            let of_box = |parts: Parts| parts.l1 * criterion.weights.l1 + parts.giou * criterion.weights.giou;
            let slope = (of_box(up.0) - of_box(down.0)) / 2e-3;
            // Where edges meet, it is between the gradients on both sides.
            let slack = 1e-2 * (1.0 + grad.abs());
            let sides = [*grad, up.2[i], down.2[i]];
            assert!(
                sides.iter().any(|side| slope > side - slack) && sides.iter().any(|side| slope < side + slack),
                "{activation:?} seed {seed} box number {i}: {grad}, but {slope}"
            );
        }
    }
}

/// The gradient of one unmatched query's logits.
fn gradient(activation: ClassActivation, targets: &[Target], known: &[bool]) -> [f32; 3] {
    let mut grad = [0.0; 3];
    let predicted = Predicted { logits: &[0.5, -0.2, 0.3], boxes: &[0.5, 0.5, 0.2, 0.2], classes: 3 };
    Criterion::new(activation).loss(&predicted, targets, known, &[], Normaliser { class: 1.0, boxes: 1.0 }, &mut grad, &mut [0.0; 4]);
    grad
}

#[test]
fn what_the_labels_cannot_tell_is_not_unlearnt() {
    let crowd = Target { class: 0, bounds: [0.5, 0.5, 0.9, 0.9], weight: 0.0 };
    for activation in [Softmax, Sigmoid] {
        let plain = gradient(activation, &[], &[true; 3]);
        assert!(plain[0] > 0.0 && plain[1] > 0.0, "{activation:?}: {plain:?}");
        let unknown = gradient(activation, &[], &[false, true, true]);
        assert_eq!(unknown, gradient(activation, &[crowd], &[]), "in a crowd is as unknown");
        assert!(unknown[0] <= 0.0 && unknown[1] > 0.0, "{activation:?}: {unknown:?}");
    }
    assert_eq!(gradient(Sigmoid, &[crowd], &[])[0], 0.0);
    let elsewhere = Target { bounds: [0.1, 0.1, 0.1, 0.1], ..crowd };
    assert_eq!(gradient(Sigmoid, &[elsewhere], &[]), gradient(Sigmoid, &[], &[]));
}

#[test]
fn a_doubtful_target_pulls_towards_its_weight() {
    let doubtful = Target { class: 0, bounds: [0.5, 0.5, 0.2, 0.22], weight: 0.2 };
    for activation in [Softmax, Sigmoid] {
        let (plain, pulled) = (gradient(activation, &[], &[]), gradient(activation, &[doubtful], &[]));
        assert!(0.0 < pulled[0] && pulled[0] < plain[0], "{activation:?}: {pulled:?}, {plain:?}");
        assert_eq!(pulled[1], plain[1]);
    }
}

#[test]
fn a_target_of_a_class_that_is_not_there_is_passed_over() {
    let stray = Target { class: 7, bounds: [0.5; 4], weight: 1.0 };
    for activation in [Softmax, Sigmoid] {
        let scene = Scene::new(1);
        assert_eq!(Criterion::new(activation).assign(&scene.predicted(), &[stray], 1), []);
    }
}

#[test]
fn a_diverged_network_is_told() {
    let good = Predicted { logits: &[1.0, 2.0], boxes: &[0.5; 4], classes: 2 };
    assert!(good.check().is_ok());
    assert!(Predicted { logits: &[1.0, f32::NAN], ..good }.check().is_err());
    assert!(Predicted { boxes: &[0.5, 0.5, f32::INFINITY, 0.5], ..good }.check().is_err());
    assert!(Predicted { classes: 3, ..good }.check().is_err());
}
