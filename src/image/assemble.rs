//! Puts a picture together from its rows as they are decoded, so that a file of very many pixels needs no memory for all of them: it is
//! made smaller by whole factors meanwhile, each pixel being the mean of those it stands for, as Pillow's `Image.reduce` does.

use super::{Picture, on_white};

/// What a [`Picture`] holds of a file at most: 64 Mi pixels, 256 MiB; far more than any network is given.
pub const MAX_HELD: usize = 1 << 26;
/// The longest side that a [`Picture`] of a file has; longer ones are of files that are thin as a thread.
const MAX_SIDE: usize = 1 << 16;

/// A picture that waits for its rows.
pub struct Assembly {
    full_size: [usize; 2],
    /// How many pixels across and down one pixel stands for.
    factors: [usize; 2],
    rgba: Vec<u8>,
    /// Of the pixels of the last row as far as they have come, three channels each.
    sums: Vec<u32>,
    rows: usize,
}

impl Assembly {
    /// For a file of this width and height. It is an error if there isn't the memory.
    pub fn new(full_size: [usize; 2]) -> Result<Self, String> {
        let factors = factors(full_size);
        let [width, height] = [0, 1].map(|side| full_size[side].div_ceil(factors[side]));
        let mut rgba = Vec::new();
        rgba.try_reserve_exact(width * height * 4).map_err(|_| out_of_memory(full_size))?;
        let sums = if factors == [1, 1] { Vec::new() } else { vec![0; width * 3] };
        Ok(Self { full_size, factors, rgba, sums, rows: 0 })
    }

    /// Takes the next row: of each pixel one byte (grey), two (grey, alpha), three (RGB) or four (RGBA).
    pub fn push(&mut self, row: &[u8]) {
        match row.len() / self.full_size[0] {
            1 => self.take(row.iter().map(|&v| [v, v, v, 255])),
            2 => self.take(row.as_chunks().0.iter().map(|&[v, alpha]| on_white([v, v, v, alpha]))),
            3 => self.take(row.as_chunks().0.iter().map(|&[r, g, b]| [r, g, b, 255])),
            _ => self.take(row.as_chunks().0.iter().map(|&pixel| if pixel[3] == 255 { pixel } else { on_white(pixel) })),
        }
    }

    fn take(&mut self, pixels: impl Iterator<Item = [u8; 4]>) {
        self.rows += 1;
        if self.factors == [1, 1] {
            let start = self.rgba.len();
            self.rgba.resize(start + self.full_size[0] * 4, 255);
            self.rgba[start..].as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(to, from)| *to = from);
            return;
        }
        let [across, down] = self.factors;
        for (column, [r, g, b, _]) in pixels.enumerate() {
            let sums = &mut self.sums[column / across * 3..][..3];
            sums.iter_mut().zip([r, g, b]).for_each(|(sum, value)| *sum += u32::from(value));
        }
        if self.rows.is_multiple_of(down) || self.rows == self.full_size[1] {
            self.end_row(self.full_size[0], [across, (self.rows - 1) % down + 1]);
        }
    }

    /// Means of the sums, of which the last one may be of fewer columns.
    fn end_row(&mut self, width: usize, [across, down]: [usize; 2]) {
        for (column, sums) in self.sums.chunks_exact(3).enumerate() {
            let count = (across.min(width - column * across) * down) as u32;
            let [r, g, b] = [0, 1, 2].map(|channel| ((sums[channel] + count / 2) / count) as u8);
            self.rgba.extend([r, g, b, 255]);
        }
        self.sums.fill(0);
    }

    /// The picture; its bytes don't fill it where rows were missing, which [`Picture::check`] tells.
    pub fn finish(self) -> Picture {
        let [width, height] = [0, 1].map(|side| self.full_size[side].div_ceil(self.factors[side]));
        Picture { width, height, rgba: self.rgba, full_size: self.full_size }
    }
}

/// By how much the sides of a picture are divided: by the same as long as both are long enough.
fn factors([width, height]: [usize; 2]) -> [usize; 2] {
    let [mut across, mut down] = [width, height].map(|side| side.div_ceil(MAX_SIDE));
    while width.div_ceil(across) * height.div_ceil(down) > MAX_HELD {
        across += 1;
        down += 1;
    }
    [across, down]
}

pub fn out_of_memory([width, height]: [usize; 2]) -> String {
    format!("{width}×{height} pixels need more memory than there is: make the picture smaller first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_as_small_as_what_is_held_allows() {
        for (size, expected) in [
            ([4000, 3000], [1, 1]),
            ([8192, 8192], [1, 1]),
            ([8193, 8192], [2, 2]),
            ([16384, 16384], [2, 2]),
            ([1, 178_956_970], [1, 2731]),
            ([1 << 28, 1], [4096, 1]),
            ([65536, 4096], [2, 2]),
        ] {
            assert_eq!(factors(size), expected, "{size:?}");
        }
    }

    #[test]
    fn pixels_are_means_of_those_they_stand_for() {
        let mut assembly = Assembly { full_size: [3, 3], factors: [2, 2], rgba: vec![], sums: vec![0; 6], rows: 0 };
        // Grey with alpha, the last one transparent.
        for row in [[10, 255, 20, 255, 30, 255], [40, 255, 50, 255, 61, 255], [70, 255, 81, 255, 90, 0]] {
            assembly.push(&row);
        }
        let picture = assembly.finish();
        assert_eq!((picture.width, picture.height, picture.full_size), (2, 2, [3, 3]));
        let greys: Vec<u8> = picture.rgba.chunks(4).map(|pixel| pixel[0]).collect();
        assert_eq!(greys, [30, 46, 76, 255]);
        picture.check().unwrap();
    }
}
