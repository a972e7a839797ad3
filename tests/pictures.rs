//! Pictures as Pillow and transformers see them: decoding, resizing, the network's input.

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
fn lossless_files_decode_exactly_and_on_white() {
    let same = [
        ("rgb.webp", "rgb.png"),
        ("rgb.bmp", "rgb.png"),
        ("rgb.tif", "rgb.png"),
        ("alpha.png", "alpha_rgb.png"),
        ("alpha.webp", "alpha_rgb.png"),
        ("grey_alpha.png", "grey_alpha_rgb.png"),
        ("palette_alpha.png", "palette_alpha_rgb.png"),
        ("first_frame.gif", "first_frame_rgb.png"),
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
        for format in ["webp", "png"] {
            assert!(picture(&format!("orientation_{orientation}.{format}")) == upright, "{format}, orientation {orientation}");
        }
    }
    assert!(picture("orientation_6.tif") == upright);
}

/// PNG allows EXIF data after the pixels too.
#[test]
fn a_png_is_turned_by_what_comes_last() {
    let file = std::fs::read(fixture("orientation_6.png")).unwrap();
    let start = file.windows(4).position(|four| four == b"eXIf").unwrap() - 4;
    let length = u32::from_be_bytes(file[start..start + 4].try_into().unwrap()) as usize + 12;
    let (chunk, end) = (&file[start..start + length], file.len() - 12);
    let moved = [&file[..start], &file[start + length..end], chunk, &file[end..]].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.png");
    std::fs::write(&path, moved).unwrap();
    assert!(open(&path).unwrap() == picture("rgb.png"));
}

/// Wherever a file is cut off, browsers refuse it, but for the last bytes of some formats, which hold nothing of the picture.
#[test]
fn a_file_that_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // A GIF's other frames aren't looked at.
    let after_the_first_frame = 311;
    let formats = [
        ("rgb.jpg", 0),
        ("progressive.jpg", 0),
        ("cmyk.jpg", 0),
        ("orientation_6.jpg", 0),
        ("rgb.png", 4),
        ("alpha.png", 4),
        ("palette.png", 4),
        ("orientation_6.png", 4),
        ("rgb.webp", 0),
        ("alpha.webp", 0),
        ("orientation_6.webp", 0),
        ("rgb.bmp", 0),
        ("rgb.tif", 0),
        ("first_frame.gif", after_the_first_frame),
    ];
    for (name, spare) in formats {
        let file = std::fs::read(fixture(name)).unwrap();
        let path = folder.path().join(name);
        for cut in 0..file.len() - spare {
            std::fs::write(&path, &file[..cut]).unwrap();
            let problem = open(&path).err().unwrap_or_else(|| panic!("{name} passes with {cut} of {} bytes", file.len())).to_string();
            assert!(problem.contains(name), "{problem}");
        }
    }
    let jpeg = std::fs::read(fixture("progressive.jpg")).unwrap();
    let path = folder.path().join("half.jpg");
    std::fs::write(&path, &jpeg[..jpeg.len() / 2]).unwrap();
    assert!(open(&path).unwrap_err().to_string().ends_with("is cut off: its end is missing (was it downloaded or copied only in part?)"));
}

/// A PNG of one colour, written row by row.
fn plain_png(path: &Path, [width, height]: [u32; 2], grey: u8) {
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(std::fs::File::create(path).unwrap()), width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header().unwrap();
    let mut rows = writer.stream_writer().unwrap();
    let row = vec![grey; width as usize];
    (0..height).for_each(|_| std::io::Write::write_all(&mut rows, &row).unwrap());
    rows.finish().unwrap();
}

#[test]
fn what_has_more_pixels_than_are_held_is_made_smaller_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.png");
    for (size, held) in [([9001, 8000], [4501, 4000]), ([1, 200_000], [1, 50_000]), ([150_001, 2], [50_001, 2])] {
        plain_png(&path, size.map(|side| side as u32), 77);
        let picture = open(&path).unwrap();
        assert_eq!(([picture.width, picture.height], picture.full_size), (held, size));
        assert!(picture.rgba.as_chunks::<4>().0.iter().all(|pixel| *pixel == [77, 77, 77, 255]));
        let pixels = Pixels { resize: Resize::Stretch { height: 60, width: 40 }, mean: [0.0; 3], std: [1.0; 3] };
        assert!(prepare(&picture, &pixels).unwrap().to_f32().iter().all(|value| (value * 255.0 - 77.0).abs() < 1.01), "{size:?}");
    }
}

/// What a shell gives in place of a file.
#[cfg(unix)]
#[test]
fn a_pipe_is_read_as_a_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let bytes = std::fs::read(fixture("rgb.png")).unwrap();
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, bytes).unwrap()
    });
    assert!(open(&pipe).unwrap() == picture("rgb.png"));
    writer.join().unwrap();
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
        ("text.jpg", b"hello, this is not a picture", "is not a JPEG, PNG, WebP, GIF, BMP or TIFF picture"),
        ("cut.png", &whole[..whole.len() / 2], "is cut off"),
        ("cut.jpg", &std::fs::read(fixture("rgb.jpg")).unwrap()[..40], "is cut off"),
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
fn the_network_s_input_is_the_reference_s() {
    let folder = std::env::var_os("DETRIM_REFERENCE").map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference"), PathBuf::from);
    for name in ["480x640", "333x500", "300x1000"] {
        let (source, processed) = (folder.join(format!("picture_{name}.png")), folder.join(format!("processed_{name}.safetensors")));
        if !processed.exists() {
            eprintln!("skipped: there is no {}", processed.display());
            continue;
        }
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
