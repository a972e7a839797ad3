//! Checkpoints of every kind: what is read, what is refused, and our own file.

use crate::parity::reference;
use candle_core::Tensor;
use detrim::backend::Backend as _;
use detrim::checkpoint::{Checkpoint, Guess, Storage, open, random, read_any, read_own, to_bytes, write_own};
use detrim::config::{Activation, Backbone, ClassActivation, EfficientNetLite, ResNet, Resize};
use detrim::cpu::{self, Cpu};
use detrim::model::Detr;
use detrim::prune::budget::Meter;
use detrim::watch::{Observe, Watch};
use detrim::weights::{Channels, Data, Int8};
use detrim::{Config, HostTensor};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
#[ignore = "needs the folder DETRIM_REFERENCE"]
fn reads_the_reference() {
    let checkpoint = open(&reference(), &Guess::default()).unwrap();
    let config = &checkpoint.config;
    let Backbone::Resnet(net) = &config.backbone else { panic!("a ResNet was expected") };
    assert_eq!(Some(net), detrim::config::ResNet::of_depth(18, false).as_ref());
    assert_eq!((config.d_model, config.encoder.len(), config.decoder.len(), config.queries, config.classes), (128, 3, 3, 20, 92));
    assert_eq!((config.encoder[2].self_attention.heads, config.decoder[0].cross_attention.head_width, config.decoder[1].ffn), (4, 32, 256));
    assert_eq!((config.activation, config.class_activation), (Activation::Relu, ClassActivation::Softmax));
    assert_eq!(config.labels[17].name, "cat");
    assert_eq!(checkpoint.weights.tensors["backbone.stem.weight"].shape, [64, 7, 7, 3]);
}

#[test]
fn our_file_gives_back_what_was_written() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/f16/detr-lite0-speed.safetensors");
    let checkpoint = open(&model, &Guess::default()).unwrap();
    assert_eq!(checkpoint.config.pixels.resize, Resize::Stretch { height: 384, width: 384 });
    assert_eq!((checkpoint.config.labels[15].id, checkpoint.config.labels[15].name.as_str()), (17, "cat"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.safetensors");
    for (checkpoint, storage) in [(checkpoint, Storage::F16), (random(Config::detr(lite0()), "stand-in", 0), Storage::F32)] {
        write_own(&file, &checkpoint, storage).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes, to_bytes(&checkpoint, storage).unwrap());
        let again = read_own(&bytes, "x").unwrap();
        assert_eq!((&again.config, &again.weights, &again.card), (&checkpoint.config, &checkpoint.weights, &checkpoint.card));
        assert_eq!(open(&file, &Guess::default()).unwrap(), again);
    }
}

/// A network with depthwise convolutions.
fn efficient() -> Checkpoint {
    open(&fixture(), &Guess::default()).unwrap()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lite0")
}

#[test]
fn int8_is_kept_for_what_is_large_and_near_to_what_it_was() {
    let checkpoint = efficient();
    let int8 = read_own(&to_bytes(&checkpoint, Storage::Int8).unwrap(), "x").unwrap();
    let half = read_own(&to_bytes(&checkpoint, Storage::F16).unwrap(), "x").unwrap();
    for (name, tensor) in &int8.weights.tensors {
        let before = &checkpoint.weights.tensors[name];
        let head = name.starts_with("class_head") || name.starts_with("box_head");
        if !name.ends_with(".weight") || name.contains("norm") || head {
            assert_eq!(tensor, &half.weights.tensors[name], "{name}");
            continue;
        }
        let Data::I8(Int8 { scales, channels, .. }) = &tensor.data else { panic!("{name} is not int8") };
        let (axis, stride) = if name.ends_with(".depthwise.weight") {
            assert_eq!(*channels, Channels::Last, "{name}");
            (tensor.shape.len() - 1, 1)
        } else {
            assert_eq!(*channels, Channels::First, "{name}");
            (0, tensor.len() / tensor.shape[0])
        };
        assert_eq!(scales.len(), tensor.shape[axis], "{name}");
        for (i, (x, y)) in tensor.to_f32().iter().zip(before.to_f32().iter()).enumerate() {
            let scale = scales[i / stride % scales.len()];
            assert!((x - y).abs() <= 0.501 * scale || x.abs() == 127.0 * scale, "{name} {i}: {y} became {x}, scale {scale}");
        }
    }
}

/// What a search for a budget reckons with.
#[test]
fn a_file_is_as_large_as_its_storage_says() {
    let checkpoint = efficient();
    for storage in [Storage::F32, Storage::F16, Storage::Int8] {
        let file = to_bytes(&checkpoint, storage).unwrap();
        let config = checkpoint.config.clone().into();
        let meter = Meter::new(&config, &checkpoint.card, storage, None).unwrap();
        let most = meter.costs(&config).unwrap().bytes as usize;
        // The card will say some more, and numbers in the header have few digits here.
        let more = 1100 + 30 * checkpoint.weights.tensors.len();
        assert!((file.len()..file.len() + more).contains(&most), "{storage:?}: {most} for {}", file.len());
    }
}

#[test]
fn convert_writes_int8() {
    let directory = tempfile::tempdir().unwrap();
    let [small, smaller] = ["small", "smaller"].map(|name| directory.path().join(name));
    let run = |from: &Path, to: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        let output = command.arg("convert").arg(from).arg("--out").arg(to).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(to).unwrap()
    };
    let convert = |from: &Path, to: &Path, dtype: &str| run(from, to, &["--dtype", dtype]);
    let (half, int8) = (convert(&fixture(), &small, "f16"), convert(&fixture(), &smaller, "int8"));
    assert_eq!(int8, to_bytes(&efficient(), Storage::Int8).unwrap());
    // A small network, whose scales and heads weigh more than a large one's.
    assert!(int8.len() * 4 < half.len() * 3, "{} bytes, {} as f16", int8.len(), half.len());
    assert!(convert(&smaller, &smaller, "int8") == int8, "in place, and the same again");
    assert!(run(&smaller, &small, &[]) == int8, "int8 stays int8 unless f16 is asked for");
    assert!(run(&fixture(), &small, &[]) == half);
    assert!(convert(&smaller, &small, "f16").len() == half.len());
}

/// Weights that are rounded by what they are given on pictures change less of what the network sees than the nearest numbers do.
#[test]
fn convert_rounds_by_pictures() {
    let directory = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let convert = |dtype: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.arg("convert").arg(root.join("models/training/detr-lite0-base.safetensors")).arg("--images").arg(root.join("www/samples"));
        command.args(["--dtype", dtype, "--out"]).arg(directory.path().join("int8.safetensors")).args(more).output().unwrap()
    };
    let output = convert("int8", &["--pictures", "4"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.lines().next().unwrap().split([' ', ')']).filter_map(|word| word.parse().ok()).collect();
    let &[pictures, by_pictures, nearest] = &numbers[..] else { panic!("{text} {}", String::from_utf8_lossy(&output.stderr)) };
    assert!(pictures >= 4.0 && by_pictures < 0.5 * nearest, "{text}");
    let int8 = open(&directory.path().join("int8.safetensors"), &Guess::default()).unwrap();
    let is_int8 = |name: &str| matches!(int8.weights.tensors[name].data, Data::I8(_));
    assert!(is_int8("backbone.stage3.block0.depthwise.weight") && is_int8("encoder.0.ffn2.weight") && !is_int8("class_head.weight"));
    assert!(int8.card.provenance.iter().any(|line| line.contains("rounded to int8 on 4 pictures")));
    let refused = convert("f16", &[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("only --dtype int8"));
}

#[test]
fn any_model_can_be_given_another_input_size() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second, random] = ["first", "second", "random"].map(|name| directory.path().join(name));
    let convert = |from: &[&str], to: &Path, size: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.arg("convert").args(from).arg("--out").arg(to).args(["--dtype", "f32", "--resize", size]).output().unwrap()
    };
    let resize = |file: &Path| open(file, &Guess::default()).unwrap().config.pixels.resize;
    let foreign = fixture();
    assert!(convert(&[foreign.to_str().unwrap()], &first, "480x640").status.success());
    assert_eq!(resize(&first), Resize::Stretch { height: 480, width: 640 });
    // Our own file says its size, but a network takes others too.
    assert!(convert(&[first.to_str().unwrap()], &second, "480:800").status.success());
    assert_eq!(resize(&second), Resize::ShortestSide { short: 480, long: 800 });
    assert_eq!(open(&first, &Guess::default()).unwrap().weights, open(&second, &Guess::default()).unwrap().weights);
    assert!(convert(&["--random", "resnet18"], &random, "64x96").status.success());
    assert_eq!(resize(&random), Resize::Stretch { height: 64, width: 96 });

    let refused = convert(&[first.to_str().unwrap()], &second, "800:480");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("input size"));
}

#[test]
fn int8_can_be_written_again_as_anything() {
    let bytes = to_bytes(&efficient(), Storage::Int8).unwrap();
    let int8 = read_own(&bytes, "x").unwrap();
    assert!(to_bytes(&int8, Storage::Int8).unwrap() == bytes, "int8 stays as it is");
    let full = read_own(&to_bytes(&int8, Storage::F32).unwrap(), "x").unwrap();
    let half = read_own(&to_bytes(&int8, Storage::F16).unwrap(), "x").unwrap();
    for (name, tensor) in &int8.weights.tensors {
        assert_eq!(tensor.to_f32(), full.weights.tensors[name].to_f32(), "{name}");
        if let Data::I8(_) = tensor.data {
            assert_eq!(tensor.to_f16(), half.weights.tensors[name], "{name}");
        }
    }
}

/// What the page relies on: the index tells the truth about every embedded model, and each has a card.
#[test]
fn the_index_describes_the_embedded_models() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(models.join("index.json")).unwrap()).unwrap();
    let entries = index.as_array().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let (name, file) = (entry["name"].as_str().unwrap(), entry["file"].as_str().unwrap());
        let bytes = std::fs::read(models.join(file)).unwrap();
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((entry["bytes"].as_u64(), entry["sha256"].as_str()), (Some(bytes.len() as u64), Some(&hash[..])), "{file}");
        let model = read_any(&bytes, file).unwrap();
        assert_eq!(model.card.name, name);
        assert_eq!(entry["threshold"].as_f64().map(|t| t as f32), model.card.threshold);
        assert_eq!(entry["licence"].as_str(), Some(&model.card.licence[..]));
        let labels: Vec<&str> = model.config.labels().iter().filter(|l| !l.is_gap()).map(|l| &l.name[..]).collect();
        assert_eq!(entry["labels"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect::<Vec<_>>(), labels);
        assert!(models.join(format!("{name}.md")).is_file(), "{name} has no card");
    }
}

/// A stand-in must be as hard to compute as the real thing: no zeros, no infinities, and queries that differ.
#[test]
fn random_weights_behave_like_a_network() {
    for net in [Backbone::Resnet(ResNet::of_depth(18, false).unwrap()), Backbone::Resnet(ResNet::of_depth(50, true).unwrap()), lite0()] {
        let model = random(Config::detr(net), "stand-in", 0);
        let (backend, pixels) = (Watch::new(Cpu, Largest(0.0)), (0..64 * 96 * 3).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect());
        let network = Detr::load(&backend, &model.config, &model.weights).unwrap();
        let pixels = backend.constant(&HostTensor::f32(&[1, 64, 96, 3], pixels)).unwrap();
        let output = network.forward(&backend, &pixels, None);
        let Largest(largest) = backend.into_observer();
        let logits = cpu::to_host(&output.unwrap().logits).unwrap();
        let logits = logits.to_f32();
        let deviation = deviation(&(0..100).map(|q| logits[q * 92 + 5]).collect::<Vec<_>>());
        assert!(largest < 1000.0, "activations grow to {largest}");
        assert!(deviation > 0.1, "a class's logit differs by {deviation} from query to query");
    }
}

/// The largest magnitude of any stage.
struct Largest(f32);

impl Observe<Tensor> for Largest {
    fn stage(&mut self, _: &str, x: &Tensor) -> detrim::Result<()> {
        self.0 = cpu::to_host(x)?.to_f32().iter().fold(self.0, |a, x| a.max(x.abs()));
        Ok(())
    }
}

fn lite0() -> Backbone {
    Backbone::EfficientNetLite(EfficientNetLite::lite0())
}

fn deviation(numbers: &[f32]) -> f32 {
    let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
    (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / numbers.len() as f32).sqrt()
}
