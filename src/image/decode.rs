//! Decodes picture files as Pillow's `convert("RGB")` and browsers see them, but on white where they are transparent, and turns photos upright.

use super::Picture;
use super::assemble::{Assembly, MAX_HELD, out_of_memory};
use super::complete::is_complete;
use super::exif;
use super::formats::recognise;
use crate::error::{Error, Result};
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbaImage};
use png::{DecodingError, Transformations};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Mutex;

/// More pixels than that, 16,384 × 16,384, are taken for a decompression bomb. Phones take photos of 200 million.
pub const MAX_FILE_PIXELS: u64 = 1 << 28;
/// Larger files are no photos; that is what an uncompressed one of [`MAX_FILE_PIXELS`] takes.
const MAX_BYTES: u64 = 1 << 30;
/// How much of a file tells its format.
const START: u64 = 256;

/// Pictures of more pixels than are held are decoded one at a time: most decoders need memory for all of them.
static LARGE: Mutex<()> = Mutex::new(());

/// Reads a picture file: the format is told by its content, the EXIF orientation is applied, what is transparent is white. Of an animation it is the
/// first frame. A file of more than 64 Mi pixels is made smaller while it is read ([`Picture::full_size`]).
pub fn open(path: &Path) -> Result<Picture> {
    read(path).map_err(|problem| Error::Image(format!("{}: {problem}", path.display())))
}

fn read(path: &Path) -> Result<Picture, String> {
    let in_words = |error: std::io::Error| error.to_string();
    let file = File::open(path).map_err(in_words)?;
    // Directories open like files on some systems and fail only when read.
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("is a directory, not a picture".into());
    }
    // A pipe's content can be read once.
    let mut bytes = Vec::new();
    (&file).take(START).read_to_end(&mut bytes).map_err(in_words)?;
    let format = recognise(&bytes)?;
    (&file).take(MAX_BYTES + 1 - bytes.len() as u64).read_to_end(&mut bytes).map_err(in_words)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("has more than 1 GiB, which is no photo".into());
    }
    let picture = decode(format, &bytes)?;
    picture.check().map_err(|error| error.to_string())?;
    Ok(picture)
}

fn decode(format: ImageFormat, file: &[u8]) -> Result<Picture, String> {
    if !is_complete(format, file) {
        return Err(cut_off());
    }
    let (picture, metadata) = if format == ImageFormat::Png { decode_png(file)? } else { decode_whole(format, file)? };
    let metadata = if format == ImageFormat::Tiff { file } else { metadata.as_deref().unwrap_or_default() };
    Ok(turn(picture, exif::orientation(metadata)))
}

/// Row by row, whatever the number of pixels.
fn decode_png(file: &[u8]) -> Result<(Picture, Option<Vec<u8>>), String> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), png::Limits { bytes: MAX_BYTES as usize });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let (width, height) = decoder.read_header_info().map_err(png_in_words)?.size();
    let (mut assembly, _turn) = begin(width, height, 0)?;
    let mut reader = decoder.read_info().map_err(png_in_words)?;
    if reader.info().interlaced {
        let mut bytes = room(reader.output_buffer_size().unwrap_or(usize::MAX), [width, height])?;
        reader.next_frame(&mut bytes).map_err(png_in_words)?;
        bytes.chunks_exact(bytes.len() / height as usize).for_each(|row| assembly.push(row));
    } else {
        let mut row = room(reader.output_line_size(width).unwrap_or(usize::MAX), [width, height])?;
        for _ in 0..height {
            reader.read_row(&mut row).map_err(png_in_words)?;
            assembly.push(&row);
        }
    }
    // What comes after the pixels may tell which way up they are; that they are all there is told by its end alone.
    // Whatever else is wrong there, the picture isn't.
    if let Err(error @ DecodingError::IoError(_)) = reader.finish() {
        return Err(png_in_words(error));
    }
    let metadata = reader.info().exif_metadata.as_ref().map(|block| block.to_vec());
    Ok((assembly.finish(), metadata))
}

/// All at once.
fn decode_whole(format: ImageFormat, file: &[u8]) -> Result<(Picture, Option<Vec<u8>>), String> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 * MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(in_words)?;
    let (width, height) = decoder.dimensions();
    let metadata = decoder.exif_metadata().unwrap_or_default();
    let color = decoder.color_type();
    let bytes = decoder.total_bytes();
    if bytes > MAX_BYTES {
        return Err(too_large(width, height));
    }
    // Beside its result a decoder holds coefficients or planes, of at most six bytes a pixel.
    let (mut assembly, _turn) = begin(width, height, 6)?;
    let mut pixels = room(bytes as usize, [width, height])?;
    decoder.read_image(&mut pixels).map_err(in_words)?;
    for row in pixels.chunks_exact(pixels.len() / height as usize) {
        assembly.push(&to_8_bits(row, color));
    }
    Ok((assembly.finish(), metadata))
}

/// Room for a picture, unless it has too many pixels, or there isn't the memory for `beside` bytes a pixel more. Large pictures take turns.
fn begin(width: u32, height: u32, beside: usize) -> Result<(Assembly, Option<std::sync::MutexGuard<'static, ()>>), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_FILE_PIXELS {
        return Err(too_large(width, height));
    }
    if pixels == 0 {
        return Err(format!("{width}×{height} pixels hold nothing to detect"));
    }
    let turn = (pixels > MAX_HELD as u64).then(|| LARGE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    let size = [width as usize, height as usize];
    // A decoder that finds no memory ends the program, and so it is asked for beforehand.
    drop(room(pixels as usize * beside, [width, height])?);
    Ok((Assembly::new(size)?, turn))
}

fn room(bytes: usize, [width, height]: [u32; 2]) -> Result<Vec<u8>, String> {
    let mut room = Vec::new();
    room.try_reserve_exact(bytes).map_err(|_| out_of_memory([width as usize, height as usize]))?;
    room.resize(bytes, 0);
    Ok(room)
}

fn too_large(width: u32, height: u32) -> String {
    format!("{width}×{height} pixels are more than detrim decodes ({MAX_FILE_PIXELS}, as 16384×16384): make the picture smaller first")
}

/// What has more than eight bits a channel (some TIFFs) as bytes.
fn to_8_bits(row: &[u8], color: ColorType) -> std::borrow::Cow<'_, [u8]> {
    let halves = || row.as_chunks().0.iter().map(|&bytes| (u16::from_ne_bytes(bytes) >> 8) as u8);
    let floats = || row.as_chunks().0.iter().map(|&bytes| (f32::from_ne_bytes(bytes).clamp(0.0, 1.0) * 255.0).round() as u8);
    match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => halves().collect(),
        ColorType::Rgb32F | ColorType::Rgba32F => floats().collect(),
        _ => row.into(),
    }
}

fn turn(picture: Picture, orientation: image::metadata::Orientation) -> Picture {
    use image::metadata::Orientation::*;
    if orientation == NoTransforms {
        return picture;
    }
    let Picture { width, height, rgba, full_size: [across, down] } = picture;
    let lying = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let Some(image) = RgbaImage::from_raw(width as u32, height as u32, rgba) else {
        // Rows were missing, which the caller tells.
        return Picture { width, height, rgba: vec![], full_size: [across, down] };
    };
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    let full_size = if lying { [down, across] } else { [across, down] };
    Picture { width: image.width() as usize, height: image.height() as usize, rgba: image.into_rgba8().into_raw(), full_size }
}

fn png_in_words(error: DecodingError) -> String {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => cut_off(),
        DecodingError::LimitsExceeded => "needs more memory to decode than a photo does".into(),
        error => format!("can't be decoded: {error}"),
    }
}

fn in_words(error: ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => cut_off(),
        ImageError::Unsupported(error) => format!("holds what is not supported ({error}): convert it to JPEG, PNG or WebP first"),
        ImageError::Limits(_) => "needs more memory to decode than a photo does".into(),
        error => format!("can't be decoded: {error}"),
    }
}

fn cut_off() -> String {
    "is cut off: its end is missing (was it downloaded or copied only in part?)".into()
}
