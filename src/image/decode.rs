//! Decodes JPEG, PNG and WebP as Pillow's `convert("RGB")` sees them, and turns photos upright.

use super::Picture;
use crate::error::{Error, Result};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// More pixels than that are taken for a decompression bomb, as by Pillow.
const MOST_PIXELS: u64 = 178_956_970;

/// Reads a picture file: the format is told by its content, the EXIF orientation is applied, alpha is ignored.
pub fn open(path: &Path) -> Result<Picture> {
    let named = |problem: String| Error::Image(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(|error| named(error.to_string()))?;
    // Directories open like files on some systems and fail only when read.
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(named("is a directory, not a picture".into())),
        _ => decode(BufReader::new(file)).map_err(named),
    }
}

fn decode(mut file: BufReader<File>) -> Result<Picture, String> {
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).and_then(|_| file.seek(SeekFrom::Start(0))).map_err(|error| error.to_string())?;
    if start.is_empty() {
        return Err("is empty".into());
    }
    if image::guess_format(&start).is_err() {
        return Err(unknown_format(&start));
    }
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    // The largest that any decoder makes of the pixels allowed: four channels of 16 bits.
    limits.max_alloc = Some(MOST_PIXELS * 8);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(in_words)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!("{width}×{height} pixels are more than a photo has ({MOST_PIXELS} at most)"));
    }
    // A broken EXIF block doesn't make a picture useless.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(in_words)?;
    image.apply_orientation(orientation);
    let rgba = image.into_rgba8();
    Picture::new(rgba.width() as usize, rgba.height() as usize, rgba.into_raw()).map_err(|error| error.to_string())
}

fn in_words(error: ImageError) -> String {
    match error {
        ImageError::Unsupported(error) => format!("holds what is not supported: {error}"),
        ImageError::Limits(_) => "is larger than a photo can be".into(),
        error => format!("can't be decoded: {error}"),
    }
}

/// What to say of a file that is none of the three formats, by its first bytes.
fn unknown_format(start: &[u8]) -> String {
    let is = |magic: &[u8], at: usize| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let known = if is(b"ftypheic", 4) || is(b"ftypheix", 4) || is(b"ftypmif1", 4) {
        "a HEIC photo"
    } else if is(b"ftypavif", 4) {
        "an AVIF picture"
    } else if is(b"GIF8", 0) {
        "a GIF"
    } else if is(b"BM", 0) {
        "a BMP"
    } else if is(b"II*\0", 0) || is(b"MM\0*", 0) {
        "a TIFF"
    } else {
        return "is not a JPEG, PNG or WebP picture".into();
    };
    format!("is {known}: convert it to JPEG, PNG or WebP first")
}
