//! A training step against PyTorch: losses, and the gradient of every parameter (`make_training.py` made the numbers).

use crate::kernels::{compare, random};
use candle_core::Device;
use detrim::autograd::Autograd;
use detrim::backend::Backend as _;
use detrim::config::*;
use detrim::cpu::{Cpu, to_host};
use detrim::layout::layout;
use detrim::model::Detr;
use detrim::train::anchors::anchored;
use detrim::train::denoise::{Noise, Noised};
use detrim::train::fresh::fresh;
use detrim::train::groups;
use detrim::train::loss::Criterion;
use detrim::train::network::{check, extras, finished};
use detrim::train::optimiser::Moment;
use detrim::train::run::State;
use detrim::train::step::{Method, outcome};
use detrim::train::trained::Trained;
use detrim::train::{Example, Target};
use detrim::{HostTensor, Weights};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    kind: ClassActivation,
    gelu: bool,
    content: bool,
    reference: bool,
    groups: usize,
    examples: Vec<Labels>,
    asked: Vec<Vec<Asked>>,
    losses: Losses,
}

#[derive(Deserialize)]
struct Labels {
    targets: Vec<Object>,
    known: Vec<bool>,
}

#[derive(Deserialize)]
struct Object {
    class: usize,
    bounds: [f32; 4],
    weight: f32,
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
    last: [f32; 3],
    denoising: f32,
    dense: f32,
    groups: f32,
}

/// A case with its network's config, the features, the weights, and the gradients that are expected.
struct Fixture {
    case: Case,
    config: Config,
    weights: Weights,
    features: HostTensor,
    gradients: BTreeMap<String, Vec<f32>>,
}

fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/training");
    let case: Case = serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| {
        let view = file.tensor(name).unwrap();
        HostTensor::f32(view.shape(), view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    };
    let attention = Attention { heads: 2, head_width: 6 };
    let block = InvertedResidual { expansion: None, kernel: 3, stride: 2, channels: 6, residual: false };
    let config = Config {
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 10 }],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 10 }; 2],
        queries: 5,
        classes: 4 + usize::from(case.kind == ClassActivation::Softmax),
        activation: if case.gelu { Activation::Gelu } else { Activation::Relu },
        class_activation: case.kind,
        query_content: case.content,
        box_reference: case.reference,
        labels: (0..4).map(|id| Label { id, name: format!("label {id}") }).collect(),
        ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }))
    };
    let (mut weights, mut gradients) = (Weights::default(), BTreeMap::new());
    for full in file.names() {
        if let Some(name) = full.strip_prefix("weights.") {
            weights.insert(name, tensor(full));
        } else if let Some(name) = full.strip_prefix("gradient.") {
            gradients.insert(name.to_string(), tensor(full).to_f32().into_owned());
        }
    }
    // What the step doesn't look at: the backbone, and the positions that anchors will give.
    for entry in layout(&config) {
        if !weights.tensors.contains_key(&entry.name) {
            weights.insert(&entry.name, HostTensor::f32(&entry.shape, vec![0.5; entry.shape.iter().product()]));
        }
    }
    Fixture { case, config, weights, features: tensor("features"), gradients }
}

impl Fixture {
    fn examples(&self) -> Vec<Example> {
        let (shape, all) = (&self.features.shape[1..], self.features.to_f32());
        let pictures = all.chunks_exact(shape.iter().product()).zip(&self.case.examples);
        let target = |&Object { class, bounds, weight }: &Object| Target { class, bounds, weight };
        pictures
            .map(|(features, labels)| Example {
                features: HostTensor::f32(shape, features.to_vec()),
                targets: labels.targets.iter().map(target).collect(),
                known: labels.known.clone().into(),
                lesson: None,
            })
            .collect()
    }

    fn noised(&self) -> Vec<Vec<Noised>> {
        let query = |asked: &Asked| Noised { class_in: asked.class, bounds: asked.bounds, target: asked.target, group: asked.group };
        self.case.asked.iter().map(|asked| asked.iter().map(query).collect()).collect()
    }

    fn method(&self, shards: usize) -> Method {
        Method {
            criterion: Criterion::new(self.case.kind),
            denoising: 0,
            noise: Noise::default(),
            tokens: 2,
            shards,
            device: candle_core::Device::Cpu,
        }
    }
}

#[test]
fn losses_and_the_gradient_of_every_parameter_are_pytorchs() {
    let trained = Trained::default();
    for name in ["anchored", "anchored-softmax", "plain", "reference", "anchored-groups", "plain-groups", "reference-groups"] {
        let fixture = fixture(name);
        assert_eq!(groups::count(&fixture.weights), fixture.case.groups);
        let anchored = name.starts_with("anchored");
        for shards in [1, 2, 3] {
            let found =
                outcome(&fixture.config, &fixture.weights, &trained, &fixture.method(shards), &fixture.examples(), &fixture.noised()).unwrap();
            let (ours, theirs) = (found.losses, &fixture.case.losses);
            let last = [ours.last.class, ours.last.l1, ours.last.giou];
            let parts = [
                ("total", ours.total, theirs.total),
                ("denoising", ours.denoising, theirs.denoising),
                ("dense", ours.dense, theirs.dense),
                ("groups", ours.groups, theirs.groups),
            ];
            for (what, our, their) in parts.into_iter().chain((0..3).map(|i| ("last", last[i], theirs.last[i]))) {
                assert!((our - their).abs() <= 1e-5 * theirs.total, "{name}, {shards} shards: {what} is {our}, expected {their}");
            }

            let all = layout(&fixture.config).into_iter().chain(anchored.then(|| extras(&fixture.config)).into_iter().flatten());
            let grouped = fixture.weights.tensors.keys().filter(|name| name.starts_with("training.groups.")).cloned();
            let names: Vec<String> =
                all.map(|entry| entry.name).filter(|name| trained.includes(name) && !(anchored && name == "query_position")).chain(grouped).collect();
            assert_eq!(found.gradients.keys().collect::<Vec<_>>(), {
                let mut sorted: Vec<_> = names.iter().collect();
                sorted.sort();
                sorted
            });
            for parameter in &names {
                let (ours, theirs) = (&found.gradients[parameter], &fixture.gradients[parameter]);
                let most = theirs.iter().fold(0.0f32, |most, g| most.max(g.abs()));
                // Where nothing is to be learnt only rounding is left: adding the same to all keys of an attention changes nothing, and
                // queries that all begin with zeros give the first self-attention one value to mix, whatever it weighs.
                let first = !fixture.case.content && parameter.starts_with("decoder.0.self_attention.");
                let mixes = first && (parameter.contains(".query.") || parameter.contains(".key.") || parameter.ends_with("value.weight"));
                let nothing = parameter.ends_with("attention.key.bias") || mixes;
                assert!(!nothing || most < 1e-6, "{name}: the gradient of {parameter} doesn't vanish");
                assert!(nothing || most > 1e-6, "{name}: the gradient of {parameter} vanishes");
                let tolerance = if nothing { 1e-5 } else { 2e-4 * most };
                assert_eq!(ours.len(), theirs.len(), "{parameter}");
                for (i, (our, their)) in ours.iter().zip(theirs).enumerate() {
                    assert!(
                        (our - their).abs() <= tolerance,
                        "{name}, {shards} shards: gradient {i} of {parameter} is {our}, expected {their} (largest {most})"
                    );
                }
            }
        }
    }
}

/// A folded network is trained too, its queries' contents in the place of what was folded: asked queries have no self-attention either
/// in the first layer. The gradient is the losses' slope.
#[test]
fn gradients_of_a_folded_network_are_slopes_of_the_losses() {
    // (With sigmoids the losses aim at overlaps that are taken as given: no slope would be the gradient.)
    for name in ["anchored-softmax", "plain"] {
        let mut fixture = fixture(name);
        assert!(detrim::fold::fold(&mut fixture.config, &mut fixture.weights).unwrap());
        let run = |weights: &Weights| {
            outcome(&fixture.config, weights, &Trained::default(), &fixture.method(1), &fixture.examples(), &fixture.noised()).unwrap()
        };
        let gradients = run(&fixture.weights).gradients;
        assert!(!gradients.keys().any(|name| name.starts_with("decoder.0.self_attention") || name.starts_with("decoder.0.norm1")));
        for parameter in ["query_content", "decoder.0.cross_attention.query.weight", "decoder.1.self_attention.value.weight"] {
            let gradient = &gradients[parameter];
            check_slope(parameter, gradient, &fixture.weights, &|weights| f64::from(run(weights).losses.total));
        }
    }
}

/// Other queries in a group change nothing of what is learnt by the network's own queries, the denoising ones and the other groups.
#[test]
fn groups_do_not_see_each_other_nor_are_they_seen() {
    for name in ["anchored-groups", "plain-groups"] {
        let mut fixture = fixture(name);
        let run = |fixture: &Fixture| {
            outcome(&fixture.config, &fixture.weights, &Trained::default(), &fixture.method(1), &fixture.examples(), &fixture.noised()).unwrap()
        };
        let before = run(&fixture);
        let moved: Vec<String> = fixture.weights.tensors.keys().filter(|name| name.starts_with("training.groups.1.")).cloned().collect();
        for (seed, name) in moved.iter().enumerate() {
            let shape = fixture.weights.tensors[name].shape.clone();
            fixture.weights.insert(name, random(&shape, seed as u64));
        }
        let after = run(&fixture);
        assert_ne!(before.losses.groups, after.losses.groups);
        let parts = |losses: detrim::train::step::Losses| (losses.last, losses.denoising, losses.dense);
        assert_eq!(parts(before.losses), parts(after.losses), "{name}");
        for own in ["query_content", "query_position", "box_reference", "training.label"] {
            // What makes positions of references is of all queries: a position's own tensor is only where they aren't anchored.
            for parameter in [own.to_string(), format!("training.groups.0.{own}")] {
                assert_eq!(before.gradients.get(&parameter), after.gradients.get(&parameter), "{name}: {parameter}");
            }
        }
        assert!(moved.iter().all(|name| before.gradients[name] != after.gradients[name]));
    }
}

/// Groups begin near the network's own queries and apart from each other, those that are there go on, and a detector has none.
#[test]
fn groups_begin_go_on_and_are_dropped() {
    for name in ["anchored", "plain", "reference"] {
        let Fixture { config, weights, .. } = fixture(name);
        let mut state = State::new(weights.clone());
        assert_eq!(groups::set(&config, &mut state, 2, 7).unwrap(), 0);
        check(&config, &state.weights).unwrap();
        let grouped = state.clone();
        let names: Vec<&String> = grouped.weights.tensors.keys().filter(|name| !weights.tensors.contains_key(*name)).collect();
        assert_eq!(names.len(), if name == "reference" { 6 } else { 2 * (1 + usize::from(name == "anchored")) }, "{names:?}");
        for name in &names {
            let own = weights.tensors[&name["training.groups.0.".len()..]].to_f32();
            let group = grouped.weights.tensors[*name].to_f32();
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
            let part = square(&mut own.iter().zip(&*group).map(|(a, b)| a - b)) / square(&mut own.iter().copied());
            assert!((0.01..0.1).contains(&part), "{name}: {part}");
        }
        assert_ne!(grouped.weights.tensors[names[0]], grouped.weights.tensors[names[names.len() / 2]], "the two groups are one");
        assert_eq!(finished(&config, &grouped.weights).unwrap(), finished(&config, &weights).unwrap());

        // One fewer and two more: the first stays with what is remembered of it, the second begins as before.
        let moment = Moment { steps: 3, first: vec![0.1; 40], second: vec![0.1; 40] };
        for name in &names {
            state.moments.0.insert((*name).clone(), moment.clone());
            state.average.values.insert((*name).clone(), vec![0.3; 40]);
        }
        assert_eq!(groups::set(&config, &mut state, 1, 7).unwrap(), 2);
        let of_first = |name: &&String| name.starts_with("training.groups.0.");
        assert!(state.moments.0.keys().eq(names.iter().copied().filter(of_first)) && state.average.values.len() == names.len() / 2);
        assert_eq!(groups::set(&config, &mut state, 2, 7).unwrap(), 1);
        assert!(state.weights == grouped.weights && state.moments.0.len() == names.len() / 2);
        assert_eq!(groups::set(&config, &mut state, 0, 7).unwrap(), 2);
        assert!(state.weights == weights && state.moments.0.is_empty());

        for name in names.into_iter().filter(of_first) {
            let mut broken = grouped.weights.clone();
            broken.tensors.remove(name);
            let error = check(&config, &broken).unwrap_err().to_string();
            assert!(error.contains(name.as_str()), "{error}");
        }
        let mut broken = grouped.weights;
        broken.insert("training.groups.0.stray", HostTensor::f32(&[1], vec![0.0]));
        assert!(check(&config, &broken).is_err());
    }
}

/// What training adds is folded into what a detector has.
#[test]
fn a_finished_network_has_the_detectors_tensors_only() {
    let Fixture { config, weights, .. } = fixture("anchored");
    let finished = finished(&config, &weights).unwrap();
    assert!(finished.tensors.keys().eq(layout(&config).iter().map(|entry| entry.name.clone()).collect::<std::collections::BTreeSet<_>>().iter()));
    assert_ne!(finished.tensors["query_position"], weights.tensors["query_position"]);
    let mut broken = weights.clone();
    broken.tensors.remove("training.position.1.weight");
    let error = check(&config, &broken).unwrap_err().to_string();
    assert!(error.contains("training.position.1.weight"), "{error}");
}

/// What was trimmed from a finished network takes over what training added to that.
#[test]
fn a_trimmed_network_gets_back_what_its_parents_run_had() {
    let Fixture { config, weights, .. } = fixture("anchored");
    // The decoder's first layers alone are a detector.
    let trimmed = Config { decoder: config.decoder[..1].to_vec(), ..config.clone() };
    let left = finished(&trimmed, &weights).unwrap();
    let back = anchored(&trimmed, &left, &weights).unwrap();
    check(&trimmed, &back).unwrap();
    assert!(extras(&config).iter().all(|entry| back.tensors[&entry.name] == weights.tensors[&entry.name]));
    let again = finished(&trimmed, &back).unwrap();
    assert_eq!(again, left);

    // Fine-tuned since, each on its own, the positions are made of the boxes nevertheless.
    let mut random = fastrand::Rng::with_seed(1);
    let moved = left.tensors["query_position"].to_f32().iter().map(|x| x + 0.2 * (random.f32() - 0.5)).collect();
    let mut since = left.clone();
    since.insert("query_position", HostTensor::f32(&[trimmed.queries, trimmed.d_model], moved));
    let again = finished(&trimmed, &anchored(&trimmed, &since, &weights).unwrap()).unwrap();
    let apart = |a: &Weights, b: &Weights| {
        let [a, b] = [a, b].map(|weights| weights.tensors["query_position"].to_f32());
        a.iter().zip(b.iter()).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    };
    assert!(apart(&left, &since) > 10.0 * apart(&again, &since), "{} {}", apart(&left, &since), apart(&again, &since));

    let refused = |config: &Config, left: &Weights, state: &Weights| anchored(config, left, state).unwrap_err().to_string();
    let other = fresh(config.clone(), &weights, 9).unwrap().weights;
    assert!(refused(&trimmed, &left, &other).contains("isn't of this run"));
    assert!(refused(&trimmed, &left, &left).contains("no anchored queries"));
    assert!(refused(&Config { box_reference: false, ..trimmed }, &left, &weights).contains("box references"));
}

fn inverted(expansion: Option<usize>, kernel: usize, stride: usize, channels: usize, residual: bool) -> InvertedResidual {
    InvertedResidual { expansion, kernel, stride, channels, residual }
}

/// An EfficientNet-Lite and a ResNet of a few blocks.
fn backbones() -> [Backbone; 2] {
    let lite = vec![
        vec![inverted(None, 3, 2, 5, false)],
        vec![inverted(Some(8), 5, 2, 6, false), inverted(Some(7), 3, 1, 6, true)],
        vec![inverted(Some(9), 3, 1, 6, false)],
    ];
    let block = |stride, projection| ResNetBlock { inner: vec![4], stride, dilation: 1, second_dilation: None, projection };
    let stage = |stride| ResNetStage { channels: 4, blocks: vec![block(stride, stride > 1), block(1, false)] };
    [
        Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: lite }),
        Backbone::Resnet(ResNet { stem: 4, stages: vec![stage(1), stage(2), stage(2)] }),
    ]
}

/// A network of which only the backbone is looked at.
fn bare(backbone: Backbone) -> (Config, Weights) {
    let mut config = Config::detr(backbone);
    (config.d_model, config.queries) = (8, 2);
    config.encoder.clear();
    config.decoder.clear();
    let weights = detrim::checkpoint::random(config.clone(), "tiny", 3).weights;
    (config, weights)
}

/// A backbone's part before a stage and its part from there on, on both backends, are together the backbone; and the size of the features
/// is foretold.
#[test]
fn the_parts_of_a_backbone_are_together_the_whole() {
    for backbone in backbones() {
        let (config, weights) = bare(backbone);
        let network = Detr::load(&Cpu, &config, &weights).unwrap();
        let autograd = Autograd::new(Device::Cpu, |_| true);
        let trained = Detr::load(&autograd, &config, &weights).unwrap();
        let pixels = Cpu.constant(&random(&[2, 45, 70, 3], 1)).unwrap();
        let whole = network.features(&Cpu, &pixels).unwrap();
        let expected = to_host(&whole).unwrap();
        assert!(expected.to_f32().iter().any(|x| *x != 0.0));
        for stage in 0..=config.backbone.stages() {
            let block = config.backbone.first_block(stage);
            let before = network.features_before(&Cpu, &pixels, block).unwrap();
            let (_, rows, columns, _) = before.dims4().unwrap();
            assert_eq!(config.backbone.reduced(stage, [rows, columns]), expected.shape[1..3], "stage {stage}");
            for found in [network.blocks(&Cpu, before.clone(), block..usize::MAX), trained.blocks(&autograd, before, block..usize::MAX)] {
                compare(&format!("from stage {stage}"), &to_host(&found.unwrap()).unwrap().to_f32(), &expected.to_f32());
            }
        }
    }
}

/// A gradient by a tensor says how steep `total` is along it, and along any other direction: a part that is missing shows only there.
fn check_slope(name: &str, gradient: &[f32], weights: &Weights, total: &dyn Fn(&Weights) -> f64) {
    let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
    assert!(norm > 1e-3, "{name}: the gradient is {norm}");
    let along: Vec<f32> = gradient.iter().map(|g| g / norm).collect();
    let mut rng = fastrand::Rng::with_seed(7);
    let length = (gradient.len() as f32).sqrt();
    let across: Vec<f32> = gradient.iter().map(|_| if rng.bool() { 1.0 / length } else { -1.0 / length }).collect();
    // (Across, kinks of many units are in the way, and little is asked of the whole length.)
    for (direction, tolerance) in [(along, 0.02), (across, 0.15)] {
        // Long steps cross the kinks of rectifiers and distances, short ones drown in rounding.
        let at = |step: f32| {
            let mut moved = weights.clone();
            let tensor = &weights.tensors[name];
            let values = tensor.to_f32().iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            moved.insert(name, HostTensor::f32(&tensor.shape, values));
            total(&moved)
        };
        let expected = f64::from(gradient.iter().zip(&direction).map(|(g, d)| g * d).sum::<f32>());
        let slopes = [3e-4, 1e-3, 3e-3, 1e-2].map(|step| (at(step) - at(-step)) / f64::from(2.0 * step));
        let nearest = slopes.iter().map(|slope| (slope - expected).abs()).fold(f64::INFINITY, f64::min);
        assert!(nearest < tolerance * expected.abs() + 0.003, "{name}: the slopes are {slopes:?}, the gradient says {expected}");
    }
}

/// The losses' gradients by the trained stages' parameters agree with what small steps change; nothing else of the backbone has one.
#[test]
fn gradients_of_the_backbone_are_slopes_of_the_losses() {
    let [backbone, _] = backbones();
    let channels = [4, 5, 6];
    // (With sigmoids the losses aim at overlaps that are taken as given: no slope would be the gradient.)
    let mut fixture = fixture("anchored-softmax");
    fixture.config.backbone = backbone;
    fixture.weights.tensors.retain(|name, _| !name.starts_with("backbone.") && name != "input_projection.weight");
    for (seed, entry) in layout(&fixture.config).into_iter().enumerate() {
        if !fixture.weights.tensors.contains_key(&entry.name) {
            fixture.weights.insert(&entry.name, random(&entry.shape, seed as u64));
        }
    }
    let (config, method) = (&fixture.config, fixture.method(2));
    for unfrozen in [1, 2] {
        let trained = Trained::with_stages(&config.backbone, unfrozen).unwrap();
        let first = trained.first_stage(&config.backbone);
        let mut examples = fixture.examples();
        for (n, example) in examples.iter_mut().enumerate() {
            example.features = random(&[6, 7, channels[first]], 50 + n as u64);
        }
        let run = |weights: &Weights| outcome(config, weights, &trained, &method, &examples, &fixture.noised()).unwrap();
        let found = run(&fixture.weights);
        let names = |of: &dyn Fn(&str) -> bool| layout(config).into_iter().map(|entry| entry.name).filter(|name| of(name)).collect::<BTreeSet<_>>();
        let expected = names(&|name| name.starts_with("backbone.") && trained.includes(name));
        assert_eq!(found.gradients.keys().filter(|name| name.starts_with("backbone.")).cloned().collect::<BTreeSet<_>>(), expected);
        assert!(expected.len() >= 6);
        for name in expected {
            let gradient = &found.gradients[&name];
            check_slope(&name, gradient, &fixture.weights, &|weights| f64::from(run(weights).losses.total));
        }
    }
}

/// The same for both backbones alone: the slopes of a weighted sum of the features.
#[test]
fn features_have_gradients_by_every_trained_parameter() {
    for backbone in backbones() {
        let (config, weights) = bare(backbone);
        let trained = Trained::with_stages(&config.backbone, 2).unwrap();
        let x = random(&[2, 17, 14, if matches!(config.backbone, Backbone::Resnet(_)) { 4 } else { 5 }], 5);
        let run = |weights: &Weights| {
            let trained = trained.clone();
            let backend = Autograd::new(Device::Cpu, move |name| trained.includes(name));
            let network = Detr::load(&backend, &config, weights).unwrap();
            let first = config.backbone.first_block(1);
            let features = network.blocks(&backend, backend.constant(&x).unwrap(), first..usize::MAX).unwrap();
            let share = backend.constant(&random(features.dims(), 6)).unwrap();
            ((features * share).unwrap().sum_all().unwrap(), backend.variables())
        };
        let (sum, variables) = run(&weights);
        let gradients = sum.backward().unwrap();
        let mut count = 0;
        for (name, variable) in variables.iter().filter(|(name, _)| name.starts_with("backbone.")) {
            let gradient = to_host(gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"))).unwrap().to_f32().into_owned();
            check_slope(name, &gradient, &weights, &|weights| f64::from(run(weights).0.to_scalar::<f32>().unwrap()));
            count += 1;
        }
        assert!(count >= 12, "{count} parameters");
    }
}
