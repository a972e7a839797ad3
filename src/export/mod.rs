//! Writes networks for other runtimes: ONNX (<https://onnx.ai>), which ONNX Runtime, OpenVINO, TensorRT and others read.
//!
//! The file is made from the network's graph (`graph.rs`), so whatever can be run can be exported, pruned or not. `builder.rs` puts ONNX's
//! graph together, `translate.rs` says which of its operators each of ours becomes, `attention.rs` the two attentions.

mod attention;
mod builder;
mod proto;
#[cfg(test)]
mod tests;
mod translate;

use crate::checkpoint::Checkpoint;
use crate::config::{Architecture, ClassActivation, NetworkConfig, Resize};
use crate::error::{Error, Result};
use crate::limits;
use crate::trace::trace;
use builder::Builder;
use prost::Message;
use proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use serde_json::json;
use std::ops::RangeInclusive;
use translate::Translator;

/// Versions of ONNX's operators that can be written. `GridSample` began with 16, `LayerNormalization` with 17.
pub const OPSETS: RangeInclusive<i64> = 17..=23;

/// protobuf's largest message.
const MAX_BYTES: usize = (1 << 31) - 1;

/// What an ONNX file is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// One of [`OPSETS`].
    pub opset: i64,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Images of one run.
    pub batch: usize,
    /// Whether f16 and int8 weights stay what they are, followed by `Cast` and `DequantizeLinear`; else all become f32.
    pub stored: bool,
}

/// The input size of a model that stretches its images to one.
pub fn own_size(resize: Resize) -> Option<[usize; 2]> {
    match resize {
        Resize::Stretch { height, width } => Some([height, width]),
        Resize::ShortestSide { .. } | Resize::Within { .. } | Resize::Original => None,
    }
}

/// The network as an ONNX file. Input `pixel_values` `[batch, 3, height, width]`, RGB as the metadata's `preprocessing` says; outputs `logits`
/// `[batch, queries, classes]` before softmax or sigmoid, and `pred_boxes` `[batch, queries, 4]` (centre x, centre y, width, height in fractions
/// of the image). Fails where the network can't take this size, or takes more for it than is allowed (see [`limits`]).
pub fn onnx(checkpoint: &Checkpoint<impl NetworkConfig>, options: OnnxOptions) -> Result<Vec<u8>> {
    let OnnxOptions { opset, size: [height, width], batch, stored } = options;
    let architecture = checkpoint.config.architecture();
    if !OPSETS.contains(&opset) {
        return Err(Error::Config(format!("opset {opset} can't be written: take one from {} to {}", OPSETS.start(), OPSETS.end())));
    }
    limits::check(&architecture, [height, width])?;
    let graph = trace(&architecture, [batch.max(1), height, width], None)?;
    let translated = Translator::new(&graph, &checkpoint.weights, Builder::new(opset), stored).translate(&checkpoint.card.name)?;
    let bytes = model(checkpoint, &architecture, options, translated).encode_to_vec();
    if bytes.len() > MAX_BYTES {
        return Err(Error::Config("the network takes more than the 2 GiB that an ONNX file can hold".into()));
    }
    Ok(bytes)
}

/// The oldest version of the file format that an opset goes with (ONNX's `docs/Versioning.md`).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        _ => 11,
    }
}

fn model<C>(checkpoint: &Checkpoint<C>, architecture: &Architecture, options: OnnxOptions, graph: GraphProto) -> ModelProto {
    let card = &checkpoint.card;
    let [height, width] = options.size;
    let pixels = architecture.pixels();
    let labels: Vec<_> = architecture.labels().iter().map(|label| json!({ "id": label.id, "name": label.name })).collect();
    let preprocessing = json!({
        "layout": "[batch, 3, height, width], RGB", "height": height, "width": width, "resize": pixels.resize,
        "filter": "bilinear, antialiased", "rescale": "1/255", "mean": pixels.mean, "std": pixels.std,
    });
    let class_activation = match architecture.class_activation() {
        ClassActivation::Softmax => "softmax, whose last class is no-object",
        ClassActivation::Sigmoid => "sigmoid",
    };
    let metadata = [
        ("name", card.name.clone()),
        ("architecture", architecture.model_type().into()),
        ("labels", json!(labels).to_string()),
        ("preprocessing", preprocessing.to_string()),
        ("class_activation", class_activation.into()),
        ("boxes", "centre x, centre y, width, height in fractions of the image".into()),
        ("threshold", card.threshold.map(|threshold| threshold.to_string()).unwrap_or_default()),
        ("licence", card.licence.clone()),
        ("provenance", card.provenance.join("\n")),
    ];
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    ModelProto {
        ir_version: Some(ir_version(options.opset)),
        producer_name: Some("detrim".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        doc_string: Some(
            "pixel_values: RGB, resized, from 0 to 1, then (x - mean) / std as `preprocessing` says. logits and pred_boxes: of each query.".into(),
        ),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(options.opset) }],
        metadata_props: metadata.into_iter().filter(|(_, value)| !value.is_empty()).map(entry).collect(),
    }
}
