use super::*;
use crate::config::{Attention, Backbone, DecoderLayer, EfficientNetLite, EncoderLayer, InvertedResidual, Label};
use crate::train::Example;
use crate::train::denoise::Noise;
use crate::train::hints;
use crate::train::loss::Criterion;
use crate::train::network::{check, finished};
use crate::train::optimiser::{AdamW, Group, Moments, parameters};
use crate::train::run::State;
use crate::train::step::{Method, Outcome, step, trainable};
use crate::train::trained::Trained;

fn config(activation: ClassActivation) -> Config {
    let attention = Attention { heads: 2, head_width: 4 };
    let block = InvertedResidual { expansion: None, kernel: 3, stride: 2, channels: 6, residual: false };
    Config {
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 10 }],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 10 }; 2],
        queries: 4,
        classes: 3 + usize::from(activation == ClassActivation::Softmax),
        class_activation: activation,
        query_content: true,
        box_reference: true,
        labels: ["cat", "dog", "owl"].iter().enumerate().map(|(id, name)| Label { id: id as u32, name: (*name).into() }).collect(),
        ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }))
    }
}

fn checkpoint(config: Config, seed: u64) -> Checkpoint {
    crate::checkpoint::random(config, "tiny", seed)
}

/// Pictures without any label.
fn examples(teacher: &Teacher) -> Vec<Example> {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut example = || {
        let features = HostTensor::f32(&[2, 3, 6], (0..36).map(|_| 2.0 * rng.f32() - 1.0).collect());
        let lesson = Some(teacher.lesson(&features).unwrap());
        Example { features, targets: vec![], known: [false; 3].into(), lesson }
    };
    (0..4).map(|_| example()).collect()
}

fn learn(config: &Config, weights: &Weights, examples: &[Example]) -> Outcome {
    let criterion = Criterion::new(config.class_activation);
    let method = Method { criterion, denoising: 0, noise: Noise::default(), tokens: 1, shards: 2, device: candle_core::Device::Cpu };
    step(config, weights, &Trained::default(), &method, examples, &mut fastrand::Rng::with_seed(1)).unwrap()
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    for activation in [ClassActivation::Sigmoid, ClassActivation::Softmax] {
        let parent = checkpoint(config(activation), 1);
        let teacher = Teacher::new(&parent, &parent.config, &parent.weights, 1.0).unwrap();
        assert!(teacher.teaching().same && teacher.known() == 3);
        let examples = examples(&teacher);
        assert!(
            examples[0]
                .lesson
                .as_ref()
                .is_some_and(|lesson| lesson.memory([2, 3]).is_some() && lesson.memory([3, 2]).is_none() && lesson.layers[1].content.is_some())
        );
        let alone: Vec<_> = examples.iter().map(|example| Example { lesson: None, ..example.clone() }).collect();
        let found = learn(&parent.config, &parent.weights, &examples).losses;
        assert!(found.teacher.abs() < 1e-4, "{found:?}");
        // Nor if it is folded.
        let mut folded = parent.clone();
        assert!(crate::fold::fold(&mut folded.config, &mut folded.weights).unwrap());
        assert!(Teacher::new(&parent, &folded.config, &folded.weights, 1.0).unwrap().teaching().same);
        let found = learn(&folded.config, &folded.weights, &examples).losses;
        assert!(found.teacher.abs() < 1e-4, "{found:?}");
        // The gradient of a distance jumps at 0, where rounding decides; all others vanish.
        let mut smooth = examples.clone();
        for lesson in smooth.iter_mut().filter_map(|example| example.lesson.as_mut()) {
            let weights = &mut Arc::make_mut(&mut lesson.teaching).distillation.weights;
            (weights.l1, weights.giou) = (0.0, 0.0);
        }
        let (found, alone) = (learn(&parent.config, &parent.weights, &smooth), learn(&parent.config, &parent.weights, &alone));
        for (name, gradient) in &found.gradients {
            let alone = alone.gradients.get(name).unwrap();
            assert!(gradient.iter().zip(alone).all(|(with, without)| (with - without).abs() < 2e-3), "{name}: {gradient:?} and {alone:?}");
        }
        // Another network with the same names has.
        let other = checkpoint(config(activation), 2);
        assert!(!Teacher::new(&parent, &other.config, &other.weights, 1.0).unwrap().teaching().same);
        assert!(learn(&other.config, &other.weights, &examples).losses.teacher > 0.1);
    }
}

/// How far its boxes in all pictures are from the teacher's, by the queries that learn from each other.
fn distance(config: &Config, weights: &Weights, examples: &[Example]) -> f32 {
    let student = Checkpoint { config: config.clone(), weights: weights.clone(), ..checkpoint(config.clone(), 0) };
    let student = Teacher::new(&student, config, weights, 1.0).unwrap();
    let mut sum = 0.0;
    for example in examples {
        let lesson = example.lesson.as_ref().unwrap();
        let own = student.lesson(&example.features).unwrap();
        let (own, wanted) = (own.layers.last().unwrap(), lesson.layers.last().unwrap());
        let pairs = match lesson.teaching.same {
            true => Distillation::same(config.queries),
            false => lesson.teaching.distillation.assign(&own.predicted(), &wanted.predicted()),
        };
        sum += pairs.iter().map(|&(a, b)| (0..4).map(|i| (own.boxes[4 * a + i] - wanted.boxes[4 * b + i]).abs()).sum::<f32>()).sum::<f32>();
    }
    sum
}

#[test]
fn a_teacher_is_enough_to_learn_from() {
    let parent = checkpoint(config(ClassActivation::Sigmoid), 1);
    // A trimmed one with fewer layers, and a stranger with other sizes.
    let mut trimmed = parent.clone();
    trimmed.config.decoder.truncate(1);
    let mut other = config(ClassActivation::Sigmoid);
    (other.queries, other.d_model) = (3, 16);
    for (student, same) in [(trimmed, true), (checkpoint(other, 3), false)] {
        let teacher = Teacher::new(&parent, &student.config, &student.weights, 1.0).unwrap();
        assert_eq!(teacher.teaching().same, same);
        let examples = examples(&teacher);
        assert_eq!(examples[0].lesson.as_ref().unwrap().layers[0].content.is_some(), same);
        let mut weights = trainable(&student.weights);
        let before = distance(&student.config, &weights, &examples);
        let (optimiser, mut moments) = (AdamW::default(), Moments::default());
        for _ in 0..60 {
            let outcome = learn(&student.config, &weights, &examples);
            let group = |_: &str| Group { rate: 1.0, decay: false };
            let parameters = parameters(&mut weights, &outcome.gradients, group).unwrap();
            optimiser.step(&mut moments, parameters, 3e-3, 1.0).unwrap();
        }
        let after = distance(&student.config, &weights, &examples);
        assert!(after < 0.6 * before, "{before}, then {after}");
    }
}

/// Only the tokens of a teacher, wider or narrower, are learnt from: by the student and by the map between the two. The loss falls further
/// than by the map alone.
#[test]
fn tokens_of_another_width_are_learnt_from() {
    let parent = checkpoint(config(ClassActivation::Sigmoid), 1);
    for width in [16, 4] {
        let mut other = config(ClassActivation::Sigmoid);
        other.d_model = width;
        let student = checkpoint(other, 3);
        let teacher = Teacher::new(&parent, &student.config, &student.weights, 1.0).unwrap();
        let mut examples = examples(&teacher);
        for lesson in examples.iter_mut().filter_map(|example| example.lesson.as_mut()) {
            let teaching = Arc::make_mut(&mut lesson.teaching);
            teaching.distillation = teaching.distillation.weighted(0.0);
        }
        let mut state = State::new(trainable(&student.weights));
        assert_eq!(learn(&student.config, &state.weights, &examples).losses.teacher, 0.0, "a hint without a map");
        assert!(hints::set(&student.config, &mut state, Some(teacher.width()), 2));
        assert!(!hints::set(&student.config, &mut state, Some(teacher.width()), 5), "a map that is there doesn't go on");
        let begin = learn(&student.config, &state.weights, &examples);
        for name in ["training.hint.memory.weight", "training.hint.memory.bias", "encoder.0.ffn2.weight", "input_projection.weight"] {
            assert!(begin.gradients[name].iter().any(|x| x.abs() > 1e-5), "{name}: {:?}", begin.gradients[name]);
        }
        let after = |learns: &dyn Fn(&str) -> bool| {
            let mut weights = state.weights.clone();
            let (optimiser, mut moments) = (AdamW::default(), Moments::default());
            for _ in 0..60 {
                let mut outcome = learn(&student.config, &weights, &examples);
                outcome.gradients.retain(|name, _| learns(name));
                let parameters = parameters(&mut weights, &outcome.gradients, |_| Group { rate: 1.0, decay: false }).unwrap();
                optimiser.step(&mut moments, parameters, 3e-3, 1.0).unwrap();
            }
            learn(&student.config, &weights, &examples).losses.teacher
        };
        let (map, both) = (after(&|name| name.starts_with("training.hint.")), after(&|_| true));
        assert!(map < begin.losses.teacher && both < 0.9 * map, "{width}: {}, {map} by the map alone, {both}", begin.losses.teacher);
        // Tokens of other places are no hint, even where they are as many.
        for lesson in examples.iter_mut().filter_map(|example| example.lesson.as_mut()) {
            lesson.memory.shape.swap(0, 1);
        }
        assert_eq!(learn(&student.config, &state.weights, &examples).losses.teacher, 0.0);
        // A detector has no map, and half a map is refused.
        let finished = finished(&student.config, &state.weights).unwrap();
        assert_eq!(finished, trainable(&student.weights));
        check(&student.config, &state.weights).unwrap();
        state.weights.tensors.remove("training.hint.memory.bias");
        let error = check(&student.config, &state.weights).unwrap_err().to_string();
        assert!(error.contains("training.hint.memory.bias"), "{error}");
    }
}

#[test]
fn classes_go_by_name() {
    let parent = checkpoint(config(ClassActivation::Softmax), 1);
    let mut student = config(ClassActivation::Sigmoid);
    student.labels[0].name = "emu".into();
    student.labels.swap(1, 2);
    let child = checkpoint(student.clone(), 2);
    let teacher = Teacher::new(&parent, &student, &child.weights, 1.0).unwrap();
    assert_eq!(teacher.known(), 2);
    let own = [1.0, 2.0, 0.5, -1.0];
    let all: f32 = own.iter().map(|x: &f32| x.exp()).sum();
    let found = teacher.logits(&own);
    assert_eq!(found[0], f32::NEG_INFINITY);
    for (found, wanted) in [(found[1], own[2]), (found[2], own[1])] {
        assert!((1.0 / (1.0 + (-found).exp()) - wanted.exp() / all).abs() < 1e-5);
    }
    // What the teacher doesn't know isn't unlearnt.
    let outcome = learn(&student, &child.weights, &examples(&teacher));
    assert!(outcome.losses.total.is_finite() && outcome.losses.teacher > 0.0);
    assert!(outcome.gradients["class_head.bias"][0].abs() < 1e-9 && outcome.gradients["class_head.bias"][1].abs() > 1e-6);

    for label in &mut student.labels {
        label.name.push('?');
    }
    let error = Teacher::new(&parent, &student, &child.weights, 1.0).err().unwrap().to_string();
    assert!(error.contains("\"cat\"") && error.contains("\"emu?\""), "{error}");
}

#[test]
fn the_gradient_of_hints_is_that_of_small_steps() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut random = || -> Vec<f32> { (0..15).map(|_| 4.0 * rng.f32() - 1.0).collect() };
    let (own, teachers) = (random(), random());
    let value = |own: &[f32]| hint(own, &teachers, 5, 0.7, &mut [0.0; 15]);
    let mut grad = [0.0; 15];
    hint(&own, &teachers, 5, 0.7, &mut grad);
    for i in 0..15 {
        let moved = |by: f32| {
            let mut own = own.clone();
            own[i] += by;
            value(&own)
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((slope - grad[i]).abs() < 1e-3, "{i}: {} instead of {slope}", grad[i]);
    }
    // Neither scale nor shift matters.
    let scaled: Vec<f32> = teachers.iter().map(|x| 3.0 * x + 1.0).collect();
    assert!(hint(&scaled, &teachers, 5, 1.0, &mut [0.0; 15]) < 1e-4);
}
