//! Pools: the host's side of `kernels/pool.wgsl` and `pool_large.wgsl`.

use super::graph::Tensor;
use super::kernels::Family;
use super::recorder::{Recorder, lanes, spread, vectors};
use super::template::Constant;
use super::window;
use crate::backend::{Pool, Window};
use crate::error::{Error, Result};

/// A window of so few taps is one invocation's work.
const SMALL: usize = 64;
/// Fewer invocations than this leave a GPU idle.
const FEW: usize = 1 << 14;
/// `window.wgsl` unrolls a row of the window: this wide at most.
const WIDEST: usize = 16;
/// Elements of a place that a workgroup of `pool_large.wgsl` makes.
const ELEMENTS: usize = 8;

/// What `pool.wgsl` must know.
pub fn constants(pool: Pool) -> [Constant; 2] {
    let (average, zeros) = match pool {
        Pool::Max => (0, 0),
        Pool::MaxOfZeroPadded => (0, 1),
        Pool::Average => (1, 1),
        Pool::AverageWithin => (1, 0),
    };
    [("AVERAGE", average), ("ZEROS", zeros)]
}

pub fn record(recorder: &Recorder, x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
    let [batch, height, width, channels] = x.shape[..] else { return Err(Error::Gpu(format!("a pool of shape {:?}", x.shape))) };
    let place = window.place(height, width);
    let [kernel_height, kernel_width] = window.kernel;
    let vector = vectors(channels);
    let (places, elements) = (batch * place.out_height * place.out_width, channels / lanes(vector));
    let alone = kernel_height * kernel_width > SMALL && places * elements < FEW;
    if !alone && kernel_width <= WIDEST {
        return window::record(recorder, x, window, window::Kind::Pool(pool));
    }
    let y = recorder.made(&[batch, place.out_height, place.out_width, channels])?;
    let [average, zeros] = constants(pool);
    let constants = [("VECTOR", vector), ("DEPTHWISE", 0), average, zeros];
    // In the order of `pool_large.wgsl`.
    let parameters = [
        places,
        elements,
        kernel_height,
        kernel_width,
        window.stride,
        window.dilation,
        height,
        width,
        place.out_height,
        place.out_width,
        place.top,
        place.left,
    ];
    let [across, down] = spread(places * elements.div_ceil(ELEMENTS));
    recorder.dispatch(Family::PoolLarge, &constants, &parameters.map(|number| number as u32), &[&x.value], &y.value, [across, down, 1]);
    Ok(y)
}
