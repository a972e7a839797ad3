//! The wgpu backend, on whatever adapter there is. Without one these tests fail: build.sh installs a software adapter.

use crate::kernels::{check_kernels, check_products, compare, random};
use detrim::HostTensor;
use detrim::backend::{Backend, Padding, Window};
use detrim::checkpoint::{self, Guess};
use detrim::config::{Activation, Architecture, Pixels, Resize};
use detrim::gpu::{Gpu, GpuDetr, Recorder, Variant};
use detrim::image::{Picture, prepare};
use pollster::block_on;
use std::process::Command;
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
fn picture(width: usize, height: usize, seed: u64) -> Picture {
    let noise = random(&[height, width, 4], seed);
    Picture::new(width, height, noise.to_f32().iter().map(|x| ((x + 1.0) * 127.5) as u8).collect()).unwrap()
}

#[test]
fn pictures_are_prepared_as_on_the_host() {
    let recorder = recorder();
    for (width, height, out_width, out_height) in [(1, 1, 5, 3), (61, 47, 32, 24), (31, 30, 64, 96), (40, 30, 40, 30), (128, 3, 7, 90)] {
        let picture = picture(width, height, 9);
        let pixels = Pixels { resize: Resize::Stretch { height: out_height, width: out_width }, ..Pixels::detr() };
        let expected = prepare(&picture, &pixels).unwrap();
        let found = block_on(recorder.prepare(&picture, out_height, out_width, &pixels)).unwrap();
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected.to_f32().iter()).fold(0.0f32, |top, (f, e)| top.max((f - e).abs()));
        // A level of 255 is 0.017.
        assert!(error < 1e-5, "{width}x{height} to {out_width}x{out_height}: off by {error}");
    }
}

#[test]
fn what_doesn_t_depend_on_the_input_is_computed_once() {
    let recorder = recorder();
    let linear = recorder.load_linear("layer", &random(&[8, 8], 1), &random(&[8], 2)).unwrap();
    let fixed = recorder.constant(&random(&[1, 5, 8], 3)).unwrap();
    let fixed = recorder.linear(&fixed, &linear, Activation::Relu, None).unwrap();
    let fixed = recorder.attention(&fixed, &fixed, &fixed, 2, None).unwrap();
    let input = recorder.input(&[1, 5, 8]).unwrap();
    let sum = recorder.add(&input, &fixed, Activation::None).unwrap();
    let unused = recorder.linear(&sum, &linear, Activation::None, None).unwrap();
    drop(unused);
    let program = block_on(recorder.finish(&[sum.clone(), fixed.clone()])).unwrap();
    assert_eq!(program.dispatches(), 1, "only the sum changes from run to run");

    let expected = block_on(recorder.read(&fixed)).unwrap();
    for seed in [4, 5] {
        let data = random(&[1, 5, 8], seed).to_f32().into_owned();
        program.write(&recorder.gpu, &input, bytemuck::cast_slice(&data));
        let outputs = block_on(program.run(&recorder.gpu, None)).unwrap();
        let sums: Vec<f32> = data.iter().zip(&expected).map(|(a, b)| a + b).collect();
        assert_eq!(outputs, [sums, expected.clone()]);
    }
}

#[test]
fn attention_in_several_parts_is_the_same() {
    // More scores than are kept at a time: 8 heads of 1024 queries and 1100 keys.
    let recorder = recorder();
    let [q, k, v] = [(1024, 1), (1100, 2), (1100, 3)].map(|(rows, seed)| recorder.constant(&random(&[1, rows, 8], seed)).unwrap());
    let all = block_on(recorder.read(&recorder.attention(&q, &k, &v, 8, None).unwrap())).unwrap();
    // The last query by itself.
    let last = HostTensor::f32(&[1, 1, 8], random(&[1, 1024, 8], 1).to_f32()[1023 * 8..].to_vec());
    let last = recorder.attention(&recorder.constant(&last).unwrap(), &k, &v, 8, None).unwrap();
    compare("the last query", &all[1023 * 8..], &block_on(recorder.read(&last)).unwrap());
}

#[test]
fn what_can_t_be_done_is_said() {
    let recorder = recorder();
    // 144 MB, where a buffer may have 128 MiB.
    let large = recorder.input(&[1, 6000, 6000, 1]).unwrap();
    let sum = recorder.add(&large, &large, Activation::None).unwrap();
    let error = block_on(recorder.finish(&[sum])).err().unwrap().to_string();
    assert!(error.contains("138 MiB") && error.contains("128 MiB"), "{error}");

    let conv = recorder.load_conv("layer", &random(&[1, 3, 3, 3], 1), &random(&[1], 2), None, Window::new(3, 1, Padding::Even(0))).unwrap();
    let error = recorder.conv(&recorder.input(&[1, 2, 2, 3]).unwrap(), &conv, Activation::None, None).err().unwrap().to_string();
    assert!(error.contains("too small"), "{error}");
}

fn lite0() -> (GpuDetr, Pixels) {
    let model = checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lite0").as_ref(), &Guess::default()).unwrap();
    (block_on(GpuDetr::new(&Architecture::Detr(model.config.clone()), &model.weights)).unwrap(), model.config.pixels)
}

#[test]
fn programs_take_turns() {
    let (mut detr, pixels) = lite0();
    // Other pictures of the same size, other sizes of pictures, other sizes of the network's input; then the first again.
    let cases = [(64, 48, 64, 96), (64, 48, 64, 96), (50, 70, 64, 96), (64, 48, 96, 64), (64, 48, 64, 96)];
    for (seed, (width, height, out_height, out_width)) in cases.into_iter().enumerate() {
        let picture = picture(width, height, seed as u64);
        let found = block_on(detr.run(&picture, out_height, out_width)).unwrap();
        let dispatches = detr.info().dispatches;
        let stretch = Pixels { resize: Resize::Stretch { height: out_height, width: out_width }, ..pixels.clone() };
        let expected = block_on(detr.infer(&prepare(&picture, &stretch).unwrap())).unwrap();
        compare("logits", &found.logits.to_f32(), &expected.logits.to_f32());
        compare("boxes", &found.boxes.to_f32(), &expected.boxes.to_f32());
        assert_eq!(detr.info().dispatches + 2, dispatches, "a resize has two passes");
    }
    let info = detr.info();
    assert!(info.weight_bytes > 0 && info.activation_bytes > 0 && !info.adapter.is_empty(), "{info:?}");
}

#[test]
fn a_lost_device_is_an_error() {
    let (mut detr, _) = lite0();
    let picture = picture(40, 30, 9);
    block_on(detr.run(&picture, 64, 64)).unwrap();
    assert_eq!(detr.lost(), None);
    detr.destroy();
    for _ in 0..2 {
        let error = block_on(detr.run(&picture, 64, 64)).err().unwrap().to_string();
        assert!(error.contains("lost"), "{error}");
    }
    assert!(block_on(detr.run(&picture, 96, 64)).is_err(), "nothing new can be recorded");
    assert!(detr.lost().is_some());
}

#[test]
fn no_adapter_is_an_error() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lite0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.args(["forward", fixture, &format!("{fixture}/plain.safetensors"), "--backend", "gpu", "--compare"]);
    // An interface that no program here is built for.
    let output = command.env("WGPU_BACKEND", "noop").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no graphics adapter"), "{error}");
}
