//! Pictures as Pillow and transformers see them: decoding, resizing, the network's input.

use crate::parity::reference;
use detrim::config::{Pixels, Resize};
use detrim::image::{Picture, open, prepare, resize};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures").join(name)
}

fn picture(name: &str) -> Picture {
    open(&fixture(name)).unwrap()
}

fn rgb(picture: &Picture) -> Vec<u8> {
    picture.rgba.chunks(4).flat_map(|pixel| &pixel[..3]).copied().collect()
}

/// The largest and the mean difference of two pictures.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    (each.clone().max().unwrap_or(0), each.map(f64::from).sum::<f64>() / a.len() as f64)
}

#[test]
fn resizing_gives_pillow_s_bytes() {
    let noise = picture("noise.png");
    for (width, height) in [(24, 17), (53, 90), (120, 37), (101, 71), (7, 3), (1, 1), (53, 37)] {
        let expected = picture(&format!("noise_{width}x{height}.png"));
        assert_eq!([expected.width, expected.height], [width, height]);
        let found = resize(&noise.rgba, [noise.width, noise.height], [width, height]);
        assert_eq!(difference(&found, &rgb(&expected)).0, 0, "{width}×{height}");
    }
}

#[test]
fn pngs_and_lossless_webps_decode_exactly() {
    let same = [
        ("rgb.webp", "rgb.png"),
        ("alpha.png", "rgb.png"),
        ("alpha.webp", "rgb.png"),
        ("grey.png", "grey_rgb.png"),
        ("grey16.png", "grey_rgb.png"),
        ("palette.png", "palette_rgb.png"),
        ("bits.png", "bits_rgb.png"),
    ];
    for (file, expected) in same {
        assert_eq!(rgb(&picture(file)), rgb(&picture(expected)), "{file}");
    }
}

/// Decoders of JPEG may round differently; quality 95 on a smooth picture leaves little beside.
#[test]
fn jpegs_decode_closely() {
    for (file, expected) in [("rgb.jpg", "rgb.png"), ("progressive.jpg", "rgb.png"), ("grey.jpg", "grey_rgb.png"), ("cmyk.jpg", "rgb.png")] {
        let (most, mean) = difference(&rgb(&picture(file)), &rgb(&picture(expected)));
        assert!(mean < 1.5 && most < 24, "{file}: {most} at most, {mean} on average");
    }
}

#[test]
fn photos_are_turned_upright() {
    let upright = picture("rgb.png");
    for orientation in 1..=8 {
        let turned = picture(&format!("orientation_{orientation}.jpg"));
        assert_eq!([turned.width, turned.height], [upright.width, upright.height], "orientation {orientation}");
        let (_, mean) = difference(&rgb(&turned), &rgb(&upright));
        assert!(mean < 1.5, "orientation {orientation}: differs by {mean} on average");
    }
}

#[test]
fn what_is_no_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open(&path).unwrap_err().to_string()
    };
    let whole = std::fs::read(fixture("noise.png")).unwrap();
    // A PNG header that promises 60,000 × 60,000 pixels.
    let mut bomb = whole.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    for (name, bytes, problem) in [
        ("empty.png", &[][..], "is empty"),
        ("text.jpg", b"hello, this is not a picture", "is not a JPEG, PNG or WebP"),
        ("cut.png", &whole[..whole.len() / 2], "can't be decoded"),
        ("cut.jpg", &std::fs::read(fixture("rgb.jpg")).unwrap()[..40], "can't be decoded"),
        ("photo.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ("bomb.png", &bomb, "60000×60000"),
    ] {
        let error = file(name, bytes);
        assert!(error.contains(name) && error.contains(problem), "{error}");
    }
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = open(&folder.path().join("absent.jpg")).unwrap_err().to_string();
    assert!(error.contains("absent.jpg"), "{error}");
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))))
}

/// What DetrImageProcessor made of three pictures (every seventh pixel of it). It resizes by torch, which rounds its weights
/// to fewer bits than Pillow.
#[test]
#[ignore = "needs the folder DETRIM_REFERENCE"]
fn the_network_s_input_is_the_reference_s() {
    let folder = reference();
    for name in ["480x640", "333x500", "300x1000"] {
        let (source, processed) = (folder.join(format!("picture_{name}.png")), folder.join(format!("processed_{name}.safetensors")));
        let bytes = std::fs::read(processed).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let size: Vec<usize> = tensors.tensor("size").unwrap().data().chunks(8).map(|n| i64::from_le_bytes(n.try_into().unwrap()) as usize).collect();
        let expected = tensors.tensor("pixel_values").unwrap();
        let [_, _, rows, columns] = expected.shape()[..] else { panic!("{:?}", expected.shape()) };
        let expected: Vec<f32> = expected.data().chunks(4).map(|n| f32::from_le_bytes(n.try_into().unwrap())).collect();

        let pixels = Pixels { resize: Resize::ShortestSide { short: 800, long: 1333 }, ..Pixels::detr() };
        let input = prepare(&open(&source).unwrap(), &pixels).unwrap();
        assert_eq!(input.shape, [1, size[0], size[1], 3], "{name}");
        let found = input.to_f32();
        let (mut most, mut sum) = (0f32, 0f64);
        for c in 0..3 {
            for y in 0..rows {
                for x in 0..columns {
                    let levels = (found[(y * 7 * size[1] + x * 7) * 3 + c] - expected[(c * rows + y) * columns + x]).abs() * pixels.std[c] * 255.0;
                    most = most.max(levels);
                    sum += f64::from(levels);
                }
            }
        }
        let mean = sum / expected.len() as f64;
        eprintln!("{name}: {most:.3} levels at most, {mean:.4} on average");
        assert!(most < 1.5 && mean < 0.3, "{name}: {most} levels at most, {mean} on average");
    }
}
