//! Augmented views of a picture: mirrored, cropped or moved away, recoloured, each of them the same whenever it is asked for.
//!
//! The crops are those of SSD (Liu et al., 2015, "Data augmentation") and DETR's `RandomSizeCrop` in spirit: one window that
//! may lie inside the picture or reach beyond it, where the canvas is grey. Every view is stretched to the network's size afterwards.

use crate::hash;
use crate::image::Picture;
use crate::train::Target;

/// Changes whenever a seed no longer gives the same views.
pub const VERSION: u32 = 1;

/// How often a view is a crop; how often the picture is moved away (else it stays whole).
const CROPPED: f64 = 0.6;
const MOVED_AWAY: f64 = 0.25;
/// Smallest part of the picture's area in a crop.
const SMALLEST_CROP: f64 = 0.3;
/// Largest change of the aspect ratio, either way.
const MOST_STRETCH: f64 = 4.0 / 3.0;
/// Largest side of the canvas around a picture that is moved away, in the picture's side.
const LARGEST_CANVAS: f64 = 1.6;
const GREY: u8 = 128;
/// Largest changes of brightness, contrast and saturation, as factors below and above 1.
const JITTER: [f64; 3] = [0.25, 0.25, 0.3];
/// Of an object's box: with less left in the view it isn't to be learnt, with still less it isn't there at all.
const LEARNT_FROM: f32 = 0.25;
const THERE_FROM: f32 = 0.05;

/// A way to look at a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What is seen, in fractions of the picture: left, top, width, height.
    window: [f64; 4],
    /// Whether the window's content is mirrored, left to right.
    flip: bool,
    colour: Option<Colour>,
}

/// Factors as in torchvision's `ColorJitter`, but without rounding between the steps.
#[derive(Clone, Debug, PartialEq)]
struct Colour {
    brightness: f64,
    contrast: f64,
    saturation: f64,
}

/// A window along one side, in pixels of the picture.
#[derive(Clone, Copy)]
struct Span {
    start: isize,
    length: usize,
}

impl View {
    /// The picture as it is.
    pub const PLAIN: Self = Self { window: [0.0, 0.0, 1.0, 1.0], flip: false, colour: None };

    /// View `number` of the picture of this file name. Number 0 is the plain one.
    pub fn new(seed: u64, file_name: &str, number: usize) -> Self {
        if number == 0 {
            return Self::PLAIN;
        }
        let number = (number as u64).to_le_bytes();
        let mut random = fastrand::Rng::with_seed(hash::number(&[&seed.to_le_bytes(), &number, file_name.as_bytes()]));
        let window = window(&mut random);
        let flip = random.bool();
        let [brightness, contrast, saturation] = JITTER.map(|most| between(&mut random, 1.0 - most, 1.0 + most));
        Self { window, flip, colour: Some(Colour { brightness, contrast, saturation }) }
    }

    /// The same, but of another part of the picture: left, top, width and height in fractions of it.
    pub fn of(self, window: [f64; 4]) -> Self {
        Self { window, ..self }
    }

    /// The picture in this view, in its own resolution.
    pub fn apply(&self, picture: &Picture) -> Picture {
        let [across, down] = self.spans([picture.width, picture.height]);
        let colour = self.colour.as_ref().map(|colour| (colour, colour.shift(picture)));
        let mut rgba = Vec::with_capacity(across.length * down.length * 4);
        for y in 0..down.length {
            for x in 0..across.length {
                let x = if self.flip { across.length - 1 - x } else { x };
                let pixel = match (across.place(x, picture.width), down.place(y, picture.height)) {
                    (Some(x), Some(y)) => {
                        let at = (y * picture.width + x) * 4;
                        let pixel = [0, 1, 2, 3].map(|i| picture.rgba[at + i]);
                        colour.map_or(pixel, |(colour, shift)| colour.apply(pixel, shift))
                    }
                    _ => [GREY, GREY, GREY, 255],
                };
                rgba.extend(pixel);
            }
        }
        let [width, height] = [across.length, down.length];
        Picture { width, height, rgba, full_size: [width, height] }
    }

    /// What a picture of `[width, height]` pixels shows in this view: boxes are cut at its edges and lose their weight or are left
    /// out where little of them remains.
    pub fn targets(&self, targets: &[Target], size: [usize; 2]) -> Vec<Target> {
        if (self.window, self.flip) == (Self::PLAIN.window, false) {
            return targets.to_vec();
        }
        let [across, down] = self.spans(size);
        targets.iter().filter_map(|target| self.target(target, [(across, size[0]), (down, size[1])])).collect()
    }

    fn target(&self, target: &Target, [(across, width), (down, height)]: [(Span, usize); 2]) -> Option<Target> {
        let [x, y, w, h] = target.bounds;
        let ([left, right], [top, bottom]) = (across.cut(x, w, width), down.cut(y, h, height));
        // In fractions of the box, so that it doesn't matter what the view's sides are.
        let scale = across.length as f32 / width as f32 * (down.length as f32 / height as f32);
        let kept = (right - left) * (bottom - top) * scale / (w * h);
        if kept <= THERE_FROM {
            return None;
        }
        let x = (left + right) / 2.0;
        let bounds = [if self.flip { 1.0 - x } else { x }, (top + bottom) / 2.0, right - left, bottom - top];
        Some(Target { bounds, weight: if kept < LEARNT_FROM { 0.0 } else { target.weight }, ..*target })
    }

    /// The window on a picture of `[width, height]` pixels, which begins and ends with whole pixels.
    fn spans(&self, [width, height]: [usize; 2]) -> [Span; 2] {
        let [left, top, w, h] = self.window;
        [Span::new(left, w, width), Span::new(top, h, height)]
    }
}

/// What a random view shows.
fn window(random: &mut fastrand::Rng) -> [f64; 4] {
    let kind = random.f64();
    let [width, height] = if kind < CROPPED {
        let area = between(random, SMALLEST_CROP, 1.0);
        let stretch = between(random, -MOST_STRETCH.ln(), MOST_STRETCH.ln()).exp();
        [(area * stretch).sqrt(), (area / stretch).sqrt()].map(|side| side.min(1.0))
    } else if kind < CROPPED + MOVED_AWAY {
        [between(random, 1.0, LARGEST_CANVAS); 2]
    } else {
        [1.0; 2]
    };
    // Somewhere inside the picture, or somewhere around it.
    [random.f64() * (1.0 - width), random.f64() * (1.0 - height), width, height]
}

pub(super) fn between(random: &mut fastrand::Rng, low: f64, high: f64) -> f64 {
    low + random.f64() * (high - low)
}

impl Span {
    /// `start` and `length` in fractions of `side` pixels.
    fn new(start: f64, length: f64, side: usize) -> Self {
        let pixel = |fraction: f64| (fraction * side as f64).round() as isize;
        let first = pixel(start).min(side as isize - 1);
        let end = pixel(start + length).max(first + 1);
        Self { start: first, length: (end - first) as usize }
    }

    /// The picture's pixel that is seen at a place of the window.
    fn place(&self, place: usize, side: usize) -> Option<usize> {
        usize::try_from(self.start + place as isize).ok().filter(|&pixel| pixel < side)
    }

    /// What a box's centre and length in fractions of the side become: its start and end in fractions of the window.
    fn cut(&self, centre: f32, length: f32, side: usize) -> [f32; 2] {
        [centre - length / 2.0, centre + length / 2.0].map(|end| ((end * side as f32 - self.start as f32) / self.length as f32).clamp(0.0, 1.0))
    }
}

/// Luminance as Pillow and torchvision have it (ITU-R 601-2).
fn grey([r, g, b, _]: [u8; 4]) -> f64 {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
}

impl Colour {
    /// What less contrast adds to every pixel: its part of the mean luminance.
    fn shift(&self, picture: &Picture) -> f64 {
        let (pixels, _) = picture.rgba.as_chunks::<4>();
        let mean = pixels.iter().map(|&pixel| grey(pixel)).sum::<f64>() / pixels.len() as f64;
        (1.0 - self.contrast) * self.brightness * mean
    }

    fn apply(&self, pixel: [u8; 4], shift: f64) -> [u8; 4] {
        let grey = grey(pixel);
        let channel = |value: u8| {
            let saturated = grey + self.saturation * (f64::from(value) - grey);
            (self.brightness * self.contrast * saturated + shift).round().clamp(0.0, 255.0) as u8
        };
        let [r, g, b, alpha] = pixel;
        [channel(r), channel(g), channel(b), alpha]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLIP: View = View { flip: true, ..View::PLAIN };

    fn black(width: usize, height: usize) -> Picture {
        Picture::new(width, height, [0, 0, 0, 255].repeat(width * height)).unwrap()
    }

    /// (centre x, centre y, width, height) of a rectangle of pixels.
    fn bounds([left, top, right, bottom]: [usize; 4], picture: &Picture) -> [f32; 4] {
        let (w, h) = (picture.width as f32, picture.height as f32);
        [(left + right) as f32 / 2.0 / w, (top + bottom) as f32 / 2.0 / h, (right - left) as f32 / w, (bottom - top) as f32 / h]
    }

    fn target(bounds: [f32; 4]) -> Target {
        Target { class: 3, bounds, weight: 0.5 }
    }

    /// A rectangle `[left, top, right, bottom]` inside a picture of a size.
    fn rectangle() -> impl Strategy<Value = ([usize; 2], [usize; 4])> {
        (8usize..80, 8usize..80).prop_flat_map(|(width, height)| {
            (0..width - 4, 0..height - 4).prop_flat_map(move |(left, top)| {
                (left + 2..=width, top + 2..=height).prop_map(move |(right, bottom)| ([width, height], [left, top, right, bottom]))
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_painted_is_where_the_box_says(
            ([width, height], [left, top, right, bottom]) in rectangle(), seed: u64, number in 0usize..20,
        ) {
            let mut picture = black(width, height);
            for y in top..bottom {
                for x in left..right {
                    picture.rgba[(y * width + x) * 4] = 255;
                }
            }
            let view = View { colour: None, ..View::new(seed, "street/1.webp", number) };
            let seen = view.apply(&picture);
            prop_assert!(seen.check().is_ok());
            let red: Vec<[usize; 2]> = (0..seen.width * seen.height)
                .filter(|i| seen.rgba[i * 4] == 255)
                .map(|i| [i % seen.width, i / seen.width])
                .collect();
            let kept = red.len() as f32 / ((right - left) * (bottom - top)) as f32;
            let targets = view.targets(&[target(bounds([left, top, right, bottom], &picture))], [width, height]);
            // Near the limits rounding decides.
            prop_assume!((kept - THERE_FROM).abs() > 1e-4 && (kept - LEARNT_FROM).abs() > 1e-4);
            prop_assert_eq!(targets.len(), usize::from(kept > THERE_FROM), "{} of the box is left", kept);
            if let [target] = targets[..] {
                prop_assert_eq!(target.weight, if kept < LEARNT_FROM { 0.0 } else { 0.5 });
                prop_assert_eq!(target.class, 3);
                let ends = |i: usize| (red.iter().map(|p| p[i]).min().unwrap(), red.iter().map(|p| p[i]).max().unwrap() + 1);
                let ((left, right), (top, bottom)) = (ends(0), ends(1));
                for (found, painted) in target.bounds.into_iter().zip(bounds([left, top, right, bottom], &seen)) {
                    prop_assert!((found - painted).abs() < 1e-5, "{:?}", target);
                }
                let [x, y, w, h] = target.bounds;
                prop_assert!([x - w / 2.0, y - h / 2.0].iter().all(|&x| x > -1e-6) && [x + w / 2.0, y + h / 2.0].iter().all(|&x| x < 1.0 + 1e-6));
            }
        }

        #[test]
        fn flipping_twice_changes_nothing(([width, height], rectangle) in rectangle(), noise in any::<u64>()) {
            let mut picture = black(width, height);
            fastrand::Rng::with_seed(noise).fill(&mut picture.rgba);
            prop_assert_eq!(&FLIP.apply(&FLIP.apply(&picture)), &picture);
            let original = target(bounds(rectangle, &picture));
            let size = [width, height];
            let once = FLIP.targets(&[original], size);
            let twice = FLIP.targets(&once, size);
            for i in 0..4 {
                prop_assert!((twice[0].bounds[i] - original.bounds[i]).abs() < 1e-6, "{:?} {:?}", original, twice);
            }
            prop_assert!((once[0].bounds[0] + original.bounds[0] - 1.0).abs() < 1e-6);
        }

        #[test]
        fn the_first_view_is_the_picture(([width, height], rectangle) in rectangle(), seed: u64) {
            let mut picture = black(width, height);
            fastrand::Rng::with_seed(seed).fill(&mut picture.rgba);
            let view = View::new(seed, "a", 0);
            prop_assert_eq!(&view.apply(&picture), &picture);
            let targets = [target(bounds(rectangle, &picture))];
            prop_assert_eq!(view.targets(&targets, [width, height]), targets);
        }

        #[test]
        fn windows_have_the_sizes_they_should(seed: u64) {
            let [left, top, width, height] = View::new(seed, "a", 1).window;
            if width <= 1.0 && height <= 1.0 {
                prop_assert!(width * height > SMALLEST_CROP - 1e-9 && left >= 0.0 && top >= 0.0);
                prop_assert!(left + width <= 1.0 + 1e-9 && top + height <= 1.0 + 1e-9);
            } else {
                prop_assert!(width <= LARGEST_CANVAS && width == height && left <= 0.0 && top <= 0.0);
                prop_assert!(left + width >= 1.0 - 1e-9 && top + height >= 1.0 - 1e-9);
            }
        }
    }

    #[test]
    fn a_view_depends_on_seed_name_and_number_alone() {
        let view = View::new(1, "a", 1);
        assert_eq!(View::new(1, "a", 1), view);
        for other in [View::new(2, "a", 1), View::new(1, "b", 1), View::new(1, "a", 2)] {
            assert_ne!(other, view);
        }
    }

    #[test]
    fn views_are_of_every_kind() {
        let views: Vec<View> = (1..=1000).map(|number| View::new(7, "a", number)).collect();
        let share = |is: fn(&View) -> bool| views.iter().filter(|view| is(view)).count() as f64 / 1000.0;
        for (found, expected) in [
            (share(|v| v.flip), 0.5),
            (share(|v| v.window[2] > 1.0), MOVED_AWAY),
            (share(|v| v.window == View::PLAIN.window), 1.0 - CROPPED - MOVED_AWAY),
        ] {
            assert!((found - expected).abs() < 0.06, "{found} instead of {expected}");
        }
    }

    #[test]
    fn colours_change_as_they_should() {
        let picture = Picture::new(2, 1, vec![100, 50, 0, 255, 40, 40, 40, 255]).unwrap();
        let see = |[brightness, contrast, saturation]: [f64; 3]| {
            View { colour: Some(Colour { brightness, contrast, saturation }), ..View::PLAIN }.apply(&picture).rgba
        };
        assert_eq!(see([1.0, 1.0, 1.0]), picture.rgba);
        assert_eq!(see([2.0, 1.0, 1.0]), [200, 100, 0, 255, 80, 80, 80, 255]);
        // Luminance is 59.25 and 40, and 49.6 on average.
        assert_eq!(see([1.0, 1.0, 0.0]), [59, 59, 59, 255, 40, 40, 40, 255]);
        assert_eq!(see([1.0, 0.0, 1.0]), [50, 50, 50, 255, 50, 50, 50, 255]);
        assert_eq!(see([1.0, 0.5, 1.0]), [75, 50, 25, 255, 45, 45, 45, 255]);
    }

    #[test]
    fn the_smallest_picture_has_views_too() {
        for number in 0..50 {
            assert!(View::new(0, "a", number).apply(&black(1, 1)).check().is_ok());
        }
    }
}
