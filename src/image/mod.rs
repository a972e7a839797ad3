//! Pictures: decoding (native only), and the pre-processing that turns one into the network's input.

#[cfg(not(target_arch = "wasm32"))]
mod decode;
mod prepare;
mod resample;

#[cfg(not(target_arch = "wasm32"))]
pub use decode::open;
pub use prepare::{TYPICAL_PHOTO, prepare, target_size, typical_size};
pub use resample::{PRECISION_BITS, Taps, resize};

use crate::error::{Error, Result};

/// An 8-bit picture, upright: `width * height * 4` bytes RGBA, row by row. Alpha is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub rgba: Vec<u8>,
}

impl Picture {
    /// Refuses bytes that don't fill the picture, and pictures without pixels.
    pub fn new(width: usize, height: usize, rgba: Vec<u8>) -> Result<Self> {
        let picture = Self { width, height, rgba };
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
