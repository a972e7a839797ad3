//! `detrim export`

use super::model::{self, ModelArguments, height_width};
use super::{outputs, print};
use anyhow::{Result, ensure};
use clap::ValueEnum;
use detrim::export::{OPSETS, OnnxOptions, onnx, own_size};
use detrim::{image, output};
use std::path::PathBuf;

/// Write a network as ONNX, for ONNX Runtime, OpenVINO, TensorRT and others.
///
/// Input: pixel_values [batch, 3, height, width], RGB, resized, from 0 to 1, then (x - mean) / std. Outputs: logits [batch, queries, classes],
/// before softmax or sigmoid, and pred_boxes [batch, queries, 4]: centre x, centre y, width, height in fractions of the image. The file's
/// metadata has the class names, mean, std and size, and where the weights come from. Pruned networks are exported as they are.
///
/// Example: detrim export models/deimv2-femto.safetensors --onnx femto.onnx
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The .onnx file to write
    #[arg(long, value_name = "FILE")]
    onnx: PathBuf,
    /// Version of ONNX's operators; later ones have nothing that the network needs
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(i64).range(OPSETS))]
    opset: i64,
    /// Height and width of the input, as 480x640; by default the model's own, if it stretches its images to one size
    #[arg(long, value_name = "HxW", value_parser = height_width)]
    size: Option<[usize; 2]>,
    /// Images of one run; the file is for this number
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count)]
    batch: usize,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// All as f32, which every runtime is fastest with
    #[default]
    F32,
    /// f16 and int8 weights as the model has them, with Cast and DequantizeLinear: a smaller file
    Stored,
}

pub fn run(arguments: Arguments) -> Result<()> {
    outputs::writable(&arguments.onnx)?;
    let same = arguments.onnx.canonicalize().is_ok_and(|out| arguments.model.model.canonicalize().is_ok_and(|model| model == out));
    ensure!(!same, "{} would be written over the model: give it another name", arguments.onnx.display());
    model::allow(&arguments.model.guess);
    let checkpoint = arguments.model.read()?;
    let resize = checkpoint.config.pixels().resize;
    let Some(size) = arguments.size.or_else(|| own_size(resize)) else {
        let [height, width] = image::typical_size(resize)?;
        anyhow::bail!(
            "{}: the model takes images of many sizes ({resize}), an ONNX file those of one: name it, say by --size {height}x{width}",
            arguments.model.model.display()
        );
    };
    let options = OnnxOptions { opset: arguments.opset, size, batch: arguments.batch, stored: arguments.dtype == Dtype::Stored };
    let bytes = onnx(&checkpoint, options)?;
    output::write(&arguments.onnx, &bytes)?;
    let [height, width] = size;
    let megabytes = bytes.len() as f64 / 1e6;
    print(&format!("wrote {} ({megabytes:.1} MB): {} × 3 × {height} × {width}, opset {}\n", arguments.onnx.display(), arguments.batch, options.opset))
}
