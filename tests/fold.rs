//! A folded network answers as the whole one does, with fewer tensors.

use crate::parity::{files, guess};
use detrim::checkpoint::{Checkpoint, Storage, open, random, read_own, to_bytes};
use detrim::config::{Attention, Backbone, Config, DecoderLayer, ResNet};
use detrim::detector::Device;
use detrim::eval::cost::{Part, cost};
use detrim::fold::fold;
use detrim::forward::{Case, Runner};
use detrim::layout;
use pollster::block_on;
use safetensors::{SafeTensors, tensor::TensorView};
use std::path::Path;

fn folded(checkpoint: &Checkpoint) -> Checkpoint {
    let mut folded = checkpoint.clone();
    assert!(fold(&mut folded.config, &mut folded.weights).unwrap());
    folded
}

/// What reading gives of what is written.
fn stored(checkpoint: &Checkpoint, storage: Storage) -> Checkpoint {
    read_own(&to_bytes(checkpoint, storage).unwrap(), "x.safetensors").unwrap()
}

/// How far two networks' stages after the first decoder layer are apart at most, as a share of a stage's largest number.
fn apart(one: &Checkpoint, other: &Checkpoint, case: &Path, device: Device) -> f32 {
    let case = Case::read(&std::fs::read(case).unwrap(), &case.display().to_string()).unwrap();
    let run = |checkpoint| block_on(block_on(Runner::load(checkpoint, device)).unwrap().run(&case)).unwrap();
    let (one, other) = (run(one), run(other));
    assert_eq!(one.len(), other.len());
    let mut most = 0.0f32;
    for ((name, one), (same, other)) in one.iter().zip(&other) {
        assert_eq!((name, &one.shape), (same, &other.shape));
        let (one, other) = (one.to_f32(), other.to_f32());
        assert!(one.iter().chain(&*other).all(|x| x.is_finite()), "{name}");
        let largest = one.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
        let off = one.iter().zip(&*other).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        most = most.max(off / largest);
    }
    most
}

fn check(device: Device) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["basic", "bottleneck-dc5", "lite0", "native", "native-basic", "original-legacy", "original-zip", "trimmed"] {
        let (model, cases) = files(&fixtures.join(name));
        let whole = open(&model, &guess(name)).unwrap();
        let int8 = stored(&whole, Storage::Int8);
        for case in &cases {
            let off = apart(&whole, &stored(&folded(&whole), Storage::F32), case, device);
            assert!(off < 1e-5, "{name} on {device:?}: {off}");
            // Contents are rounded to f16: to 11 bits.
            let off = apart(&int8, &stored(&folded(&int8), Storage::Int8), case, device);
            assert!(off < 2e-3, "{name} as int8 on {device:?}: {off}");
        }
        let f16 = stored(&whole, Storage::F16);
        let off = apart(&f16, &stored(&folded(&f16), Storage::F16), &cases[0], device);
        assert!(off < 2e-3, "{name} as f16 on {device:?}: {off}");
    }
}

#[test]
fn outputs_stay_on_the_cpu() {
    check(Device::Cpu);
}

#[test]
fn outputs_stay_on_the_gpu() {
    check(Device::Gpu);
}

fn small(layers: usize) -> Checkpoint {
    let mut net = ResNet::of_depth(18, false).unwrap();
    net.stem = 8;
    for stage in &mut net.stages {
        stage.channels = 8;
        stage.blocks.truncate(1);
        (stage.blocks[0].inner, stage.blocks[0].projection) = (vec![8], true);
    }
    let attention = Attention { heads: 3, head_width: 4 };
    let layer = DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 24 };
    let mut config = Config { d_model: 16, decoder: vec![layer; layers], queries: 5, query_content: true, ..Config::detr(Backbone::Resnet(net)) };
    config.encoder.clear();
    random(config, "small", 4)
}

#[test]
fn what_goes_is_the_first_self_attention_with_its_norm() {
    let whole = small(3);
    let other = folded(&whole);
    layout::check(&other.config, &other.weights).unwrap();
    let gone: Vec<&String> = whole.weights.tensors.keys().filter(|name| !other.weights.tensors.contains_key(*name)).collect();
    let is_first = |name: &str| name.starts_with("decoder.0.self_attention.") || name.starts_with("decoder.0.norm1.");
    assert!(gone.len() == 10 && gone.iter().all(|name| is_first(name)), "{gone:?}");
    let sum = |parts: Vec<Part>| parts.iter().fold((0, 0), |(p, m), part| (p + part.parameters, m + part.macs));
    let ((parameters, macs), (fewer, less)) = (sum(cost(&whole.config, [64, 64])), sum(cost(&other.config, [64, 64])));
    // Queries, keys, values and output of 3 heads of 4 from 16 channels, and a norm; for 5 queries, and the products of their attention.
    assert_eq!(parameters - fewer, 3 * (16 * 12 + 12) + 12 * 16 + 16 + 2 * 16);
    assert_eq!(macs - less, 5 * 4 * 16 * 12 + 2 * 5 * 5 * 12);
    assert_eq!(stored(&other, Storage::F32), other);

    // There is nothing more to fold, nor without a decoder.
    let mut again = other.clone();
    assert!(!fold(&mut again.config, &mut again.weights).unwrap());
    assert_eq!(again, other);
    let mut none = small(0);
    assert!(!fold(&mut none.config, &mut none.weights).unwrap());
}

/// Zeros are contents too: what they become is stored.
#[test]
fn queries_without_contents_get_some() {
    let mut whole = small(1);
    whole.config.query_content = false;
    whole.weights.tensors.remove("query_content");
    let other = folded(&whole);
    assert!(other.config.query_content && other.weights.tensors["query_content"].shape == [5, 16]);
    layout::check(&other.config, &other.weights).unwrap();
}

#[test]
fn a_config_and_tensors_that_contradict_each_other_are_named() {
    let (whole, other) = (small(2), folded(&small(2)));
    let (whole_bytes, other_bytes) = (to_bytes(&whole, Storage::F32).unwrap(), to_bytes(&other, Storage::F32).unwrap());
    let mixed = |header: &[u8], tensors: &[u8]| {
        let (header, file) = (SafeTensors::read_metadata(header).unwrap().1, SafeTensors::deserialize(tensors).unwrap());
        let views: Vec<(String, TensorView)> = file.tensors();
        let bytes = safetensors::serialize(views, header.metadata().clone()).unwrap();
        read_own(&bytes, "x.safetensors").unwrap_err().to_string()
    };
    let problem = mixed(&other_bytes, &whole_bytes);
    assert!(problem.starts_with("x.safetensors: tensor decoder.0.") && problem.ends_with("is not part of the architecture"), "{problem}");
    let problem = mixed(&whole_bytes, &other_bytes);
    assert!(problem.contains("tensor decoder.0.self_attention.query.weight is missing (expected shape [12, 16])"), "{problem}");

    let mut later = whole.config.clone();
    later.decoder[1].self_attention = None;
    assert!(later.check().unwrap_err().to_string().contains("only the first decoder layer"));
    let mut zeros = other.config.clone();
    zeros.query_content = false;
    assert!(zeros.check().unwrap_err().to_string().contains("query contents"));
    assert!(other.config.check().is_ok());
}
