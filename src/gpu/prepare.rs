//! A picture becomes the network's input on the device: the host's side of `kernels/prepare.wgsl`.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::Recorder;
use crate::config::Pixels;
use crate::error::Result;
use crate::image::{PRECISION_BITS, Taps};
use bytemuck::{Pod, Zeroable};

/// As in `prepare.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    in_width: u32,
    in_height: u32,
    out_width: u32,
    out_height: u32,
    taps: u32,
    padding: [u32; 3],
    scale: [f32; 4],
    offset: [f32; 4],
}

/// `picture` `[height, width]`, four bytes in each → `[1, out height, out width, 3]`, resized and normalised.
pub fn record(recorder: &Recorder, picture: &Tensor, out_height: usize, out_width: usize, pixels: &Pixels) -> Result<Tensor> {
    let (in_height, in_width) = (picture.shape[0], picture.shape[1]);
    let narrow = recorder.made(&[in_height, out_width])?;
    let out = recorder.made(&[1, out_height, out_width, 3])?;
    let (mut scale, mut offset) = ([0.0; 4], [0.0; 4]);
    for channel in 0..3 {
        scale[channel] = 1.0 / (255.0 * pixels.std[channel]);
        offset[channel] = pixels.mean[channel] / pixels.std[channel];
    }
    let passes = [(1, picture, &narrow, Taps::new(in_width, out_width), in_height), (0, &narrow, &out, Taps::new(in_height, out_height), out_height)];
    for (across, from, to, taps, rows) in passes {
        let [in_width, in_height, out_width, out_height, count] = [in_width, in_height, out_width, out_height, taps.count].map(|n| n as u32);
        let parameters = Parameters { in_width, in_height, out_width, out_height, taps: count, padding: [0; 3], scale, offset };
        let starts = recorder.upload("the places of a resize", &taps.starts)?;
        let weights = recorder.upload("the weights of a resize", &taps.weights)?;
        let constants = [("ACROSS", across), ("PRECISION_BITS", PRECISION_BITS)];
        let groups = [out_width.div_ceil(8), (rows as u32).div_ceil(8), 1];
        recorder.dispatch(Family::Prepare, &constants, &[parameters], &[&from.value, &starts, &weights], &to.value, groups);
    }
    Ok(out)
}
