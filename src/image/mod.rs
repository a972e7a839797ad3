//! Pictures: decoding (native only), and the pre-processing that turns one into the network's input.

#[cfg(not(target_arch = "wasm32"))]
mod assemble;
#[cfg(not(target_arch = "wasm32"))]
mod complete;
#[cfg(not(target_arch = "wasm32"))]
mod decode;
#[cfg(not(target_arch = "wasm32"))]
mod exif;
#[cfg(not(target_arch = "wasm32"))]
mod formats;
mod prepare;
mod resample;

#[cfg(not(target_arch = "wasm32"))]
pub use decode::{MAX_FILE_PIXELS, open};
#[cfg(not(target_arch = "wasm32"))]
pub use formats::{CONVERTIBLE_EXTENSIONS, EXTENSIONS};
pub use prepare::{TYPICAL_PHOTO, prepare, target_size, typical_size};
pub use resample::{PRECISION_BITS, Taps, resize};

use crate::error::{Error, Result};

/// An 8-bit picture, upright and on white: `width * height * 4` bytes RGBA, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    /// The fourth of each pixel's bytes counts for nothing: [`Picture::new`] has put what is transparent on white.
    pub rgba: Vec<u8>,
    /// Width and height as the file has them, upright: more than are held here where the file has more than [`open`] keeps.
    /// Boxes are in these pixels.
    pub full_size: [usize; 2],
}

impl Picture {
    /// Refuses bytes that don't fill the picture, and pictures without pixels. Alpha isn't premultiplied; what is transparent is put on white.
    pub fn new(width: usize, height: usize, mut rgba: Vec<u8>) -> Result<Self> {
        rgba.as_chunks_mut::<4>().0.iter_mut().filter(|[.., alpha]| *alpha < 255).for_each(|pixel| *pixel = on_white(*pixel));
        let picture = Self { width, height, rgba, full_size: [width, height] };
        picture.check()?;
        Ok(picture)
    }

    /// Whether there are pixels, and as many as width and height say.
    pub fn check(&self) -> Result<()> {
        let (width, height, found) = (self.width, self.height, self.rgba.len());
        if width == 0 || height == 0 {
            return Err(Error::Image(format!("a picture of {width}×{height} pixels holds nothing to detect")));
        }
        match width.checked_mul(height).and_then(|pixels| pixels.checked_mul(4)) {
            Some(expected) if expected == found => Ok(()),
            _ => Err(Error::Image(format!("a picture of {width}×{height} pixels needs 4 bytes for each, but has {found} bytes"))),
        }
    }
}

/// A pixel on white paper, to the nearest number: what Pillow's `paste` with the alpha as its mask gives, and a canvas that was filled with white.
fn on_white([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    let alpha = u32::from(alpha);
    let blend = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
    [blend(r), blend(g), blend(b), 255]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_transparent_shows_white() {
        let picture = Picture::new(4, 1, vec![9, 80, 200, 255, 9, 80, 200, 0, 0, 100, 255, 128, 10, 0, 255, 254]).unwrap();
        // Pillow: Image.new("RGB", size, "white").paste(rgba, mask=rgba.getchannel("A"))
        assert_eq!(picture.rgba, [9, 80, 200, 255, 255, 255, 255, 255, 127, 177, 255, 255, 11, 1, 255, 255]);
    }
}
