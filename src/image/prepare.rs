//! From a picture to the network's input: resized, then normalised, as Hugging Face's `DetrImageProcessor` does it.

use super::{Picture, resize};
use crate::config::{Pixels, Resize};
use crate::error::{Error, Result};
use crate::weights::HostTensor;

/// Height and width of the photo that costs are told of where a network takes photos as they come.
pub const TYPICAL_PHOTO: [usize; 2] = [960, 1280];

/// The height and width that a network takes a [`TYPICAL_PHOTO`] at.
pub fn typical_size(rule: Resize) -> Result<[usize; 2]> {
    let [height, width] = TYPICAL_PHOTO;
    target_size(rule, width, height)
}

/// The height and width that a picture of this size is resized to (`get_size_with_aspect_ratio` in transformers).
///
/// The long side is truncated, not rounded, and the limit on it only bounds what the short side is rounded from, as there.
pub fn target_size(rule: Resize, width: usize, height: usize) -> Result<[usize; 2]> {
    let (short, long) = match rule {
        Resize::Stretch { height, width } => return Ok([height, width]),
        Resize::ShortestSide { short, long } => (short, long),
    };
    let (least, most) = (width.min(height), width.max(height));
    let (least, most) = (least as f64, most as f64);
    let limited = (most / least * short as f64 > long as f64).then(|| long as f64 * least / most);
    let size = limited.map_or(short, |limited| limited.round_ties_even() as usize);
    if width.min(height) == size {
        return Ok([height, width]);
    }
    let exact = limited.unwrap_or(short as f64);
    let other = |long_side: usize, short_side: usize| (exact * long_side as f64 / short_side as f64) as usize;
    let [out_height, out_width] = if width < height { [other(height, width), size] } else { [size, other(width, height)] };
    if out_height == 0 || out_width == 0 {
        return Err(Error::Image(format!("a picture of {width}×{height} pixels is too narrow to be resized to a long side of {long}")));
    }
    Ok([out_height, out_width])
}

/// The network's input, `[1, height, width, 3]`.
pub fn prepare(picture: &Picture, pixels: &Pixels) -> Result<HostTensor> {
    picture.check()?;
    let [height, width] = target_size(pixels.resize, picture.full_size[0], picture.full_size[1])?;
    let bytes = resize(&picture.rgba, [picture.width, picture.height], [width, height]);
    // A byte has 256 values: each channel's normalised ones are computed once.
    let tables = [0, 1, 2].map(|c| {
        let mut table = [0f32; 256];
        table.iter_mut().enumerate().for_each(|(byte, out)| *out = (byte as f32 / 255.0 - pixels.mean[c]) / pixels.std[c]);
        table
    });
    let mut data = vec![0.0; bytes.len()];
    for (out, bytes) in data.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
        for c in 0..3 {
            out[c] = tables[c][usize::from(bytes[c])];
        }
    }
    Ok(HostTensor::f32(&[1, height, width, 3], data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get_size_with_aspect_ratio((height, width), 800, 1333)` of transformers 5.23; made by tests/make_pictures.py.
    #[test]
    fn sizes_are_those_of_the_reference() {
        let table = include_str!("../../tests/fixtures/pictures/sizes.csv");
        for line in table.lines().skip(1) {
            let numbers: Vec<usize> = line.split(',').map(|n| n.parse().unwrap()).collect();
            let [short, long, height, width, out_height, out_width] = numbers[..] else { panic!("{line}") };
            assert_eq!(target_size(Resize::ShortestSide { short, long }, width, height).unwrap(), [out_height, out_width], "{line}");
        }
    }

    #[test]
    fn stretching_ignores_the_shape() {
        assert_eq!(target_size(Resize::Stretch { height: 3, width: 5 }, 100, 1).unwrap(), [3, 5]);
    }

    #[test]
    fn a_thread_of_a_picture_is_refused() {
        let rule = Resize::ShortestSide { short: 800, long: 1333 };
        assert!(target_size(rule, 10_000, 1).is_err());
        assert!(target_size(rule, 1, 10_000).is_err());
    }

    #[test]
    fn normalises_each_channel_by_itself() {
        let picture = Picture::new(1, 1, vec![0, 51, 255, 255]).unwrap();
        let pixels = Pixels { mean: [0.5, 0.2, 0.0], std: [0.5, 0.1, 2.0], resize: Resize::Stretch { height: 1, width: 2 } };
        let input = prepare(&picture, &pixels).unwrap();
        assert_eq!(input.shape, [1, 1, 2, 3]);
        let expected = [-1.0, 0.0, 0.5];
        for (found, expected) in input.to_f32().iter().zip([expected, expected].concat()) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn the_size_is_that_of_the_whole_file() {
        // Made smaller by 3 while it was read: 10 × 7 pixels held of 30 × 20, which to the nearest would be another shape.
        let picture = Picture { full_size: [30, 20], ..Picture::new(10, 7, vec![255; 280]).unwrap() };
        let pixels = Pixels { mean: [0.0; 3], std: [1.0; 3], resize: Resize::ShortestSide { short: 100, long: 1000 } };
        assert_eq!(prepare(&picture, &pixels).unwrap().shape, [1, 100, 150, 3]);
    }

    #[test]
    fn a_picture_must_be_whole() {
        assert!(Picture::new(2, 2, vec![0; 15]).is_err());
        assert!(Picture::new(0, 2, vec![]).is_err());
        assert!(Picture::new(usize::MAX, 2, vec![]).is_err());
    }
}
