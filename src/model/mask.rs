//! Which pixels of a padded batch belong to a picture.

use crate::error::{Error, Result};

/// True where a pixel belongs to the picture, false where it is padding: `[batch, height, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PixelMask {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub valid: Vec<bool>,
}

impl PixelMask {
    /// `valid` `[batch, height, width]`, row-major: whether a pixel belongs to the picture. Fails where its length is another.
    pub fn new(batch: usize, height: usize, width: usize, valid: Vec<bool>) -> Result<Self> {
        if valid.len() != batch * height * width {
            return Err(Error::Config(format!("a pixel mask [{batch}, {height}, {width}] can't have {} values", valid.len())));
        }
        Ok(Self { batch, height, width, valid })
    }

    /// The mask of one picture without padding.
    pub fn full(height: usize, width: usize) -> Self {
        Self { batch: 1, height, width, valid: vec![true; height * width] }
    }

    pub fn is_full(&self) -> bool {
        self.valid.iter().all(|&v| v)
    }

    /// The mask at the resolution of a feature map, by nearest neighbour as PyTorch's `interpolate`.
    pub fn reduce(&self, height: usize, width: usize) -> Self {
        let mut valid = Vec::with_capacity(self.batch * height * width);
        for n in 0..self.batch {
            for y in 0..height {
                let row = (n * self.height + y * self.height / height) * self.width;
                valid.extend((0..width).map(|x| self.valid[row + x * self.width / width]));
            }
        }
        Self { batch: self.batch, height, width, valid }
    }

    /// What attention adds to its scores, `[batch, 1, keys]` row by row: 0 for a valid key, very negative for padding.
    pub fn attention_bias(&self) -> Vec<f32> {
        self.valid.iter().map(|&valid| if valid { 0.0 } else { -1e30 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduces_by_nearest_neighbour() {
        let mut valid = vec![false; 4 * 6];
        for y in 0..2 {
            valid[y * 6..y * 6 + 4].fill(true);
        }
        let mask = PixelMask::new(1, 4, 6, valid).unwrap().reduce(2, 3);
        assert_eq!(mask.valid, [true, true, false, false, false, false]);
    }

    #[test]
    fn a_mask_must_fill_its_shape() {
        assert!(PixelMask::new(1, 2, 2, vec![true; 3]).is_err());
    }
}
