//! What is written is a graph that any reader of ONNX accepts. (What it computes, `tests/check_onnx.py` compares by ONNX Runtime.)

use super::proto::{GraphProto, ModelProto, data_type};
use super::*;
use crate::checkpoint::{Guess, Storage, open_any, read_any, to_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FIXTURES: [&str; 11] = [
    "basic",
    "lite0",
    "trimmed",
    "family/rt_detr",
    "family/rt_detr_v2",
    "family/rt_detr_v2-discrete",
    "family/rt_detr-levels",
    "family/rt_detr_v2-pre-norm",
    "family/d_fine",
    "family/deimv2-hybrid",
    "family/deimv2-lite-as-trained",
];

fn open(name: &str) -> Checkpoint<Architecture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    open_any(&folder.join("model.safetensors"), &Guess::default()).unwrap()
}

fn options() -> OnnxOptions {
    OnnxOptions { opset: 17, size: [64, 96], batch: 1, stored: false }
}

fn export(checkpoint: &Checkpoint<Architecture>, options: OnnxOptions) -> ModelProto {
    ModelProto::decode(&onnx(checkpoint, options).unwrap()[..]).unwrap()
}

fn counts(graph: &GraphProto) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    graph.node.iter().for_each(|node| *counts.entry(node.op_type.as_deref().unwrap()).or_default() += 1);
    counts
}

/// The element type and sides of each named value.
fn values(infos: &[proto::ValueInfoProto]) -> impl Iterator<Item = (&str, i32, Vec<i64>)> {
    infos.iter().map(|info| {
        let tensor = info.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
        let sides = tensor.shape.as_ref().unwrap().dim.iter().map(|dim| match &dim.value {
            Some(proto::Dimension::Value(side)) => *side,
            other => panic!("{other:?}"),
        });
        (info.name.as_deref().unwrap(), tensor.elem_type.unwrap(), sides.collect())
    })
}

/// Every name stands for one thing, is there before it is read, and has a shape; nothing is stored that nobody reads.
fn check(name: &str, graph: &GraphProto) {
    let mut known: BTreeSet<&str> = values(&graph.input).map(|(name, ..)| name).collect();
    let shaped: BTreeSet<&str> = values(&graph.value_info).chain(values(&graph.output)).map(|(name, ..)| name).collect();
    for tensor in &graph.initializer {
        let element = match tensor.data_type.unwrap() {
            data_type::FLOAT => 4,
            data_type::FLOAT16 => 2,
            data_type::INT8 => 1,
            data_type::INT64 => 8,
            other => panic!("{name}: element type {other}"),
        };
        assert_eq!(tensor.raw_data.as_ref().unwrap().len() as i64, element * tensor.dims.iter().product::<i64>(), "{name}: {:?}", tensor.name);
        assert!(known.insert(tensor.name.as_deref().unwrap()), "{name}: {:?} twice", tensor.name);
    }
    let mut nodes = BTreeSet::new();
    let mut read = BTreeSet::new();
    for node in &graph.node {
        assert!(nodes.insert(node.name.as_deref().unwrap()), "{name}: {:?} twice", node.name);
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            assert!(known.contains(input.as_str()), "{name}: {:?} reads {input} before it is there", node.name);
            read.insert(input.as_str());
        }
        for output in &node.output {
            assert!(known.insert(output), "{name}: {output} twice");
            assert!(shaped.contains(output.as_str()), "{name}: {output} has no shape");
        }
    }
    for output in values(&graph.output).map(|(name, ..)| name) {
        assert!(known.contains(output), "{name}: {output}");
    }
    let unread: Vec<_> = graph.initializer.iter().filter(|tensor| !read.contains(tensor.name.as_deref().unwrap())).collect();
    assert!(unread.is_empty(), "{name}: {:?}", unread[0].name);
}

#[test]
fn every_architecture_gives_a_whole_graph() {
    for name in FIXTURES {
        let checkpoint = open(name);
        for (opset, batch) in [(17, 1), (18, 2), (20, 1), (*OPSETS.end(), 1)] {
            let model = export(&checkpoint, OnnxOptions { opset, batch, ..options() });
            assert_eq!(model.opset_import[0].version, Some(opset));
            let graph = model.graph.unwrap();
            check(name, &graph);
            assert_eq!(values(&graph.input).collect::<Vec<_>>(), [("pixel_values", data_type::FLOAT, vec![batch as i64, 3, 64, 96])]);
            let [queries, classes] = [checkpoint.config.queries(), checkpoint.config.classes()].map(|count| count as i64);
            let expected = [("logits", vec![batch as i64, queries, classes]), ("pred_boxes", vec![batch as i64, queries, 4])];
            assert_eq!(values(&graph.output).map(|(name, _, shape)| (name, shape)).collect::<Vec<_>>(), expected, "{name}");
        }
    }
}

/// A change here is one in what runtimes are given: look at it, and run `tests/check_onnx.py`.
#[test]
fn operators_are_those_that_runtimes_are_fast_with() {
    let graph = export(&open("family/d_fine"), options()).graph.unwrap();
    let counts = counts(&graph);
    // Three decoder layers, three levels; a transpose only around attentions and where maps become tokens.
    let expected = [("GridSample", 9), ("TopK", 2), ("LayerNormalization", 12), ("Transpose", 33)];
    assert_eq!(expected.map(|(op, _)| (op, counts.get(op).copied().unwrap_or_default())), expected, "{counts:?}");
    // Every convolution of the file, and no linear layer as one.
    let weights = |rank: usize| graph.initializer.iter().filter(|tensor| tensor.dims.len() == rank).count();
    assert_eq!(counts["Conv"], weights(4));
}

#[test]
fn later_opsets_have_their_own_spelling() {
    let spelling = |opset| {
        let graph = export(&open("family/d_fine"), OnnxOptions { opset, ..options() }).graph.unwrap();
        let find = |op: &str| graph.node.iter().find(|node| node.op_type.as_deref() == Some(op)).unwrap().clone();
        let mode = find("GridSample").attribute.iter().find_map(|a| (a.name.as_deref() == Some("mode")).then(|| a.s.clone().unwrap()));
        (String::from_utf8(mode.unwrap()).unwrap(), find("ReduceMax").input.len())
    };
    assert_eq!(spelling(17), ("bilinear".into(), 1));
    assert_eq!(spelling(19), ("bilinear".into(), 2));
    assert_eq!(spelling(20), ("linear".into(), 2));
}

#[test]
fn weights_can_stay_what_they_are() {
    for name in ["lite0", "family/deimv2-lite-as-trained"] {
        let int8 = read_any(&to_bytes(&open(name), Storage::Int8).unwrap(), name).unwrap();
        let model = |stored| export(&int8, OnnxOptions { stored, ..options() });
        let (stored, floats) = (model(true), model(false));
        let elements = |model: &ModelProto, element| {
            let tensors = model.graph.as_ref().unwrap().initializer.iter().filter(|tensor| tensor.data_type == Some(element));
            tensors.count()
        };
        assert!(elements(&stored, data_type::INT8) > 10 && elements(&stored, data_type::FLOAT16) > 0, "{name}");
        assert_eq!(elements(&floats, data_type::INT8) + elements(&floats, data_type::FLOAT16), 0, "{name}");
        assert!(stored.encoded_len() * 3 < floats.encoded_len() * 2, "{name}");
        check(name, stored.graph.as_ref().unwrap());
        // Each scale goes with the axis of its weight that is as long.
        for node in stored.graph.as_ref().unwrap().node.iter().filter(|node| node.op_type.as_deref() == Some("DequantizeLinear")) {
            let dims = |name: &String| {
                let graph = stored.graph.as_ref().unwrap();
                graph.initializer.iter().find(|tensor| tensor.name.as_ref() == Some(name)).unwrap().dims.clone()
            };
            assert_eq!(dims(&node.input[1]), [dims(&node.input[0])[node.attribute[0].i.unwrap() as usize]], "{:?}", node.name);
        }
    }
}

#[test]
fn the_file_says_what_goes_in_and_what_comes_out() {
    let mut checkpoint = open("family/rt_detr");
    checkpoint.card.licence = "Apache-2.0".into();
    checkpoint.card.provenance = vec!["made".into(), "pruned".into()];
    let model = export(&checkpoint, options());
    let entry = |key: &str| model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some(key)).and_then(|entry| entry.value.clone());
    let labels: serde_json::Value = serde_json::from_str(&entry("labels").unwrap()).unwrap();
    assert_eq!(labels[2]["name"], "car");
    let preprocessing: serde_json::Value = serde_json::from_str(&entry("preprocessing").unwrap()).unwrap();
    assert_eq!((&preprocessing["height"], &preprocessing["mean"]), (&json!(64), &json!(checkpoint.config.pixels().mean)));
    assert_eq!(entry("licence").as_deref(), Some("Apache-2.0"));
    assert_eq!(entry("provenance").as_deref(), Some("made\npruned"));
    assert_eq!(entry("threshold"), None);
}

#[test]
fn what_cant_be_exported_is_said() {
    let checkpoint = open("family/rt_detr");
    let problem = |options| onnx(&checkpoint, options).unwrap_err().to_string();
    assert!(problem(OnnxOptions { opset: 16, ..options() }).contains("opset 16 can't be written: take one from 17 to 23"));
    let found = problem(OnnxOptions { size: [40, 96], ..options() });
    assert!(found.contains("multiples of 32"), "{found}");
    assert_eq!(own_size(Resize::Stretch { height: 3, width: 5 }), Some([3, 5]));
    assert_eq!(own_size(open("basic").config.pixels().resize), None);
}
