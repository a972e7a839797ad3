//! The input size of a checkpoint that keeps its anchors: RT-DETRv2, D-FINE and DEIMv2 register them as a buffer, for the one size that they
//! are evaluated on (`eval_spatial_size`).

use crate::model::anchors;

/// No original is evaluated on a larger side.
const MAX_SIDE: usize = 2048;
/// How far stored anchors may be off on average: where the buffer is a part of a running mean of the weights, it drifts a little.
const TOLERANCE: f64 = 0.02;

/// Height and width for which anchors `[tokens, 4]` (before the sigmoid) on levels of such strides were made.
pub fn input_size(stored: &[f32], strides: &[usize]) -> Option<[usize; 2]> {
    let step = *strides.last()?;
    let tokens = stored.len() / 4;
    let sides = || (step..=MAX_SIDE).step_by(step);
    let levels = |height: usize, width: usize| strides.iter().map(|stride| [height / stride, width / stride]).collect::<Vec<_>>();
    let fitting = sides().flat_map(|height| sides().map(move |width| [height, width]));
    let fitting = fitting.filter(|&[height, width]| levels(height, width).iter().map(|[rows, columns]| rows * columns).sum::<usize>() == tokens);
    let scored = fitting.map(|[height, width]| {
        let made = anchors(&levels(height, width));
        let both = made.logits.iter().zip(stored).filter(|(a, b)| a.abs() < 100.0 && b.is_finite());
        let (sum, count) = both.fold((0.0, 0usize), |(sum, count), (a, b)| (sum + f64::from((a - b).abs()), count + 1));
        (sum / count.max(1) as f64, [height, width])
    });
    scored.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(off, _)| *off < TOLERANCE).map(|(_, size)| size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_tell_the_size_that_they_are_for() {
        for (size, strides) in [
            ([640, 640], &[8, 16, 32][..]),
            ([416, 416], &[16, 32]),
            ([64, 96], &[8, 16, 32]),
            ([96, 64], &[8, 16, 32]),
            ([512, 768], &[8, 16, 32, 64]),
        ] {
            let levels: Vec<[usize; 2]> = strides.iter().map(|s| size.map(|side| side / s)).collect();
            let mut stored = anchors(&levels).logits;
            // As a running mean leaves them.
            stored.iter_mut().for_each(|x| *x = if *x == f32::MAX { f32::INFINITY } else { *x * 1.0002 });
            assert_eq!(input_size(&stored, strides), Some(size));
        }
        assert_eq!(input_size(&[0.5; 4 * 84], &[8, 16, 32]), None);
        assert_eq!(input_size(&[0.5; 12], &[8, 16, 32]), None);
    }
}
