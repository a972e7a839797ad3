//! The wgpu backend, on whatever adapter there is. Without one these tests fail: build.sh installs a software adapter.

use crate::kernels::check_kernels;
use detrim::gpu::{Gpu, Recorder};
use std::rc::Rc;

fn recorder() -> Recorder {
    let gpu = pollster::block_on(Gpu::open()).expect("a graphics adapter, if only a software one such as lavapipe");
    Recorder::new(Rc::new(gpu))
}

#[test]
fn kernels_agree_with_the_naive_ones() {
    let recorder = recorder();
    check_kernels(&recorder, |tensor| pollster::block_on(recorder.read(tensor)).unwrap());
}
