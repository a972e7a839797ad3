//! Views that show one object close up: a class of which there are only small objects in the pictures is learnt in large, too.
//!
//! As SSD zooms in (Liu et al., 2015, "Data augmentation"), but around an object, and a rare class's rather than a common one's: crops at random
//! places seldom hold what is small and rare.

use super::labels::{Labelled, Pictures, SHOWN_FROM};
use super::view::{View, between};
use crate::hash;
use crate::train::Target;

/// Of the window's side, how much of it the object's longer side takes.
const FILLED: [f64; 2] = [0.35, 0.85];
/// The smallest window's side, in the picture's: with less there is nothing to be seen but pixels.
const SMALLEST: f64 = 0.15;
/// Largest change of the aspect ratio, either way.
const MOST_STRETCH: f64 = 1.25;

/// The ways in which each picture is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Views {
    /// For each picture; the first is the plain one.
    pub count: usize,
    /// Chooses the others.
    pub seed: u64,
    /// Of the others, the share that are close-ups, where the picture shows an object.
    pub close_ups: f64,
    /// In how many pictures each class is shown.
    shown: Vec<usize>,
}

impl Views {
    pub fn new(count: usize, seed: u64, close_ups: f64, pictures: &Pictures) -> Self {
        let list: Vec<&Labelled> = pictures.list.iter().collect();
        Self { count, seed, close_ups, shown: Labelled::shown(&list) }
    }

    /// View `number` of a picture, the same whenever it is asked for.
    pub fn view(&self, picture: &Labelled, number: usize) -> View {
        let view = View::new(self.seed, &picture.file_name, number);
        let key = hash::number(&[b"close-up", &self.seed.to_le_bytes(), &(number as u64).to_le_bytes(), picture.file_name.as_bytes()]);
        let mut random = fastrand::Rng::with_seed(key);
        if number == 0 || random.f64() >= self.close_ups {
            return view;
        }
        match self.subject(&mut random, &picture.targets) {
            Some(target) => view.of(window(&mut random, target.bounds.map(f64::from))),
            None => view,
        }
    }

    /// An object to look at: one of a class that a tenth of the pictures show ten times as likely.
    fn subject<'a>(&self, random: &mut fastrand::Rng, targets: &'a [Target]) -> Option<&'a Target> {
        let likely = |target: &Target| if target.weight < SHOWN_FROM { 0.0 } else { 1.0 / self.shown[target.class] as f64 };
        let mut at = random.f64() * targets.iter().map(likely).sum::<f64>();
        targets.iter().filter(|target| likely(target) > 0.0).find(|target| {
            at -= likely(target);
            at < 0.0
        })
    }
}

/// A window on a picture in which the object of these bounds (centre x, centre y, width, height) is large: left, top, width, height, all in
/// fractions of the picture.
fn window(random: &mut fastrand::Rng, [x, y, width, height]: [f64; 4]) -> [f64; 4] {
    let side = (width.max(height) / between(random, FILLED[0], FILLED[1])).max(SMALLEST);
    let stretch = between(random, -MOST_STRETCH.ln(), MOST_STRETCH.ln()).exp().sqrt();
    let [across, down] = [side * stretch, side / stretch].map(|side| side.min(1.0));
    // The object lies somewhere within the window, the window within the picture.
    let mut start = |centre: f64, length: f64, side: f64| {
        let room = (side - length).max(0.0);
        (centre - side / 2.0 + between(random, -room, room) / 2.0).clamp(0.0, 1.0 - side)
    };
    [start(x, width, across), start(y, height, down), across, down]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::labels::Counts;
    use proptest::prelude::*;

    /// Pictures with objects of these (class, weight), and a share of close-ups.
    fn views(pictures: &[&[(usize, f32)]], close_ups: f64) -> (Vec<Labelled>, Views) {
        let object = |&(class, weight): &(usize, f32)| Target { class, bounds: [0.2 + class as f32 * 0.3, 0.5, 0.1, 0.1], weight };
        let list: Vec<Labelled> = pictures
            .iter()
            .enumerate()
            .map(|(number, objects)| Labelled {
                file_name: number.to_string(),
                bytes: 0,
                size: [200, 100],
                targets: objects.iter().map(object).collect(),
                known: [true; 3].into(),
            })
            .collect();
        let pictures =
            Pictures { folder: ".".into(), list: list.clone(), counts: Counts::default(), problems: vec![], notes: vec![], sureties: vec![] };
        (list, Views::new(1001, 7, close_ups, &pictures))
    }

    /// How many of a picture's views beside the first have an object of each class large.
    fn large(views: &Views, picture: &Labelled) -> [usize; 3] {
        let mut seen = [0; 3];
        for number in 1..views.count {
            for target in views.view(picture, number).targets(&picture.targets, picture.size) {
                seen[target.class] += usize::from(target.bounds[2].max(target.bounds[3]) > 0.3 && target.weight > 0.0);
            }
        }
        seen
    }

    #[test]
    fn rare_classes_are_looked_at_rather_than_common_ones() {
        // Class 1 is in one of five pictures, class 0 in four, and the first picture's class 2 is doubtful.
        let (list, views) = views(&[&[(0, 1.0), (1, 1.0), (2, 0.4)], &[(0, 1.0)], &[(0, 1.0)], &[(0, 1.0)], &[]], 0.5);
        let [common, rare, doubtful] = large(&views, &list[0]);
        assert!((60..140).contains(&common) && (340..460).contains(&rare) && doubtful == 0, "{common} {rare} {doubtful}");
        assert_eq!(large(&views, &list[4]), [0; 3]);
        for picture in &list {
            assert_eq!(views.view(picture, 0), View::PLAIN);
        }
    }

    #[test]
    fn without_close_ups_views_are_what_they_were() {
        let (list, none) = views(&[&[(0, 1.0), (1, 1.0)]], 0.0);
        let (_, some) = views(&[&[(0, 1.0), (1, 1.0)]], 0.3);
        let plain = |number| View::new(7, "0", number);
        assert!((0..100).all(|number| none.view(&list[0], number) == plain(number)));
        let others = (1..1001).filter(|&number| some.view(&list[0], number) != plain(number)).count();
        assert!((240..360).contains(&others), "{others}");
    }

    proptest! {
        #[test]
        fn the_object_is_seen_whole_and_the_window_lies_in_the_picture(
            (x, y, width, height) in (0.0..1.0, 0.0..1.0, 0.001..1.0, 0.001..1.0), seed: u64,
        ) {
            let [left, top] = [x, y].map(|start: f64| start * 0.9);
            let [width, height] = [(width, left), (height, top)].map(|(side, start): (f64, f64)| (side * (1.0 - start)).max(1e-3));
            let mut random = fastrand::Rng::with_seed(seed);
            let found = window(&mut random, [left + width / 2.0, top + height / 2.0, width, height]);
            for (start, length, from, side) in [(left, width, found[0], found[2]), (top, height, found[1], found[3])] {
                prop_assert!(from >= 0.0 && side > 0.1 && from + side <= 1.0 + 1e-9);
                prop_assert!(from <= start + 1e-9 && start + length <= from + side + 1e-9, "{start} {length} in {from} {side}");
            }
        }
    }
}
