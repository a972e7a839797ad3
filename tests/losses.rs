//! Matching and losses against PyTorch and SciPy (`make_losses.py` made the numbers).

use detrim::config::ClassActivation;
use detrim::train::Target;
use detrim::train::loss::{Criterion, Predicted};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    classes: usize,
    logits: Vec<f32>,
    boxes: Vec<f32>,
    targets: Vec<Labelled>,
    known: Vec<bool>,
    repeat: usize,
    pairs: Vec<(usize, usize)>,
    parts: [f32; 3],
    grad_logits: Vec<f32>,
    grad_boxes: Vec<f32>,
}

#[derive(Deserialize)]
struct Labelled {
    class: usize,
    bounds: [f32; 4],
    weight: f32,
}

/// Within 1e-5 of the largest of them.
fn assert_close(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let most = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (i, (our, their)) in ours.iter().zip(theirs).enumerate() {
        assert!((our - their).abs() <= 1e-5 * most, "{name} {i}: {our} instead of {their}");
    }
}

#[test]
fn pairs_losses_and_gradients_equal_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/losses.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases {
        let criterion = Criterion::new(match case.kind.as_str() {
            "softmax" => ClassActivation::Softmax,
            _ => ClassActivation::Sigmoid,
        });
        let predicted = Predicted { logits: &case.logits, boxes: &case.boxes, classes: case.classes };
        let targets: Vec<_> = case.targets.iter().map(|&Labelled { class, bounds, weight }| Target { class, bounds, weight }).collect();

        // Where a target gets several queries the pairs are told as a set.
        let mut pairs = criterion.assign(&predicted, &targets, case.repeat);
        pairs.sort_unstable();
        assert_eq!(pairs, case.pairs, "{}", case.name);

        let normaliser = criterion.share(predicted.queries(), &targets, &pairs);
        let (mut grad_logits, mut grad_boxes) = (vec![0.0; case.logits.len()], vec![0.0; case.boxes.len()]);
        let parts = criterion.loss(&predicted, &targets, &case.known, &pairs, normaliser, &mut grad_logits, &mut grad_boxes);
        assert_close(&case.name, &[parts.class, parts.l1, parts.giou], &case.parts);
        assert_close(&format!("{}: gradient by logits", case.name), &grad_logits, &case.grad_logits);
        assert_close(&format!("{}: gradient by boxes", case.name), &grad_boxes, &case.grad_boxes);
    }
}
