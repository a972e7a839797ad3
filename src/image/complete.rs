//! Whether a file ends where its picture does. A download that broke off leaves the first part of a file, which some decoders take for a
//! picture with a grey rest; Pillow and browsers refuse it.

use image::ImageFormat;

/// Whether the file holds all that it says it holds, as far as its structure tells: the decoders of the other formats tell by themselves.
pub fn is_complete(format: ImageFormat, file: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_ends(file),
        // The bytes after the first eight (RIFF specification, "chunk size").
        ImageFormat::WebP => {
            file.get(4..8).and_then(|size| size.try_into().ok()).is_some_and(|size| u64::from(u32::from_le_bytes(size)) + 8 <= file.len() as u64)
        }
        _ => true,
    }
}

/// Whether a JPEG file has its end-of-image marker (ITU-T T.81, annex B). A progressive one holds several scans before it; a thumbnail's own end,
/// within a segment, is passed over with the segment.
fn jpeg_ends(file: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 2;
    while let Some(before) = file.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += before + 1;
        match file.get(at) {
            Some(&END) => return true,
            // Another 0xff fills up.
            Some(0xff) => {}
            // A byte 0xff among the pixels' data, and the markers without a length: TEM, the restarts, start of image.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => match file.get(at + 1..at + 3) {
                Some(&[high, low]) => at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_ends_with_its_marker_and_not_with_a_thumbnail_s() {
        let start = [0xff, 0xd8];
        let thumbnail = [0xff, 0xe1, 0, 8, 0xff, 0xd8, 9, 9, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0, 4, 1, 1, 7, 0xff, 0, 7, 0xff, 0xd3, 7, 7];
        let end = [0xff, 0xff, 0xd9];
        let whole = [&start[..], &thumbnail, &scan, &scan, &end].concat();
        assert!(is_complete(ImageFormat::Jpeg, &whole));
        assert!(is_complete(ImageFormat::Jpeg, &[&whole[..], b"whatever"].concat()));
        for cut in 0..whole.len() {
            assert!(!is_complete(ImageFormat::Jpeg, &whole[..cut]), "{cut}");
        }
    }
}
