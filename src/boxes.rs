//! How well two boxes agree, and how that changes with the first of them.
//!
//! Boxes are (centre x, centre y, width, height), in any one unit. IoU, and generalised IoU of Rezatofighi et al. 2019
//! (arXiv:1902.09630): IoU less the share of the smallest enclosing box that neither box fills. Sums are in f64: the
//! differences of nearly equal edges, over areas of a millionth, would leave few digits of an f32.

/// Areas below this count as this: boxes without an area then agree with nothing, and gradients stay finite.
const LEAST_AREA: f64 = 1e-12;

/// What the two boxes cover along one axis.
struct Axis {
    /// The extent common to both, and its derivative by the first box's centre and by its size.
    shared: f64,
    shared_by: [f64; 2],
    /// The extent of both with what is between them, likewise.
    hull: f64,
    hull_by: [f64; 2],
}

impl Axis {
    fn new(a: [f32; 4], b: [f32; 4], axis: usize) -> Self {
        let ends = |of: [f32; 4]| {
            let (centre, half) = (f64::from(of[axis]), f64::from(of[axis + 2]) / 2.0);
            (centre - half, centre + half)
        };
        let ((low, high), (other_low, other_high)) = (ends(a), ends(b));
        let step = |moves: bool| if moves { 1.0 } else { 0.0 };
        // Derivatives by the low and by the high end, told in terms of the centre and the size.
        let by = |low: f64, high: f64| [low + high, (high - low) / 2.0];
        let shared = high.min(other_high) - low.max(other_low);
        let meets = shared > 0.0;
        Self {
            shared: shared.max(0.0),
            shared_by: by(-step(meets && low > other_low), step(meets && high < other_high)),
            hull: high.max(other_high) - low.min(other_low),
            hull_by: by(-step(low < other_low), step(high > other_high)),
        }
    }
}

fn area(of: [f32; 4]) -> f64 {
    f64::from(of[2]) * f64::from(of[3])
}

/// The area common to both.
fn shared(a: [f32; 4], b: [f32; 4]) -> f64 {
    Axis::new(a, b, 0).shared * Axis::new(a, b, 1).shared
}

/// Intersection over union, 0..1.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let shared = shared(a, b);
    (shared / (area(a) + area(b) - shared).max(LEAST_AREA)) as f32
}

/// Which part of `a` lies in `b`, 0..1.
pub fn part_inside(a: [f32; 4], b: [f32; 4]) -> f32 {
    (shared(a, b) / area(a).max(LEAST_AREA)) as f32
}

/// Generalised intersection over union, -1..1.
pub fn giou(a: [f32; 4], b: [f32; 4]) -> f32 {
    giou_with_gradient(a, b).0
}

/// [`giou`], and its derivative by each number of `a`.
// Inlined, so that `giou` doesn't pay for the gradient: matching asks for thousands.
#[inline(always)]
pub fn giou_with_gradient(a: [f32; 4], b: [f32; 4]) -> (f32, [f32; 4]) {
    let axes = [Axis::new(a, b, 0), Axis::new(a, b, 1)];
    let shared = axes[0].shared * axes[1].shared;
    let (union, union_moves) = at_least(area(a) + area(b) - shared);
    let (hull, hull_moves) = at_least(axes[0].hull * axes[1].hull);

    let gradient = std::array::from_fn(|i| {
        let (axis, what) = (i % 2, i / 2);
        let across = &axes[1 - axis];
        let shared_by = axes[axis].shared_by[what] * across.shared;
        let area_by = if what == 1 { f64::from(a[3 - axis]) } else { 0.0 };
        let union_by = union_moves * (area_by - shared_by);
        let hull_by = hull_moves * axes[axis].hull_by[what] * across.hull;
        (shared_by / union - shared * union_by / (union * union) + union_by / hull - union * hull_by / (hull * hull)) as f32
    });
    ((shared / union + union / hull - 1.0) as f32, gradient)
}

/// An area that can be divided by, and its derivative by the area.
fn at_least(area: f64) -> (f64, f64) {
    if area > LEAST_AREA { (area, 1.0) } else { (LEAST_AREA, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_of_known_boxes() {
        let unit = [0.5, 0.5, 1.0, 1.0];
        assert_eq!((iou(unit, unit), giou(unit, unit)), (1.0, 1.0));
        // Halves overlap: 0.5 of 1.5.
        let right = [1.0, 0.5, 1.0, 1.0];
        assert!((iou(unit, right) - 1.0 / 3.0).abs() < 1e-6);
        assert!((giou(unit, right) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(part_inside(unit, right), 0.5);
        assert_eq!(part_inside([0.5, 0.5, 0.1, 0.1], unit), 1.0);
        // Two unit boxes a unit apart: a third of the hull is empty.
        let apart = [2.5, 0.5, 1.0, 1.0];
        assert_eq!(iou(unit, apart), 0.0);
        assert!((giou(unit, apart) + 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn gradient_is_the_finite_difference() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let mut any = || [rng.f32(), rng.f32(), 0.05 + rng.f32(), 0.05 + rng.f32()];
            let (a, b) = (any(), any());
            let (_, gradient) = giou_with_gradient(a, b);
            for i in 0..4 {
                let moved = |by: f32| {
                    let mut a = a;
                    a[i] += by;
                    a
                };
                let (up, down) = (moved(1e-3), moved(-1e-3));
                let slope = (giou(up, b) - giou(down, b)) / (up[i] - down[i]);
                // Where an edge passes the other box's, the slope is between the gradients on both sides.
                let sides = [giou_with_gradient(down, b).1[i], giou_with_gradient(up, b).1[i], gradient[i]];
                let (least, most) = (sides.into_iter().fold(f32::MAX, f32::min), sides.into_iter().fold(f32::MIN, f32::max));
                let slack = 2e-3 * (1.0 + most.abs().max(least.abs()));
                assert!(slope > least - slack && slope < most + slack, "{a:?} {b:?} {i}: {slope} for {gradient:?}");
            }
        }
    }

    #[test]
    fn boxes_without_area_are_no_trouble() {
        let flat = [0.5, 0.5, 0.0, 0.0];
        for (a, b) in [(flat, flat), (flat, [0.5; 4]), ([0.5; 4], flat), ([0.5, 0.5, 0.0, 0.3], [0.5, 0.5, 0.3, 0.0])] {
            let (value, gradient) = giou_with_gradient(a, b);
            assert!((-1.0..=1.0).contains(&value) && gradient.iter().all(|g| g.is_finite()), "{a:?} {b:?}: {value} {gradient:?}");
            assert_eq!(iou(a, b), 0.0);
        }
    }
}
