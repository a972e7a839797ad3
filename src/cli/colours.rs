//! A colour for every class, the same as on the page (`www/app/colours.js`): it comes from the name alone.
//!
//! Chosen in OKLCH (<https://bottosson.github.io/posts/oklab/>), where equal lightness looks equally light, so that dark text can
//! be read on each of them.

/// Text on a class colour.
pub const INK: [f32; 3] = [20.0, 23.0, 26.0];

/// Red, green and blue, of 255.
pub fn colour_of(label: &str) -> [f32; 3] {
    let hash = fnv(label);
    oklch(0.76 + 0.05 * ((hash >> 9) % 3) as f32, 0.14, ((hash % 360) as f32).to_radians())
}

/// Where the hash starts: of 60,000 numbers the one that keeps everyday classes furthest from each other.
const SEED: u32 = 24370;

/// FNV-1a with a final mix, for its low bits alone aren't even on short names. Over UTF-16, as JavaScript has it.
fn fnv(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(SEED, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(0x0100_0193));
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca6b);
    hash ^ (hash >> 13)
}

fn oklch(lightness: f32, chroma: f32, hue: f32) -> [f32; 3] {
    let (a, b) = (chroma * hue.cos(), chroma * hue.sin());
    let l = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let m = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let s = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    let linear = [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ];
    linear.map(|x| {
        let x = x.clamp(0.0, 1.0);
        (255.0 * if x <= 0.003_130_8 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 }).round()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// The page's code is held against the same numbers (`tests/browser/colours.test.js`).
    #[test]
    fn colours_are_the_page_s() {
        let expected: HashMap<String, [f32; 3]> = serde_json::from_str(include_str!("../../tests/fixtures/colours.json")).unwrap();
        assert!(!expected.is_empty());
        for (label, expected) in expected {
            assert_eq!(colour_of(&label), expected, "{label}");
        }
    }
}
