//! `detrim importance` as a user runs it, on a random network and the pictures of the fixtures.

use detrim::checkpoint::{Storage, random, write_own};
use detrim::config::*;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn model(file: &Path) {
    let attention = Attention { heads: 2, head_width: 4 };
    let block = ResNetBlock { inner: vec![6], stride: 2, dilation: 1, second_dilation: None, projection: true };
    let resnet = ResNet { stem: 4, stages: vec![ResNetStage { channels: 6, blocks: vec![block] }] };
    let config = Config {
        backbone: Backbone::Resnet(resnet.clone()),
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: attention, ffn: 6 }; 2],
        decoder: vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 6 }],
        queries: 4,
        classes: 2,
        labels: vec![Label { id: 1, name: "thing".into() }],
        pixels: Pixels { resize: Resize::ShortestSide { short: 48, long: 96 }, ..Pixels::detr() },
        ..Config::detr(Backbone::Resnet(resnet))
    };
    write_own(file, &random(config, "tiny", 3), Storage::F32).unwrap();
}

fn run(folder: &Path, options: &[&str]) -> Output {
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args(["importance", "tiny.safetensors", "--pictures", "4", "--images"]).arg(pictures).args(options);
    command.output().unwrap()
}

#[test]
fn tables_plot_and_numbers_tell_of_every_part() {
    let folder = tempfile::tempdir().unwrap();
    model(&folder.path().join("tiny.safetensors"));
    for method in ["obs", "taylor", "attention", "magnitude"] {
        let output = run(folder.path(), &["--importance", method, "--plot", "plot.svg", "--json", "all.json"]);
        let (text, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{method}: {problem}");
        for part in ["on 4 pictures", "decoder.0.cross_attention", "backbone.stage1.block0.inner1", "at 20%", "encoder.1 "] {
            assert!(text.contains(part), "{method} says nothing of {part}: {text}");
        }
        let all: Value = serde_json::from_slice(&std::fs::read(folder.path().join("all.json")).unwrap()).unwrap();
        assert_eq!(all["importance"], method);
        let heads = all["heads"].as_array().unwrap();
        // A lone decoder layer can't be left out.
        assert_eq!((heads.len(), all["layers"].as_array().unwrap().len()), (4, 2));
        let numbers = heads.iter().flat_map(|heads| heads["importance"].as_array().unwrap()).map(|x| x.as_f64().unwrap());
        assert!(numbers.clone().count() == 8 && numbers.clone().all(|x| x > 0.0 && x.is_finite()), "{method}: {heads:?}");
        assert!(method != "attention" || numbers.clone().all(|x| x <= 1.0), "{heads:?}");
        assert!(std::fs::read_to_string(folder.path().join("plot.svg")).unwrap().contains("</svg>"));
    }
}

#[test]
fn what_measures_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    model(&folder.path().join("tiny.safetensors"));
    let output = run(folder.path(), &["--importance", "random"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && problem.contains("obs, taylor"), "{problem}");
}
