//! Which way up a picture is, by its EXIF data.

use image::metadata::Orientation;

/// What a block of EXIF data says, or a TIFF file, which is built like one. A broken one doesn't make a picture useless.
pub fn orientation(block: &[u8]) -> Orientation {
    // In WebP some programs leave what EXIF data begin with in JPEG.
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    Orientation::from_exif_chunk(block).unwrap_or(Orientation::NoTransforms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_may_begin_as_in_a_jpeg_and_may_be_broken() {
        // One entry: tag 0x112, of one short, 6.
        let block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        assert_eq!(orientation(block), Orientation::Rotate90);
        assert_eq!(orientation(&[b"Exif\0\0", &block[..]].concat()), Orientation::Rotate90);
        for cut in 0..19 {
            assert_eq!(orientation(&block[..cut]), Orientation::NoTransforms, "{cut}");
        }
    }
}
