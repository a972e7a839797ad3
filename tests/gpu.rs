//! The wgpu backend, on whatever adapter there is. Without one these tests fail: build.sh installs a software adapter.

use crate::kernels::{check_kernels, check_products, random};
use detrim::config::{Pixels, Resize};
use detrim::gpu::{Gpu, Recorder, Variant};
use detrim::image::{Picture, prepare};
use pollster::block_on;
use std::rc::Rc;

fn recorder() -> Recorder {
    let gpu = block_on(Gpu::open()).expect("a graphics adapter, if only a software one such as lavapipe");
    Recorder::new(Rc::new(gpu))
}

#[test]
fn kernels_agree_with_the_naive_ones() {
    let mut recorder = recorder();
    let [others @ .., last] = Variant::ALL;
    recorder.variants = [last; 2];
    check_kernels(&recorder, |tensor| block_on(recorder.read(tensor)).unwrap());
    for variant in others {
        eprintln!("{}", variant.name);
        recorder.restart();
        recorder.variants = [variant; 2];
        check_products(&recorder, |tensor| block_on(recorder.read(tensor)).unwrap());
    }
}

/// A picture of noise, so that every weight of the resize counts.
fn picture(width: usize, height: usize) -> Picture {
    let noise = random(&[height, width, 4], 9);
    Picture::new(width, height, noise.to_f32().iter().map(|x| ((x + 1.0) * 127.5) as u8).collect()).unwrap()
}

#[test]
fn pictures_are_prepared_as_on_the_host() {
    let recorder = recorder();
    for (width, height, out_width, out_height) in [(1, 1, 5, 3), (61, 47, 32, 24), (31, 30, 64, 96), (40, 30, 40, 30), (128, 3, 7, 90)] {
        let picture = picture(width, height);
        let pixels = Pixels { resize: Resize::Stretch { height: out_height, width: out_width }, ..Pixels::detr() };
        let expected = prepare(&picture, &pixels).unwrap();
        let found = block_on(recorder.prepare(&picture, out_height, out_width, &pixels)).unwrap();
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected.to_f32().iter()).fold(0.0f32, |top, (f, e)| top.max((f - e).abs()));
        // A level of 255 is 0.017.
        assert!(error < 1e-5, "{width}x{height} to {out_width}x{out_height}: off by {error}");
    }
}
