//! Pictures: decoding (native only), and the pre-processing that turns one into the network's input.

/// An 8-bit picture, upright: `width * height * 4` bytes RGBA, row by row. Alpha is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub rgba: Vec<u8>,
}
