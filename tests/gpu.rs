//! The wgpu backend, on whatever adapter there is. Without one these tests fail: build.sh installs a software adapter.

use crate::kernels::{check_kernels, check_products, check_refusals, compare, random};
use crate::naive::Naive;
use crate::operators::check_operators;
use detrim::HostTensor;
use detrim::backend::{Backend, Deformable, Padding, Pool, SamplingMethod, Window};
use detrim::checkpoint::{self, Guess};
use detrim::config::{Activation, Architecture, Pixels, Resize};
use detrim::forward::allowed;
use detrim::gpu::{Gpu, GpuSession, Recorder, Variant};
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

#[test]
fn operators_agree_with_pytorch() {
    let recorder = recorder();
    check_operators(&recorder, |tensor| block_on(recorder.read(tensor)).unwrap());
}

#[test]
fn what_can_t_be_computed_is_refused() {
    check_refusals(&recorder());
}

#[test]
fn values_may_be_of_another_width_than_keys() {
    let mut recorder = recorder();
    // Of two heads; multiples of four are another kernel.
    for (width, value_width) in [(8, 24), (24, 8), (6, 8), (8, 6), (10, 2)] {
        let tensors = [(7, width, 1), (13, width, 2), (13, value_width, 3)].map(|(rows, width, seed)| random(&[2, rows, width], seed));
        let [q, k, v] = tensors.each_ref().map(|tensor| Naive.constant(tensor).unwrap());
        let expected = Naive.attention(&q, &k, &v, 2, None).unwrap();
        for variant in [Variant::ALL[0], Variant::ALL[3]] {
            recorder.restart();
            recorder.variants = [variant; 2];
            let [q, k, v] = tensors.each_ref().map(|tensor| recorder.constant(tensor).unwrap());
            let found = recorder.attention(&q, &k, &v, 2, None).unwrap();
            assert_eq!(found.shape, expected.shape);
            compare(&format!("{}, widths {width} and {value_width}", variant.name), &block_on(recorder.read(&found)).unwrap(), &expected.data);
        }
    }
}

/// Which kernel pools depends on the window and on how many there are.
#[test]
fn large_pools_agree_with_the_naive_ones() {
    let recorder = recorder();
    let even = |kernel, stride, padding| Window { kernel, stride, dilation: 1, padding: Padding::Even(padding) };
    for (shape, window) in [
        // The whole map, with and without vectors.
        ([2, 33, 27, 20], even([33, 27], 1, 0)),
        ([1, 80, 80, 3], even([80, 80], 1, 0)),
        // Many that overlap and reach beyond the map.
        ([2, 21, 19, 5], even([9, 9], 4, 4)),
        ([1, 20, 30, 36], even([5, 5], 7, 9).dilated(4)),
        ([1, 24, 37, 40], even([9, 17], 5, 8).dilated(2)),
        ([1, 40, 41, 64], even([13, 13], 1, 6)),
        ([1, 5, 40, 3], even([1, 31], 3, 0)),
        ([1, 11, 12, 4], Window::new(9, 2, Padding::Same)),
    ] {
        // All below zero, so that padding shows wherever it counts.
        let below = HostTensor::f32(&shape, random(&shape, 1).to_f32().iter().map(|x| x - 2.0).collect());
        let (x, expected) = (recorder.constant(&below).unwrap(), Naive.constant(&below).unwrap());
        for pool in [Pool::Max, Pool::MaxOfZeroPadded, Pool::Average, Pool::AverageWithin] {
            let (found, expected) = (recorder.pool(&x, window, pool).unwrap(), Naive.pool(&expected, window, pool).unwrap());
            assert_eq!(found.shape, expected.shape);
            compare(&format!("{pool:?} {shape:?} {window:?}"), &block_on(recorder.read(&found)).unwrap(), &expected.data);
        }
    }
}

#[test]
fn the_best_tokens_are_the_same_on_every_device() {
    let recorder = recorder();
    let best = |scores: &HostTensor, k: usize| {
        let chosen = recorder.top_tokens(&recorder.constant(scores).unwrap(), k).unwrap();
        block_on(recorder.read(&recorder.index_values(&chosen).unwrap())).unwrap()
    };
    // No number is lowest, below minus infinity; zeros are equal; of equals the first comes first.
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let odd = [nan, 0.0, -infinity, -0.0, -nan, 1e-40, infinity, -1e-40, 0.0, nan, f32::MIN];
    let odd = HostTensor::f32(&[1, odd.len(), 1], odd.to_vec());
    assert_eq!(best(&odd, 11), [6.0, 5.0, 1.0, 3.0, 8.0, 7.0, 10.0, 2.0, 0.0, 4.0, 9.0]);
    // A token's best class counts, whatever the others are.
    let classes = HostTensor::f32(&[2, 2, 4], vec![nan, 1.0, nan, -5.0, 0.0, 0.5, 0.9, nan, -infinity, nan, nan, nan, nan, nan, nan, nan]);
    assert_eq!(best(&classes, 2), [0.0, 1.0, 0.0, 1.0]);

    // As many as the largest networks have, of which many are equal.
    let (tokens, k) = (20_000, 300);
    let scores: Vec<f32> = random(&[1, tokens, 1], 1).to_f32().iter().map(|x| (x * 500.0).round() / 500.0).collect();
    let mut order: Vec<usize> = (0..tokens).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let expected: Vec<f32> = order[..k].iter().map(|token| *token as f32).collect();
    assert_eq!(best(&HostTensor::f32(&[1, tokens, 1], scores), k), expected);
}

#[test]
fn a_whole_is_written_again_if_any_part_of_it_changes() {
    let recorder = recorder();
    let fixed = recorder.constant(&random(&[1, 2, 3], 1)).unwrap();
    let input = recorder.input(&[1, 2, 5]).unwrap();
    let small = recorder.narrow(&fixed, 1, 2).unwrap();
    let constant = recorder.concat(&[&small, &fixed], 2).unwrap();
    // What follows could take the memory of what was there before.
    let sum = recorder.add(&input, &constant, Activation::None).unwrap();
    let whole = recorder.concat(&[&small, &sum, &fixed, &input], 2).unwrap();
    let more = recorder.add(&whole, &whole, Activation::None).unwrap();
    let after = recorder.multiply(&more, &whole).unwrap();
    let program = block_on(recorder.finish(std::slice::from_ref(&after))).unwrap();
    assert_eq!(program.dispatches(), 1 + 4 + 2, "the constants' part of the work is done once, but all of the whole is written again");

    let fixed = random(&[2, 3], 1).to_f32().into_owned();
    for seed in [2, 3, 2] {
        let data = random(&[2, 5], seed).to_f32().into_owned();
        let expected: Vec<f32> = fixed
            .chunks(3)
            .zip(data.chunks(5))
            .flat_map(|(fixed, data)| {
                let small = &fixed[1..];
                let sum: Vec<f32> = data.iter().zip(small.iter().chain(fixed)).map(|(a, b)| a + b).collect();
                [small, &sum, fixed, data].concat().into_iter().map(|x| 2.0 * x * x)
            })
            .collect();
        program.write(&recorder.gpu, &input, bytemuck::cast_slice(&data));
        compare("after a concat", &block_on(program.run(&recorder.gpu, None)).unwrap()[0], &expected);
    }
}

#[test]
fn selection_and_deformable_attention_need_few_dispatches() {
    let recorder = recorder();
    let dispatches = |tensor| block_on(recorder.finish(&[tensor])).unwrap().dispatches();
    let deformable = Deformable { heads: 2, levels: vec![[4, 4], [2, 2]], points: vec![3, 1], offset_scale: 0.5, method: SamplingMethod::Default };
    let [value, offsets, weights, boxes] = [(20, 8), (6, 16), (6, 8), (6, 4)].map(|(rows, width)| recorder.input(&[1, rows, width]).unwrap());
    assert_eq!(dispatches(recorder.deformable_attention(&value, &offsets, &weights, &boxes, &deformable).unwrap()), 1);
    // Keys, ranks, rows.
    assert_eq!(dispatches(recorder.gather(&value, &recorder.top_tokens(&value, 5).unwrap()).unwrap()), 3);
    let whole = Window { kernel: [32, 24], stride: 1, dilation: 1, padding: Padding::Even(0) };
    assert_eq!(dispatches(recorder.pool(&recorder.input(&[1, 32, 24, 8]).unwrap(), whole, Pool::Average).unwrap()), 1);
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

fn lite0() -> (GpuSession, Pixels) {
    let model = checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lite0").as_ref(), &Guess::default()).unwrap();
    (block_on(GpuSession::load(&Architecture::Detr(model.config.clone()), &model.weights)).unwrap(), model.config.pixels)
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
        // What the host resizes differs by rounding, which the network makes larger: as far apart as an implementation may be.
        for (stage, found, expected) in [("logits", &found.logits, &expected.logits), ("pred_boxes", &found.boxes, &expected.boxes)] {
            let (found, expected) = (found.to_f32(), expected.to_f32());
            let error = found.iter().zip(expected.iter()).fold(0.0f32, |top, (f, e)| top.max((f - e).abs()));
            assert!(found.len() == expected.len() && error < allowed(stage, 1.0), "{stage}: off by {error}");
        }
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
