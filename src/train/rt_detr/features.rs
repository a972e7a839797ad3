//! How far the neck's maps are from a teacher's ("FitNets", Romero et al. 2015, arXiv:1412.6550), as a relative squared error: level by level the
//! squared distance over the teacher's squared norm, so that a small map counts as much as a large one.

use super::grid::ranges;

/// `share` times the error summed over levels, of one image: `own` and `teachers` `[tokens, width]`. Adds the gradient by `own`.
pub fn relative_error(own: &[f32], teachers: &[f32], levels: &[[usize; 2]], width: usize, share: f32, grad: &mut [f32]) -> f32 {
    let mut loss = 0.0;
    for range in ranges(levels) {
        let at = range.start * width..range.end * width;
        let (own, teachers, grad) = (&own[at.clone()], &teachers[at.clone()], &mut grad[at]);
        // In f64: thousands of squares.
        let norm = teachers.iter().map(|x| f64::from(x * x)).sum::<f64>().max(1e-12);
        let by = f64::from(share) / norm;
        let mut distance = 0.0;
        for ((x, y), grad) in own.iter().zip(teachers).zip(grad) {
            let off = x - y;
            distance += f64::from(off * off);
            *grad += (2.0 * by) as f32 * off;
        }
        loss += by * distance;
    }
    loss as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_counts_by_its_own_size() {
        let (levels, teachers) = ([[1, 2], [1, 1]], [3.0, 0.0, 0.0, 4.0, 0.1, 0.0]);
        let own = [0.0, 0.0, 0.0, 0.0, 0.2, 0.0];
        let mut grad = [0.0; 6];
        // All of the first level is missing, the second is twice as large as it should be.
        let loss = relative_error(&own, &teachers, &levels, 2, 0.5, &mut grad);
        assert!((loss - 1.0).abs() < 1e-6, "{loss}");
        for (i, gradient) in grad.iter().enumerate() {
            let moved = |by: f32| {
                let mut own = own;
                own[i] += by;
                relative_error(&own, &teachers, &levels, 2, 0.5, &mut [0.0; 6])
            };
            let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!((slope - gradient).abs() < 1e-3 * gradient.abs().max(1.0), "{i}: {gradient}, {slope}");
        }
        assert_eq!(relative_error(&teachers, &teachers, &levels, 2, 0.5, &mut [0.0; 6]), 0.0);
    }
}
