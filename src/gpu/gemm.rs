//! Linear maps and convolutions: the host's side of `kernels/gemm*.wgsl`.

use super::epilogue::{self, Epilogue};
use super::graph::{Tensor, Value};
use super::kernels::Family;
use super::packing::{self, Packing};
use super::recorder::{Recorder, expect, lanes, vectors};
use super::template::Constant;
use crate::backend::Window;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::weights::{Channels, Data, HostTensor};
use bytemuck::Zeroable;
use std::rc::Rc;

/// How the matrix product is cut into pieces. Which is fastest is the adapter's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    tiled: bool,
    /// Invocations of a workgroup along channels and along places.
    group: [usize; 2],
    /// Places and groups of four channels that one invocation makes.
    block: [usize; 2],
}

impl Variant {
    /// Graphics hardware is likely to do best with the first ones, processors with the last ones.
    pub const ALL: [Variant; 4] = [
        Variant { name: "tiled 64×64", tiled: true, group: [16, 8], block: [8, 1] },
        Variant { name: "tiled 32×32", tiled: true, group: [8, 8], block: [4, 1] },
        Variant { name: "direct 4×4", tiled: false, group: [8, 8], block: [4, 1] },
        Variant { name: "direct 4×8", tiled: false, group: [8, 8], block: [4, 2] },
    ];

    pub fn is_tiled(&self) -> bool {
        self.tiled
    }

    fn places(&self) -> usize {
        self.group[1] * self.block[0]
    }

    /// Groups of four channels that a workgroup makes.
    fn columns(&self) -> usize {
        self.group[0] * self.block[1]
    }

    fn constants(&self) -> Vec<Constant> {
        let ([wn, wm], [tm, tn]) = (self.group, self.block);
        let mut constants = vec![("WN", wn), ("WM", wm), ("TM", tm), ("TN", tn)];
        if self.tiled {
            let (places, columns, threads) = (self.places(), self.columns(), wn * wm);
            constants.extend([("PLACES", places), ("COLUMNS", columns), ("THREADS", threads)]);
            constants.extend([("LOADS_X", places * 4 / threads), ("LOADS_W", columns * 16 / threads)]);
        }
        constants.into_iter().map(|(name, value)| (name, value as u32)).collect()
    }
}

/// Weights of a linear map or convolution: input by input, with the outputs side by side in groups of four.
pub struct Matrix {
    weight: Rc<Value>,
    /// Followed by the scales of int8 weights.
    bias: Rc<Value>,
    packing: Packing,
    /// A scale and a shift after the activation.
    affine: Option<[f32; 2]>,
    window: Window,
    input: usize,
    pub out: usize,
}

impl Matrix {
    /// `weight` `[out, …, in]` with the window's places between, if there are any; `affine` `[2]`.
    pub fn load(recorder: &Recorder, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Self> {
        let [out, .., input] = weight.shape[..] else { return Err(Error::Gpu(format!("a weight of shape {:?}", weight.shape))) };
        if weight.is_empty() {
            return Err(Error::Gpu(format!("a weight of shape {:?} is empty", weight.shape)));
        }
        expect("a bias", &bias.shape, &[out])?;
        let packed = match &weight.data {
            Data::F32(data) => recorder.upload("weights", &outputs_last(data, out))?,
            Data::F16(data) => recorder.upload("weights", &outputs_last(data, out))?,
            Data::I8(data) => recorder.upload("weights", &outputs_last(&data.values, out))?,
        };
        let bias = packing::bias_and_scales(recorder, weight, bias, Channels::First, out.next_multiple_of(4))?;
        Ok(Self { weight: packed, bias, packing: Packing::of(weight), affine: epilogue::affine(affine)?, window, input, out })
    }
}

/// `[out, inputs]` → `[inputs, out padded to four]`
fn outputs_last<T: Copy + Zeroable>(data: &[T], out: usize) -> Vec<T> {
    let (inputs, pitch) = (data.len() / out, out.next_multiple_of(4));
    let mut packed = vec![T::zeroed(); inputs * pitch];
    for (o, row) in data.chunks_exact(inputs).enumerate() {
        for (k, &value) in row.iter().enumerate() {
            packed[k * pitch + o] = value;
        }
    }
    packed
}

/// Outputs of fewer numbers than this leave large tiles without enough workgroups to fill a GPU.
const SMALL: usize = 1 << 18;

/// `x` as pictures of `[batch, height, width]` places → `[batch, out height, out width, out]`.
pub fn record(
    recorder: &Recorder,
    x: &Tensor,
    matrix: &Matrix,
    [batch, height, width]: [usize; 3],
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    expect("a layer's input", &[x.width()], &[matrix.input])?;
    let place = matrix.window.place(height, width);
    let y = recorder.made(&[batch, place.out_height, place.out_width, matrix.out])?;
    if let Some(residual) = residual {
        expect("a residual's size", &[residual.size()], &[y.size()])?;
    }
    let rows = batch * place.out_height * place.out_width;
    let variant = recorder.variants[usize::from(rows * matrix.out < SMALL)];

    let vector = vectors(matrix.input);
    let epilogue = Epilogue::new(activation, matrix.affine);
    let mut constants = variant.constants();
    constants.extend([("VECTOR", vector), ("OUT_VECTOR", vectors(matrix.out))]);
    constants.push(("GATHER", u32::from(!matrix.window.is_pointwise())));
    constants.extend(epilogue.constants);
    constants.extend(matrix.packing.constants());
    let [kernel_height, kernel_width] = matrix.window.kernel;
    // In the order of `gemm.wgsl`.
    let parameters = [
        rows,
        matrix.out,
        matrix.out.div_ceil(4),
        matrix.input / lanes(vector),
        kernel_height * kernel_width,
        kernel_width,
        matrix.window.stride,
        matrix.window.dilation,
        height,
        width,
        place.out_height,
        place.out_width,
        place.top,
        place.left,
    ];
    let mut parameters = parameters.map(|number| number as u32).to_vec();
    parameters.extend(epilogue.words);
    parameters.push(u32::from(residual.is_some()));
    let reads = [&x.value, &matrix.weight, &matrix.bias, residual.map_or(&matrix.bias, |residual| &residual.value)];
    let down = rows.div_ceil(variant.places());
    let deep = down.div_ceil(1 << 15);
    let groups = [matrix.out.div_ceil(4).div_ceil(variant.columns()), down.div_ceil(deep), deep].map(|number| number as u32);
    let family = if variant.tiled { Family::GemmTiled } else { Family::GemmDirect };
    recorder.dispatch(family, &constants, &parameters, &reads, &y.value, groups);
    Ok(y)
}
