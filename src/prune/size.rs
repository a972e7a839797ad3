//! The size of the input as one more thing to cut: a smaller picture is less work for all that comes before the decoder, and costs no weights.

use super::difference::{Answer, difference, look};
use super::repair::Side;
use crate::config::{Architecture, Resize};
use crate::error::Result;
use crate::progress::Progress;

/// A smaller input, and what it does to the outputs if nothing else changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Smaller {
    pub resize: Resize,
    pub difference: f64,
}

/// Measures smaller inputs, the largest first. `seen` is what the parent says of its first pictures.
pub fn smaller(parent: &Side, seen: &[Answer], progress: &dyn Progress) -> Result<Vec<Smaller>> {
    let sizes = sizes(parent.config.pixels().resize);
    progress.begin("looking at smaller pictures", sizes.len());
    let pictures = parent.inputs.first(seen.len());
    let mut all: Vec<Smaller> = Vec::new();
    for resize in sizes {
        let found = difference(seen, &look(&with(parent.config, resize), parent.weights, &pictures)?);
        // A smaller picture that happens to be seen better is no reason to trust it more.
        let least = all.last().map_or(0.0, |larger| larger.difference);
        all.push(Smaller { resize, difference: found.max(least) });
        progress.step();
    }
    Ok(all)
}

/// The network for another size of input.
pub fn with(config: &Architecture, resize: Resize) -> Architecture {
    let mut config = config.clone();
    config.pixels_mut().resize = resize;
    config
}

/// Smaller sizes in steps of a twelfth. Sides are multiples of 32, which is what most backbones make one token of.
pub fn sizes(resize: Resize) -> Vec<Resize> {
    /// Smaller than half, another network would do better.
    const TWELFTHS: std::ops::RangeInclusive<usize> = 6..=11;
    const TOKEN: usize = 32;
    let mut sizes = vec![resize];
    for twelfths in TWELFTHS.rev() {
        let side = |side: usize| ((side * twelfths + 6 * TOKEN) / (12 * TOKEN)).max(1) * TOKEN;
        let next = match resize {
            Resize::Stretch { height, width } => Resize::Stretch { height: side(height).min(height), width: side(width).min(width) },
            Resize::ShortestSide { short, long } => {
                let less = side(short).min(short);
                Resize::ShortestSide { short: less, long: (long * less).div_ceil(short.max(1)) }
            }
            Resize::Within { height, width } => Resize::Within { height: side(height).min(height), width: side(width).min(width) },
            // Of pictures of any size none can be said to be smaller.
            Resize::Original => resize,
        };
        if sizes.last() != Some(&next) {
            sizes.push(next);
        }
    }
    sizes.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pixels;

    #[test]
    fn sizes_descend_and_keep_their_shape() {
        let square = |side| Resize::Stretch { height: side, width: side };
        assert_eq!(sizes(square(384)), [352, 320, 288, 256, 224, 192].map(square));
        let wide = sizes(Resize::Stretch { height: 480, width: 640 });
        assert_eq!(wide[0], Resize::Stretch { height: 448, width: 576 });
        let detr = sizes(Pixels::detr().resize);
        assert_eq!(detr[0], Resize::ShortestSide { short: 736, long: 1227 });
        assert_eq!(detr.len(), 6);
        assert_eq!(sizes(Resize::Within { height: 480, width: 640 })[0], Resize::Within { height: 448, width: 576 });
        for tiny in [Resize::Original, square(32), square(20), Resize::ShortestSide { short: 32, long: 40 }] {
            assert_eq!(sizes(tiny), [], "{tiny:?}");
        }
    }
}
