//! Operations on rows: layer norm, RMS norm and softmax, the host's side of `kernels/norm.wgsl` and `softmax.wgsl`.

use super::graph::{Tensor, Value};
use super::kernels::Family;
use super::recorder::{Recorder, expect, spread};
use crate::error::Result;
use crate::weights::HostTensor;
use std::rc::Rc;

/// Weights of a layer norm, or of an RMS norm, which has no bias.
pub struct Norm {
    weight: Rc<Value>,
    bias: Option<Rc<Value>>,
    width: usize,
    epsilon: f32,
}

/// Rows that a workgroup takes.
const ROWS: usize = 4;

impl Norm {
    pub fn load(recorder: &Recorder, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Self> {
        let width = weight.len();
        // At least one.
        expect("a norm's weight", &weight.shape, &[width.max(1)])?;
        let upload_bias = |bias: &HostTensor| {
            expect("a norm's bias", &bias.shape, &[width])?;
            recorder.upload("a norm's bias", &bias.to_f32())
        };
        Ok(Self { weight: recorder.upload("a norm's weight", &weight.to_f32())?, bias: bias.map(upload_bias).transpose()?, width, epsilon })
    }
}

pub fn record(recorder: &Recorder, x: &Tensor, norm: &Norm) -> Result<Tensor> {
    expect("a norm's input", &[x.width()], &[norm.width])?;
    let y = recorder.made(&x.shape)?;
    let rows = x.size() / norm.width;
    let parameters = [rows as u32, norm.width as u32, norm.epsilon.to_bits()];
    let reads: Vec<_> = [&x.value, &norm.weight].into_iter().chain(&norm.bias).collect();
    recorder.dispatch(Family::Norm, &[("RMS", u32::from(norm.bias.is_none()))], &parameters, &reads, &y.value, groups(rows));
    Ok(y)
}

/// Softmax over the last axis.
pub fn softmax(recorder: &Recorder, x: &Tensor) -> Result<Tensor> {
    let y = recorder.made(&x.shape)?;
    let rows = x.size() / x.width();
    recorder.dispatch(Family::Softmax, &[("IN_PLACE", 0)], &[rows as u32, x.width() as u32], &[&x.value], &y.value, groups(rows));
    Ok(y)
}

/// Softmax of rows of this width where they are.
pub fn softmax_in_place(recorder: &Recorder, x: &Rc<Value>, rows: usize, width: usize) {
    recorder.dispatch(Family::Softmax, &[("IN_PLACE", 1)], &[rows as u32, width as u32], &[], x, groups(rows));
}

fn groups(rows: usize) -> [u32; 3] {
    let [across, down] = spread(rows.div_ceil(ROWS));
    [across, down, 1]
}
