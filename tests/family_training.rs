//! Training of RT-DETR's family: losses and gradients against transformers' (`make_rt_detr_training.py` made the numbers), and `detrim train` as
//! a user runs it.

use crate::train::{pictures, run, text};
use detrim::checkpoint::{Guess, Storage, open_any, write_own};
use detrim::config::{Architecture, RtDetr};
use detrim::train::Target;
use detrim::train::denoise::Noised;
use detrim::train::loss::Criterion;
use detrim::train::rt_detr::heads::replace_lost;
use detrim::train::rt_detr::{Example, LABEL, LossWeights, Method, Teacher, outcome};
use detrim::train::state;
use detrim::train::step::trainable;
use detrim::train::trained::Trained;
use detrim::{HostTensor, Weights};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Deserialize)]
struct Case {
    targets: Vec<Vec<Object>>,
    asked: Vec<Vec<Asked>>,
    losses: Losses,
}

#[derive(Deserialize)]
struct Object {
    class: usize,
    bounds: [f32; 4],
}

#[derive(Deserialize)]
struct Asked {
    class: usize,
    bounds: [f32; 4],
    target: Option<usize>,
    group: usize,
}

#[derive(Deserialize)]
struct Losses {
    total: f32,
    /// Weighted: classes, box coordinates, overlap, and distributions where there are any.
    last: Vec<f32>,
    denoising: f32,
    dense: f32,
}

const SIDE: usize = 64;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/family-training").join(name)
}

fn opened(folder: &Path) -> (RtDetr, Weights) {
    let checkpoint = open_any(folder, &Guess::default()).unwrap();
    let Architecture::RtDetr(config) = checkpoint.config else { panic!("not of the family") };
    (*config, trainable(&checkpoint.weights))
}

/// The embedding of classes, which no detector has: it is read from the file as it is.
fn label(file: &Path, config: &RtDetr) -> HostTensor {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("model.denoising_class_embed.weight").unwrap();
    let values: Vec<f32> = match view.dtype() {
        safetensors::Dtype::F16 => view.data().as_chunks().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        _ => view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    };
    HostTensor::f32(&[config.classes, config.d_model], values[..config.classes * config.d_model].to_vec())
}

/// A mixed-up counter.
fn pixels(images: usize) -> Vec<HostTensor> {
    let count = SIDE * SIDE * 3;
    let value = |i: usize| (((i as u64 * 2_654_435_761 + 12_345) % (1 << 32)) >> 8) as f32 / (1 << 24) as f32;
    (0..images).map(|n| HostTensor::f32(&[SIDE, SIDE, 3], (n * count..(n + 1) * count).map(value).collect())).collect()
}

fn method(config: &RtDetr, weights: LossWeights, shards: usize) -> Method {
    Method {
        weights,
        criterion: Criterion::of_family(config.model_type),
        denoising: 0,
        noise: Method::noise(),
        shards,
        device: candle_core::Device::Cpu,
    }
}

const LABELS: LossWeights = LossWeights { features: 0.0, outputs: 0.0, labels: 1.0 };

#[test]
fn losses_and_the_gradient_of_every_parameter_are_transformers() {
    for name in ["rt_detr", "d_fine", "deimv2"] {
        let from = folder(name);
        let case: Case = serde_json::from_slice(&std::fs::read(from.join("case.json")).unwrap()).unwrap();
        let (config, mut weights) = opened(&from);
        weights.insert(LABEL, label(&from.join("model.safetensors"), &config));
        // Gradients under the model's names are read as a model is.
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "preprocessor_config.json"] {
            std::fs::copy(from.join(file), copy.path().join(file)).unwrap();
        }
        std::fs::copy(from.join("gradients.safetensors"), copy.path().join("model.safetensors")).unwrap();
        let (_, mut expected) = opened(copy.path());
        expected.insert(LABEL, label(&from.join("gradients.safetensors"), &config));

        let objects = |objects: &Vec<Object>| objects.iter().map(|o| Target { class: o.class, bounds: o.bounds, weight: 1.0 }).collect();
        let examples: Vec<Example> = pixels(case.targets.len())
            .into_iter()
            .zip(&case.targets)
            .map(|(pixels, targets)| Example { pixels, targets: objects(targets), known: vec![true; config.classes].into(), teacher: None })
            .collect();
        let query = |asked: &Asked| Noised { class_in: asked.class, bounds: asked.bounds, target: asked.target, group: asked.group };
        let noised: Vec<Vec<Noised>> = case.asked.iter().map(|asked| asked.iter().map(query).collect()).collect();
        for shards in [1, 2] {
            let found = outcome(&config, &weights, &Trained::everything(), &method(&config, LABELS, shards), &examples, &noised).unwrap();
            let (ours, theirs) = (found.losses, &case.losses);
            let parts = [("total", ours.total, theirs.total), ("denoising", ours.denoising, theirs.denoising), ("dense", ours.dense, theirs.dense)];
            let last = [ours.last.class, 5.0 * ours.last.l1, 2.0 * ours.last.giou];
            for (what, our, their) in parts.into_iter().chain((0..3).map(|i| ("last", last[i], theirs.last[i]))) {
                assert!((our - their).abs() <= 1e-5 * theirs.total, "{name}, {shards} shards: {what} is {our}, expected {their}");
            }
            let mut nothing = 0;
            for (parameter, gradient) in &expected.tensors {
                let theirs = gradient.to_f32();
                let most = theirs.iter().fold(0.0f32, |most, g| most.max(g.abs()));
                let Some(ours) = found.gradients.get(parameter) else {
                    // What the losses don't reach.
                    assert!(most == 0.0, "{name}: {parameter} has no gradient, expected up to {most}");
                    nothing += 1;
                    continue;
                };
                assert_eq!(ours.len(), theirs.len(), "{parameter}");
                let tolerance = (2e-4 * most).max(1e-5);
                for (i, (our, their)) in ours.iter().zip(theirs.iter()).enumerate() {
                    assert!(
                        (our - their).abs() <= tolerance,
                        "{name}, {shards} shards: gradient {i} of {parameter} is {our}, expected {their} (largest {most})"
                    );
                }
            }
            assert!(nothing < 3, "{name}: {nothing} parameters have no gradient");
            assert!(found.gradients.keys().all(|parameter| expected.tensors.contains_key(parameter)));
        }
    }
}

/// The same network with other numbers.
fn disturbed(weights: &Weights, by: f32, what: impl Fn(&str) -> bool) -> Weights {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut out = weights.clone();
    for (name, tensor) in weights.tensors.iter().filter(|(name, _)| what(name)) {
        let values = tensor.to_f32().iter().map(|x| x * (1.0 + by * (2.0 * rng.f32() - 1.0))).collect();
        out.insert(name, HostTensor::f32(&tensor.shape, values));
    }
    out
}

/// A teacher's losses: none for the teacher itself, and their gradient is their slope.
#[test]
fn a_student_learns_from_a_teachers_maps_and_outputs() {
    for name in ["rt_detr", "d_fine", "deimv2"] {
        let checkpoint = open_any(&folder(name), &Guess::default()).unwrap();
        let (config, weights) = opened(&folder(name));
        let teacher = Teacher::new(&checkpoint, &config, true, true).unwrap();
        let examples: Vec<Example> = pixels(2)
            .into_iter()
            .map(|pixels| {
                let teacher = Some(teacher.outputs(&pixels).unwrap());
                Example { pixels, targets: vec![], known: vec![false; config.classes].into(), teacher }
            })
            .collect();
        let run =
            |weights: &Weights, method: &Method| outcome(&config, weights, &Trained::everything(), method, &examples, &[vec![], vec![]]).unwrap();
        let features = method(&config, LossWeights { features: 1.0, outputs: 0.0, labels: 0.0 }, 2);
        let outputs = method(&config, LossWeights { features: 0.0, outputs: 1.0, labels: 0.0 }, 2);

        let same = run(&weights, &features);
        assert!(same.losses.total.abs() < 1e-9, "{name}: {:?}", same.losses);
        // The decoder isn't run.
        assert!(same.gradients.keys().all(|name| ["backbone.", "neck.", "projection"].iter().any(|part| name.starts_with(part))));
        let same = run(&weights, &outputs);
        assert!(same.losses.total.abs() < 1e-3, "{name}: {:?}", same.losses);

        let student = disturbed(&weights, 0.05, |_| true);
        let square = |gradient: &[f32]| gradient.iter().map(|g| f64::from(g * g)).sum::<f64>();
        for (what, method) in [("features", &features), ("outputs", &outputs)] {
            let found = run(&student, method);
            // Of random weights, some channels of the backbone give nothing: the one that matters most.
            let steepest = found.gradients.iter().max_by(|(_, a), (_, b)| square(a).total_cmp(&square(b))).unwrap().0;
            let parameter = if what == "features" { steepest } else { "selection.score.weight" };
            assert!(found.losses.total > 1e-4 && found.losses.total == found.losses.teacher, "{name}: {what} {:?}", found.losses);
            let gradient = &found.gradients[parameter];
            let square = square(gradient);
            let moved = |by: f64| {
                let mut weights = student.clone();
                let tensor = &student.tensors[parameter];
                let values = tensor.to_f32().iter().zip(gradient).map(|(x, g)| x + (by * f64::from(*g)) as f32).collect();
                weights.insert(parameter, HostTensor::f32(&tensor.shape, values));
                f64::from(run(&weights, method).losses.total)
            };
            let by = 1e-3 / square.sqrt();
            let slope = (moved(by) - moved(-by)) / (2.0 * by);
            assert!((slope - square).abs() < 0.03 * square, "{name}: {what} by {parameter}: {slope} instead of {square}");
        }
    }
}

#[test]
fn lost_heads_are_found_and_replaced_and_others_stay() {
    let (config, mut weights) = opened(&folder("deimv2"));
    // A network whose layers' heads are alike, as trained ones' are.
    let copies = |weights: &mut Weights| {
        for head in ["class_head", "quality_head"] {
            let from = format!("{head}.1.");
            let tensors: Vec<_> =
                weights.tensors.iter().filter(|(name, _)| name.starts_with(&from)).map(|(name, t)| (name.clone(), t.clone())).collect();
            tensors.into_iter().for_each(|(name, tensor)| weights.insert(name.replacen(".1.", ".0.", 1), tensor));
        }
    };
    let noise = weights.clone();
    copies(&mut weights);
    let whole = weights.clone();
    assert_eq!(replace_lost(&config, &mut weights, &pixels(2)).unwrap(), [0usize; 0]);
    assert_eq!(weights, whole);
    weights.insert("class_head.0.weight", disturbed(&noise, 3.0, |_| true).tensors["class_head.0.weight"].clone());
    weights.insert("class_head.0.bias", HostTensor::f32(&[config.classes], vec![9.0; config.classes]));
    assert_eq!(replace_lost(&config, &mut weights, &pixels(2)).unwrap(), [0]);
    assert_eq!(weights, whole);
}

fn train(folder: &Path, out: &str, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args(["train", "--out", out, "--images", "."]).args(options.split_whitespace());
    command
}

/// Features' column of a run's log.
fn logged(folder: &Path, run: &str, column: &str) -> Vec<f64> {
    let mut reader = csv::Reader::from_path(folder.join(run).join("log.csv")).unwrap();
    let at = reader.headers().unwrap().iter().position(|name| name == column).unwrap();
    reader.records().filter_map(|row| row.unwrap()[at].parse().ok()).collect()
}

#[test]
fn a_teacher_heals_without_labels_and_a_broken_run_goes_on_exactly() {
    let work = tempfile::tempdir().unwrap();
    pictures(work.path());
    let (config, weights) = opened(&folder("deimv2"));
    let mut checkpoint = open_any(&folder("deimv2"), &Guess::default()).unwrap();
    write_own(&work.path().join("teacher.safetensors"), &checkpoint, Storage::F32).unwrap();
    checkpoint.weights = disturbed(&weights, 0.3, |name| name.starts_with("backbone.") && name.ends_with("weight"));
    write_own(&work.path().join("student.safetensors"), &checkpoint, Storage::F32).unwrap();
    // One of the images can't be decoded.
    std::fs::write(work.path().join("broken.png"), "no image").unwrap();
    let options = "--model student.safetensors --teacher teacher.safetensors --rate 3e-3 --warmup 5 --batch 4 --schedule constant --average 0.5";
    let output = run(train(work.path(), "whole", &format!("{options} --steps 60")));
    assert!(text(&output).contains("features ") && text(&output).contains("broken.png"), "{}", text(&output));
    let errors = logged(work.path(), "whole", "features");
    assert!(errors.len() >= 2, "{errors:?}");
    let (_, healed) = state::read_any(&work.path().join("whole/last.safetensors")).unwrap();
    // The decoder stays.
    assert_eq!(healed.weights.tensors["decoder.0.ffn2.weight"], weights.tensors["decoder.0.ffn2.weight"]);
    assert_ne!(healed.weights.tensors["backbone.stem.1.weight"], checkpoint.weights.tensors["backbone.stem.1.weight"]);
    let teacher = Teacher::new(&open_any(&work.path().join("teacher.safetensors"), &Guess::default()).unwrap(), &config, true, false).unwrap();
    let error = |weights: &Weights| {
        let method = method(&config, LossWeights { features: 1.0, outputs: 0.0, labels: 0.0 }, 1);
        let example = |pixels: HostTensor| {
            let teacher = Some(teacher.outputs(&pixels).unwrap());
            Example { pixels, targets: vec![], known: vec![false; config.classes].into(), teacher }
        };
        let image = detrim::image::open(&work.path().join("3.png")).unwrap();
        let mut pixels = detrim::image::prepare(&image, &config.pixels).unwrap();
        pixels.shape.remove(0);
        outcome(&config, weights, &Trained::everything(), &method, &[example(pixels)], &[vec![]]).unwrap().losses.features
    };
    let (before, after) = (error(&trainable(&checkpoint.weights)), error(&healed.average.over(&healed.weights)));
    assert!(after < 0.4 * before, "the maps' error was {before}, is {after}");

    // In two pieces, with all losses at once, on the model's classes.
    let labels = std::fs::read_to_string(work.path().join("labels.json")).unwrap();
    let labels = labels.replace("red", "person").replace("green", "bicycle").replace("blue", "car");
    std::fs::write(work.path().join("labels.json"), labels).unwrap();
    let options = "--model student.safetensors --teacher teacher.safetensors --labels labels.json --losses features,outputs,labels \
                   --rate 1e-3 --warmup 2 --schedule constant --batch 4 --shards 2 --views 3 --steps";
    run(train(work.path(), "one", &format!("{options} 6")));
    run(train(work.path(), "two", &format!("{options} 3")));
    run(train(work.path(), "two", &format!("{options} 6")));
    let read = |run: &str| state::read_any(&work.path().join(run).join("last.safetensors")).unwrap();
    assert!(read("one") == read("two"), "the states differ");
    assert_eq!(read("one").1.step, 6);
    assert!(read("one").1.moments.0.contains_key(LABEL));
    // A state is a model to every command.
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(work.path()).args("convert two/last.safetensors --out model.safetensors".split(' '));
    run(command);
    let model = open_any(&work.path().join("model.safetensors"), &Guess::default()).unwrap();
    assert_eq!(model.config, checkpoint.config);
    assert!(!model.weights.tensors.contains_key(LABEL));
}

#[test]
fn images_are_learnt_by_heart() {
    let work = tempfile::tempdir().unwrap();
    pictures(work.path());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/deimv2-femto.safetensors");
    let options = format!(
        "--model {} --resize 128x128 --labels labels.json --rate 1e-3 --warmup 10 --views 1 --batch 8 --average 0.9 --schedule cosine:0.5 --steps 80 --denoising 6 --dev labels.json",
        model.display()
    );
    let output = text(&run(train(work.path(), "run", &options)));
    let ap = output.lines().rev().find_map(|line| line.split_once(": AP ")?.1.split(',').next()?.parse::<f64>().ok());
    assert!(ap.is_some_and(|ap| ap > 90.0), "{output}");
    // The labels' classes have taken the place of the model's.
    let model = open_any(&work.path().join("run/last.safetensors"), &Guess::default()).unwrap();
    assert_eq!(model.config.labels().iter().map(|label| &*label.name).collect::<Vec<_>>(), ["red", "green", "blue"]);
}

#[test]
fn what_cannot_be_trained_is_told() {
    let work = tempfile::tempdir().unwrap();
    pictures(work.path());
    let model = folder("deimv2");
    let fails = |options: &str, expected: &str| {
        let output = train(work.path(), "run", &format!("--model {} {options}", model.display())).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(expected), "{options}: {}", text(&output));
    };
    fails("--losses outputs", "--teacher names one");
    fails("", "--labels: needed");
    fails("--labels labels.json --unfreeze 1", "--unfreeze: the whole network is trained");
    fails("--labels labels.json --groups 2", "--groups: of a DETR only");
    let teacher = |name: &str| format!("--teacher {}", name);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    fails(&teacher(manifest.join("models/detr-lite0-speed.safetensors").to_str().unwrap()), "not a DETR");
    fails(&teacher(folder("rt_detr").to_str().unwrap()), "--losses outputs compares");
}
