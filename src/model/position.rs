//! DETR's sine position embedding (`models/position_encoding.py`, `PositionEmbeddingSine` with `normalize=True`).

use super::mask::PixelMask;
use std::f32::consts::TAU;

const TEMPERATURE: f32 = 10_000.0;
const EPSILON: f32 = 1e-6;

/// The embedding `[batch, height * width, d_model]` of each place of a feature map, row by row.
///
/// The first half of the channels tells y, the second half x, each as sines and cosines in turn. Coordinates count
/// the valid places up to this one, divided by their number in the row or column, so padding doesn't stretch them.
pub fn sine_position(mask: &PixelMask, d_model: usize) -> Vec<f32> {
    let (height, width, half) = (mask.height, mask.width, d_model / 2);
    let divisors: Vec<f32> = (0..half).map(|i| TEMPERATURE.powf((2 * (i / 2)) as f32 / half as f32)).collect();
    let mut out = Vec::with_capacity(mask.valid.len() * d_model);
    for picture in mask.valid.chunks(height * width) {
        let count = |places: &mut dyn Iterator<Item = usize>| places.filter(|&place| picture[place]).count() as f32;
        let column = |x: usize, rows: usize| count(&mut (0..rows).map(|y| y * width + x));
        let row = |y: usize, columns: usize| count(&mut (y * width..y * width + columns));
        for y in 0..height {
            for x in 0..width {
                let down = column(x, y + 1) / (column(x, height) + EPSILON) * TAU;
                let along = row(y, x + 1) / (row(y, width) + EPSILON) * TAU;
                for coordinate in [down, along] {
                    out.extend(divisors.iter().enumerate().map(|(i, divisor)| {
                        let angle = coordinate / divisor;
                        if i % 2 == 0 { angle.sin() } else { angle.cos() }
                    }));
                }
            }
        }
    }
    out
}
