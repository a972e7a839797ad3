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

/// FNV-1a with a final mix, for its low bits alone aren't even on short names. Over UTF-16, as JavaScript has it.
fn fnv(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0x811c_9dc5, |hash: u32, unit| (hash ^ u32::from(unit)).wrapping_mul(0x0100_0193));
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

    #[test]
    fn colours_are_the_page_s() {
        // for (const name of ['cat', 'person', 'dining table', 'größe']) console.log(name, colourOf(name))
        for (label, expected) in [
            ("cat", [215.0, 217.0, 100.0]),
            ("person", [255.0, 186.0, 108.0]),
            ("dining table", [154.0, 210.0, 255.0]),
            ("größe", [176.0, 187.0, 70.0]),
        ] {
            assert_eq!(colour_of(label), expected, "{label}");
        }
    }
}
