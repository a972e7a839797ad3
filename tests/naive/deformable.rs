//! Multi-scale deformable attention, a point and a channel at a time.

use super::{Tensor, softmax};
use detrim::backend::{Deformable, SamplingMethod};

pub fn attention(value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Tensor {
    let Deformable { heads, levels, points, offset_scale, method } = deformable;
    let (batch, queries, row) = (value.shape[0], offsets.shape[1], value.shape[2]);
    let (all_points, width) = (deformable.all_points(), row / heads);
    assert_eq!(value.shape, [batch, deformable.tokens(), heads * width]);
    assert_eq!(offsets.shape, [batch, queries, heads * all_points * 2]);
    assert_eq!(weights.shape, [batch, queries, heads * all_points]);
    assert_eq!(boxes.shape, [batch, queries, 4]);
    let mut out = Vec::new();
    for query in 0..batch * queries {
        let [center_x, center_y, box_width, box_height] = [0, 1, 2, 3].map(|i| boxes.at(query * 4 + i));
        for head in 0..*heads {
            let first = (query * heads + head) * all_points;
            let weights = softmax(&(0..all_points).map(|point| weights.at(first + point)).collect::<Vec<_>>());
            let mut sums = vec![0.0; width];
            let (mut point, mut token) = (0, query / queries * deformable.tokens());
            for (&[height, columns], &count) in levels.iter().zip(points) {
                for _ in 0..count {
                    let offset = |i: usize| offsets.at((first + point) * 2 + i) / count as f64 * f64::from(*offset_scale);
                    let location = [center_x + offset(0) * box_width, center_y + offset(1) * box_height];
                    for (channel, sum) in sums.iter_mut().enumerate() {
                        let at = |x: usize, y: usize| value.at((token + y * columns + x) * row + head * width + channel);
                        *sum += weights[point] * sample(*method, [columns, height], location, at);
                    }
                    point += 1;
                }
                token += height * columns;
            }
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
    }
    Tensor::new(&[batch, queries, row], out)
}

/// The value of a map of `size` (width, height) at a location in fractions of it.
fn sample(method: SamplingMethod, size: [usize; 2], location: [f64; 2], at: impl Fn(usize, usize) -> f64) -> f64 {
    match method {
        SamplingMethod::Discrete => {
            // Towards zero instead of down makes no difference within the map.
            let [x, y] = [0, 1].map(|i| ((location[i] * size[i] as f64 + 0.5) as usize).min(size[i] - 1));
            at(x, y)
        }
        SamplingMethod::Default => {
            let [x, y] = [0, 1].map(|i| location[i] * size[i] as f64 - 0.5);
            let mut sum = 0.0;
            for row in [y.floor(), y.floor() + 1.0] {
                for column in [x.floor(), x.floor() + 1.0] {
                    if row >= 0.0 && row < size[1] as f64 && column >= 0.0 && column < size[0] as f64 {
                        sum += (1.0 - (x - column).abs()) * (1.0 - (y - row).abs()) * at(column as usize, row as usize);
                    }
                }
            }
            sum
        }
    }
}
