//! Pictures with what is seldom seen are shown more often: repeat factor sampling (Gupta, Dollár and Girshick, "LVIS", 2019, section 3.4).

use super::Labelled;

/// How often an epoch shows each picture: √(`rare` / share of the pictures that show the class), of its classes the most, at least once.
pub fn factors(pictures: &[&Labelled], rare: f64) -> Vec<f64> {
    let counts = Labelled::shown(pictures);
    let factor = |class: usize| (rare * pictures.len() as f64 / counts[class] as f64).sqrt();
    pictures.iter().map(|picture| picture.classes().into_iter().map(factor).fold(1.0, f64::max)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Target;

    /// A picture of each of these (class, weight).
    fn picture(targets: &[(usize, f32)]) -> Labelled {
        let targets = targets.iter().map(|&(class, weight)| Target { class, bounds: [0.5; 4], weight }).collect();
        Labelled { file_name: String::new(), bytes: 0, size: [1, 1], targets, known: [true; 3].into() }
    }

    #[test]
    fn the_rarest_class_of_a_picture_decides() {
        // Class 0 in all of 8 pictures, class 1 in two, class 2 in one; a doubtful class 2 counts for nothing, nor does a second object.
        let mut pictures = vec![picture(&[(0, 1.0)]); 6];
        pictures[0] = picture(&[(0, 1.0), (2, 0.4)]);
        pictures.push(picture(&[(0, 1.0), (1, 0.5), (1, 1.0)]));
        pictures.push(picture(&[(0, 1.0), (1, 1.0), (2, 1.0)]));
        let pictures: Vec<&Labelled> = pictures.iter().collect();
        assert_eq!(factors(&pictures, 0.5), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0_f64.sqrt(), 2.0]);
        assert_eq!(factors(&pictures, 0.0), [1.0; 8]);
    }

    #[test]
    fn a_picture_of_nothing_is_shown_once() {
        let empty = picture(&[]);
        assert_eq!(factors(&[&empty], 1.0), [1.0]);
        assert!(factors(&[], 1.0).is_empty());
    }
}
