//! The wgpu backend, on whatever adapter there is. Without one these tests fail: build.sh installs a software adapter.

use crate::kernels::{check_kernels, random};
use detrim::HostTensor;
use detrim::checkpoint::{self, Guess};
use detrim::config::{Pixels, Resize};
use detrim::gpu::{Gpu, GpuDetr, Recorder};
use detrim::image::{Picture, prepare};
use detrim::model::PixelMask;
use pollster::block_on;
use safetensors::SafeTensors;
use std::path::PathBuf;
use std::rc::Rc;

fn recorder() -> Recorder {
    let gpu = block_on(Gpu::open()).expect("a graphics adapter, if only a software one such as lavapipe");
    Recorder::new(Rc::new(gpu))
}

#[test]
fn kernels_agree_with_the_naive_ones() {
    let recorder = recorder();
    check_kernels(&recorder, |tensor| block_on(recorder.read(tensor)).unwrap());
}

fn reference() -> Option<PathBuf> {
    let folder =
        std::env::var_os("DETRIM_REFERENCE").map_or(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference")), PathBuf::from);
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// A case's tensor; feature maps become channels-last.
fn stage(file: &SafeTensors, name: &str) -> HostTensor {
    let view = file.tensor(name).unwrap();
    let data: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
    let [n, c, h, w] = view.shape()[..] else { return HostTensor::f32(view.shape(), data) };
    let mut last = vec![0.0; data.len()];
    for (i, value) in data.into_iter().enumerate() {
        let (image, channel, place) = (i / (c * h * w), i / (h * w) % c, i % (h * w));
        last[(image * h * w + place) * c + channel] = value;
    }
    HostTensor::f32(&[n, h, w, c], last)
}

#[test]
fn every_stage_agrees_with_the_reference() {
    let Some(folder) = reference() else { return };
    let model = checkpoint::open(&folder.join("model.safetensors"), &Guess::default()).unwrap();
    let mut detr = block_on(GpuDetr::new(&model.config, &model.weights)).unwrap();
    for case in ["96x128", "320x320", "224x352_masked"] {
        let bytes = std::fs::read(folder.join(format!("case_{case}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let pixels = stage(&file, "pixel_values");
        let valid = file.tensor("pixel_mask").unwrap().data().chunks_exact(8).map(|number| number != [0; 8]).collect();
        let mask = PixelMask::new(pixels.shape[0], pixels.shape[1], pixels.shape[2], valid).unwrap();
        let found = block_on(detr.forward(&pixels, Some(&mask))).unwrap();
        let names: Vec<&String> = found.iter().map(|(name, _)| name).collect();
        let all = file.names().into_iter().filter(|name| !name.starts_with("pixel_"));
        all.for_each(|name| assert!(names.iter().any(|found| *found == name), "{case}: no {name} among {names:?}"));
        for (name, found) in &found {
            let expected = stage(&file, name);
            assert_eq!(found.len(), expected.len(), "{case}: {name}");
            let (found, expected) = (found.to_f32(), expected.to_f32());
            let scale = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let error = found.iter().zip(expected.iter()).fold(0.0f32, |top, (f, e)| top.max((f - e).abs()));
            let limit = match name.as_str() {
                "logits" => 5e-3,
                "pred_boxes" => 1e-4,
                _ => 1e-3 * scale,
            };
            eprintln!("{case} {name}: off by {error:.1e} of {scale:.1}");
            assert!(error <= limit, "{case}: {name} is off by {error}, more than {limit}");
        }
    }
    assert!(detr.info().dispatches > 100, "{:?}", detr.info());
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
