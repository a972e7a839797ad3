//! Which files are pictures, by name and by content; and what to say of a file that can't be decoded, so that its owner knows what to do.

use image::ImageFormat;

/// What the names of the files end with that [`open`](super::open) decodes, in small letters.
pub const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// What the names of pictures end with that have to be converted first: their decoders are large libraries in C.
pub const CONVERTIBLE_EXTENSIONS: [&str; 18] =
    ["heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "psd", "svg", "ico", "tga", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2"];

/// The format of a file's first bytes, or what is wrong with them.
pub fn recognise(start: &[u8]) -> Result<ImageFormat, String> {
    if start.is_empty() {
        return Err("is empty".into());
    }
    match image::guess_format(start) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::Tiff)) => {
            Ok(format)
        }
        _ => Err(unreadable(start)),
    }
}

/// A sentence's end on a file that is none of the formats, by its first bytes.
fn unreadable(start: &[u8]) -> String {
    let is = |magic: &[u8], at: usize| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let text = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let convert = |what: &str| format!("is {what}: convert it to JPEG, PNG or WebP first");
    if is(b"ftyp", 4) {
        return convert(container(start));
    }
    if is(b"\x00\x05\x16\x07", 0) {
        return "is what macOS keeps beside a file on other disks (AppleDouble), not a picture: the file without ._ in front of its name is".into();
    }
    if text.starts_with("version https://git-lfs") {
        return "is a Git LFS pointer in place of the picture: run `git lfs pull` in its repository".into();
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return "is a web page, not a picture: download the picture itself".into();
    }
    let known = if is(b"\xff\x0a", 0) || is(b"JXL ", 4) {
        "a JPEG XL picture"
    } else if is(b"jP  ", 4) || is(b"\xff\x4f\xff\x51", 0) {
        "a JPEG 2000 picture"
    } else if is(b"8BPS", 0) {
        "a Photoshop file"
    } else if text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) {
        "an SVG drawing"
    } else if is(b"\0\0\x01\0", 0) {
        "an icon (ICO)"
    } else if is(b"%PDF", 0) {
        "a PDF document"
    } else if is(b"DDS ", 0) || is(b"\x76\x2f\x31\x01", 0) || is(b"qoif", 0) || is(b"#?RADIANCE", 0) || is(b"farbfeld", 0) {
        "in a format of renderers and games"
    } else if is(b"P", 0) && start.get(1).is_some_and(|kind| (b'1'..=b'7').contains(kind)) && start.get(2).is_some_and(u8::is_ascii_whitespace) {
        "a Netpbm picture"
    } else {
        return "is not a JPEG, PNG, WebP, GIF, BMP or TIFF picture".into();
    };
    convert(known)
}

/// What is in an ISO media file, by its brands: the major one, then those that it is compatible with.
fn container(start: &[u8]) -> &'static str {
    let brands = start.get(8..12).into_iter().chain(start.get(16..).unwrap_or_default().chunks_exact(4));
    for brand in brands {
        match brand {
            b"avif" | b"avis" => return "an AVIF picture",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => return "a HEIC photo",
            b"crx " => return "a camera's raw file",
            b"isom" | b"iso2" | b"mp41" | b"mp42" | b"qt  " | b"M4V " => return "a video, of which single frames can be detected in",
            _ => {}
        }
    }
    "a HEIF picture"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        for (start, format) in [
            (&b"\xff\xd8\xff\xe0"[..], ImageFormat::Jpeg),
            (b"\x89PNG\r\n\x1a\n", ImageFormat::Png),
            (b"RIFF\0\0\0\0WEBP", ImageFormat::WebP),
            (b"GIF89a", ImageFormat::Gif),
            (b"BM", ImageFormat::Bmp),
            (b"II*\0", ImageFormat::Tiff),
            (b"MM\0*", ImageFormat::Tiff),
        ] {
            assert_eq!(recognise(start), Ok(format));
        }
        for (start, what) in [
            (&b""[..], "is empty"),
            (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "is an AVIF picture: convert it to JPEG, PNG or WebP first"),
            (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "is a HEIC photo: convert"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "is a HEIC photo: convert"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "is an AVIF picture: convert"),
            (b"\0\0\0\x1cftypmif1", "is a HEIF picture: convert"),
            (b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2", "is a video"),
            (b"\0\0\0\x0cJXL \r\n", "is a JPEG XL picture: convert"),
            (b"\0\0\0\x0cjP  \r\n", "is a JPEG 2000 picture: convert"),
            (b"<?xml version='1.0'?>\n<svg", "is an SVG drawing: convert"),
            (b"\0\0\x01\0\x01\0", "is an icon (ICO): convert"),
            (b"qoif\0\0\0\x01", "is in a format of renderers and games: convert"),
            (b"P6\n10 10", "is a Netpbm picture: convert"),
            (b"\x00\x05\x16\x07\x00\x02", "AppleDouble"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (b"\xef\xbb\xbf\n<!DOCTYPE html>", "is a web page"),
            (b"Pictures of cats", "is not a JPEG, PNG, WebP, GIF, BMP or TIFF picture"),
        ] {
            let problem = recognise(start).unwrap_err();
            assert!(problem.contains(what), "{start:?}: {problem}");
        }
    }
}
