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

/// RT-DETR's embedding `[height * width, width of a token]` of each place, row by row: sines then cosines of the row, then of the column,
/// counted in places (transformers' `build_2d_sinusoidal_position_embedding`).
pub fn grid_position(height: usize, width: usize, channels: usize, temperature: f32) -> Vec<f32> {
    let quarter = channels / 4;
    let frequencies: Vec<f64> = (0..quarter).map(|i| f64::from(temperature).powf(-(i as f64) / quarter as f64)).collect();
    let mut out = Vec::with_capacity(height * width * channels);
    for y in 0..height {
        for x in 0..width {
            for coordinate in [y as f64, x as f64] {
                out.extend(frequencies.iter().map(|frequency| (coordinate * frequency).sin() as f32));
                out.extend(frequencies.iter().map(|frequency| (coordinate * frequency).cos() as f32));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((f - e).abs() < 2e-6, "number {i} is {f}, expected {e}");
        }
    }

    // transformers 5.23:
    // mask = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0]]]).bool()
    // embed = DetrSinePositionEmbedding(4, normalize=True)
    // embed(torch.Size([2, 8, 2, 3]), "cpu", torch.float32, mask=mask).flatten(2).transpose(1, 2)
    #[test]
    fn padding_is_not_counted() {
        let valid = [1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0].map(|valid| valid == 1).to_vec();
        let found = sine_position(&PixelMask::new(2, 2, 3, valid).unwrap(), 8);
        let nothing = [0.0, 1.0, 0.0, 1.0];
        let half = [0.0000013, -1.0, 0.0314107, 0.9995065];
        let whole = [-0.0000027, 1.0, 0.0627905, 0.9980267];
        let third = [0.8660257, -0.4999994, 0.0209424, 0.9997807];
        let two_thirds = [-0.8660247, -0.5000011, 0.0418756, 0.9991228];
        // A row or column that holds one place only is more sensitive to the epsilon.
        let one = [-0.000006, 1.0, 0.0627905, 0.9980267];
        let three = [-0.0000017, 1.0, 0.0627905, 0.9980267];
        let expected = [
            [half, half],
            [half, whole],
            [nothing, whole],
            [whole, half],
            [whole, whole],
            [nothing, whole],
            [one, third],
            [one, two_thirds],
            [one, three],
            [one, nothing],
            [one, nothing],
            [one, nothing],
        ];
        check(&found, expected.as_flattened().as_flattened());
    }

    // DetrSinePositionEmbedding(6, normalize=True)(torch.Size([1, 12, 1, 2]), "cpu", torch.float32, mask=torch.ones(1, 1, 2).bool())
    #[test]
    fn channels_are_sines_and_cosines_of_ever_slower_waves() {
        let found = sine_position(&PixelMask::full(1, 2), 12);
        let y = [-0.000006, 1.0, 0.2875227, 0.9577738, 0.0135363, 0.9999084];
        let first = [0.0000013, -1.0, 0.1453035, 0.9893872, 0.0067683, 0.9999771];
        let second = [-0.0000027, 1.0, 0.2875229, 0.9577738, 0.0135363, 0.9999084];
        check(&found, [y, first, y, second].as_flattened());
    }
}
