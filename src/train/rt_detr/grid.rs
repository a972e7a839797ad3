//! Which rows of a list of tokens are of which feature map.

use std::ops::Range;

/// Height and width of each level's feature map.
pub type Levels = Vec<[usize; 2]>;

/// The tokens of each level.
pub fn ranges(levels: &[[usize; 2]]) -> impl Iterator<Item = Range<usize>> + '_ {
    levels.iter().scan(0, |start, [height, width]| {
        let range = *start..*start + height * width;
        *start = range.end;
        Some(range)
    })
}
