//! The programs of `examples/`, as a reader would use them.

#[allow(dead_code)]
#[path = "../examples/detect.rs"]
mod detect_example;
#[allow(dead_code)]
#[path = "../examples/fine_tune.rs"]
mod fine_tune_example;
#[allow(dead_code)]
#[path = "../examples/prune.rs"]
mod prune_example;

use detect_example::detect;
use detrim::checkpoint::{Guess, Storage, open, random, write_own};
use detrim::config::*;
use fine_tune_example::fine_tune;
use prune_example::prune;
use serde_json::json;
use std::path::Path;

/// A small detector of two classes with random weights.
fn network(folder: &Path) -> std::path::PathBuf {
    let attention = Attention { heads: 2, head_width: 8 };
    let block = |stride| ResNetBlock { inner: vec![8], stride, dilation: 1, second_dilation: None, projection: true };
    let stage = || ResNetStage { channels: 16, blocks: vec![block(2)] };
    let config = Config {
        d_model: 16,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 32 }; 2],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 32 }; 2],
        queries: 6,
        classes: 2,
        class_activation: ClassActivation::Sigmoid,
        query_content: true,
        labels: (1..=2).map(|id| Label { id, name: format!("class {id}") }).collect(),
        pixels: Pixels { resize: Resize::Stretch { height: 64, width: 64 }, ..Pixels::detr() },
        ..Config::detr(Backbone::Resnet(ResNet { stem: 8, stages: vec![stage(), stage()] }))
    };
    let file = folder.join("base.safetensors");
    write_own(&file, &random(config, "base", 1), Storage::F32).unwrap();
    file
}

/// Noise in colours, and the list of it in COCO's format.
fn photos(folder: &Path) -> std::path::PathBuf {
    let mut random = fastrand::Rng::with_seed(3);
    for i in 0..6 {
        image::RgbImage::from_fn(40 + i, 40, |_, _| image::Rgb([random.u8(..), random.u8(..), random.u8(..)]))
            .save(folder.join(format!("{i}.png")))
            .unwrap();
    }
    let images: Vec<_> = (0..6).map(|i| json!({ "id": i, "file_name": format!("{i}.png"), "width": 40 + i, "height": 40 })).collect();
    let labels = folder.join("labels.json");
    let boxes = [json!({ "id": 1, "image_id": 0, "category_id": 2, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0 })];
    let categories = [1, 2].map(|id| json!({ "id": id, "name": format!("class {id}") }));
    std::fs::write(&labels, json!({ "images": images, "annotations": boxes, "categories": categories }).to_string()).unwrap();
    labels
}

#[test]
fn the_example_finds_the_cat() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("models/index.json")).unwrap()).unwrap();
    let model = root.join("models").join(index[0]["file"].as_str().unwrap());
    let found = detect(&model, &root.join("www/samples/chelsea.png")).unwrap();
    assert_eq!(found.detections[0].label, "cat");
    let missing = detect(&model, Path::new("nowhere.png")).unwrap_err();
    assert!(missing.to_string().contains("nowhere.png"), "{missing}");
}

#[test]
fn the_examples_prune_and_fine_tune() {
    let folder = tempfile::tempdir().unwrap();
    let (base, labels) = (network(folder.path()), photos(folder.path()));
    let [smaller, better] = ["smaller", "better"].map(|name| folder.path().join(format!("{name}.safetensors")));

    let [before, after] = prune(&base, folder.path(), "layers", &smaller).unwrap();
    assert!(after.params < 0.9 * before.params, "{} of {} parameters", after.params, before.params);
    let pruned = open(&smaller, &Guess::default()).unwrap();
    assert_eq!(pruned.config.decoder.len(), 1);

    let losses = fine_tune(&smaller, &base, &labels, folder.path(), 12, &better).unwrap();
    assert_eq!(losses.len(), 12);
    assert!(losses.iter().all(|loss| loss.is_finite()));
    let tuned = open(&better, &Guess::default()).unwrap();
    assert_eq!(tuned.config, pruned.config);
    let class_head = |weights: &detrim::Weights| weights.named("class_head.weight").unwrap().to_f32().into_owned();
    assert_ne!(class_head(&tuned.weights), class_head(&pruned.weights));
}
