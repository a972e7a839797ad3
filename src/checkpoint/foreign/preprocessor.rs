//! `preprocessor_config.json`: how transformers' image processors make a network's input of a picture.
//!
//! Every entry that changes pixels is either followed or refused by its name. What isn't written is what the processor's class has as its
//! default, as transformers has it; without a class it is left to the caller. All keys are those of transformers 5's `DetrImageProcessor` and
//! `RTDetrImageProcessor`, and of the feature extractors before them.

use crate::config::{Pixels, Resize};
use serde_json::{Map, Value};

/// A preprocessor's entries, none of them null.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocessor {
    entries: Map<String, Value>,
}

/// What DETR's processors have had as their longest long side since they took one number for the short side.
const LONG: usize = 1333;
/// transformers' number for bilinear interpolation, and its names for it.
const BILINEAR: [&str; 3] = ["2", "\"bilinear\"", "\"BILINEAR\""];
const FILTERS: [&str; 6] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];
/// `do_…` entries that say nothing about pixels that come as RGB.
const HARMLESS: [&str; 3] = ["do_convert_annotations", "do_convert_rgb", "do_reduce_labels"];

/// Mean and deviation of red, green and blue.
type Normalisation = ([f32; 3], [f32; 3]);

/// The defaults of a class of processors.
struct Defaults {
    resize: Resize,
    normalize: bool,
    pad: bool,
    /// Whether one number means the short side.
    short: bool,
}

impl Preprocessor {
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| error.to_string())?;
        // transformers 5 may keep it as a part of `processor_config.json`.
        let value = value.get("image_processor").cloned().unwrap_or(value);
        let Value::Object(mut entries) = value else { return Err("a JSON object was expected".into()) };
        entries.retain(|_, value| !value.is_null());
        Ok(Self { entries })
    }

    /// The rule for the input's size, where one is stated or the class has one.
    pub fn resize(&self) -> Result<Option<Resize>, String> {
        if !self.flag("do_resize")?.unwrap_or(true) {
            return Ok(Some(Resize::Original));
        }
        let Some(size) = self.entries.get("size") else { return Ok(self.defaults().map(|defaults| defaults.resize)) };
        let refuse = |why: &str| Err(format!("size {size}: {why} (--resize gives a size in its place)"));
        let whole = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
        if let Some(short) = whole(size) {
            if self.defaults().is_some_and(|defaults| !defaults.short) {
                return refuse("this class of processor takes height and width");
            }
            let long = self.entries.get("max_size").map_or(Some(LONG), whole);
            return long.map_or_else(|| refuse("max_size is no size"), |long| Ok(Some(Resize::ShortestSide { short, long: long.max(short) })));
        }
        if let Value::Array(sides) = size {
            let sides: Option<Vec<usize>> = sides.iter().map(whole).collect();
            return match sides.as_deref() {
                Some([height, width]) => Ok(Some(Resize::Stretch { height: *height, width: *width })),
                _ => refuse("height and width were expected"),
            };
        }
        let Value::Object(sides) = size else { return refuse("a number or an object of numbers was expected") };
        let mut stated = Vec::new();
        for (key, value) in sides.iter().filter(|(_, value)| !value.is_null()) {
            let Some(number) = whole(value) else { return refuse(&format!("{key} is no size")) };
            stated.push((&key[..], number));
        }
        stated.sort_unstable();
        match stated[..] {
            [("height", height), ("width", width)] => Ok(Some(Resize::Stretch { height, width })),
            [("longest_edge", long), ("shortest_edge", short)] if long < short => refuse("the longest edge is below the shortest"),
            [("longest_edge", long), ("shortest_edge", short)] => Ok(Some(Resize::ShortestSide { short, long })),
            // Table Transformer's: the long side becomes this.
            [("longest_edge", long)] => Ok(Some(Resize::ShortestSide { short: long, long })),
            [("max_height", height), ("max_width", width)] => Ok(Some(Resize::Within { height, width })),
            _ => refuse("height and width, shortest_edge and longest_edge, or max_height and max_width were expected"),
        }
    }

    /// What red, green and blue from 0 to 1 are reduced and divided by, with whatever they are multiplied by before; none where neither the
    /// file nor its class says anything. `mean` and `std` go before the file's.
    pub fn normalisation(&self, mean: Option<[f32; 3]>, std: Option<[f32; 3]>) -> Result<Option<Normalisation>, String> {
        let stated = self.flag("do_normalize")?.or(self.defaults().map(|defaults| defaults.normalize));
        let (own_mean, own_std) = (self.colours("image_mean")?, self.colours("image_std")?);
        let default = Pixels::detr();
        let normalize = match stated {
            Some(stated) => stated,
            None if own_mean.is_some() || own_std.is_some() => true,
            None => return Ok(None),
        };
        let (own_mean, own_std) = if normalize { (own_mean.unwrap_or(default.mean), own_std.unwrap_or(default.std)) } else { ([0.0; 3], [1.0; 3]) };
        let (mean, std) = (mean.unwrap_or(own_mean), std.unwrap_or(own_std));
        // (x · factor − mean) / std, of bytes, is (x / 255 − mean / k) / (std / k) with k = 255 · factor.
        let factor = if self.flag("do_rescale")?.unwrap_or(true) { self.factor()? } else { 1.0 };
        let k = 255.0 * factor;
        let scaled = |colour: f32| if (k - 1.0).abs() < 1e-6 { colour } else { (f64::from(colour) / k) as f32 };
        Ok(Some((mean.map(scaled), std.map(scaled))))
    }

    /// Height and width that pictures are filled up to, below and on the right.
    pub fn padding(&self) -> Result<Option<[usize; 2]>, String> {
        let pad = self.flag("do_pad")?.or(self.flag("pad_and_return_pixel_mask")?).or(self.defaults().map(|defaults| defaults.pad));
        let Some(size) = self.entries.get("pad_size").filter(|_| pad == Some(true)) else { return Ok(None) };
        let side = |key: &str| size.get(key)?.as_u64().and_then(|side| usize::try_from(side).ok());
        match (side("height"), side("width")) {
            (Some(height), Some(width)) => Ok(Some([height, width])),
            _ => Err(format!("pad_size {size}: height and width were expected")),
        }
    }

    /// Refuses what would give other pixels than ours.
    pub fn check(&self) -> Result<(), String> {
        if let Some(filter) = self.entries.get("resample").filter(|filter| !BILINEAR.contains(&&*filter.to_string())) {
            let name = filter.as_u64().and_then(|number| FILTERS.get(usize::try_from(number).ok()?)).map(|name| format!(" ({name})"));
            let name = name.unwrap_or_default();
            return Err(format!(
                "resample {filter}{name} is not supported, only 2 (bilinear): with \"resample\": 2 in the file the detector sees pictures a little differently from how it was trained"
            ));
        }
        for (key, value) in &self.entries {
            let known = ["do_resize", "do_rescale", "do_normalize", "do_pad"].contains(&&**key) || HARMLESS.contains(&&**key);
            if key.starts_with("do_") && !known && *value != Value::Bool(false) {
                return Err(format!("{key} is not supported"));
            }
            if ["size_divisor", "size_divisibility", "crop_pct"].contains(&&**key) {
                return Err(format!("{key} {value} is not supported"));
            }
        }
        Ok(())
    }

    fn defaults(&self) -> Option<Defaults> {
        let class = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| self.entries.get(*key)?.as_str())?;
        if class.starts_with("RTDetr") {
            return Some(Defaults { resize: Resize::Stretch { height: 640, width: 640 }, normalize: false, pad: false, short: false });
        }
        let like_detr = ["Detr", "ConditionalDetr", "DeformableDetr", "Yolos"].iter().any(|name| class.starts_with(name));
        like_detr.then(|| Defaults { resize: Pixels::detr().resize, normalize: true, pad: true, short: true })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("{key} {value}: true or false was expected"))
    }

    fn factor(&self) -> Result<f64, String> {
        let Some(value) = self.entries.get("rescale_factor") else { return Ok(1.0 / 255.0) };
        value.as_f64().filter(|factor| *factor > 0.0).ok_or_else(|| format!("rescale_factor {value}: a number above 0 was expected"))
    }

    /// Three numbers, or one for all three.
    fn colours(&self, key: &str) -> Result<Option<[f32; 3]>, String> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let list = value.as_array().and_then(|list| <[f32; 3]>::try_from(list.iter().map(number).collect::<Option<Vec<_>>>()?).ok());
        let found = list.or(number(value).map(|number| [number; 3]));
        found.map(Some).ok_or_else(|| format!("{key} {value}: three numbers were expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Preprocessor {
        Preprocessor::parse(text).unwrap()
    }

    #[test]
    fn every_form_of_a_size_is_understood_or_refused() {
        let detr = Some(Pixels::detr().resize);
        for (text, expected) in [
            (r#"{"size": {"height": 480, "width": 640}}"#, Some(Resize::Stretch { height: 480, width: 640 })),
            (r#"{"size": {"height": 480, "width": 640, "shortest_edge": null}}"#, Some(Resize::Stretch { height: 480, width: 640 })),
            (r#"{"size": {"shortest_edge": 480, "longest_edge": 640}}"#, Some(Resize::ShortestSide { short: 480, long: 640 })),
            (r#"{"size": {"max_height": 480, "max_width": 500}}"#, Some(Resize::Within { height: 480, width: 500 })),
            (r#"{"size": {"longest_edge": 800}}"#, Some(Resize::ShortestSide { short: 800, long: 800 })),
            (r#"{"size": 512, "max_size": 900}"#, Some(Resize::ShortestSide { short: 512, long: 900 })),
            (r#"{"size": 512}"#, Some(Resize::ShortestSide { short: 512, long: 1333 })),
            (r#"{"size": [480, 640]}"#, Some(Resize::Stretch { height: 480, width: 640 })),
            (r#"{"do_resize": false, "size": {"height": 1, "width": 1}}"#, Some(Resize::Original)),
            (r#"{"do_resize": null, "size": null, "image_processor_type": "DetrImageProcessor"}"#, detr),
            (r#"{"feature_extractor_type": "DetrFeatureExtractor"}"#, detr),
            (r#"{"image_processor_type": "RTDetrImageProcessorFast"}"#, Some(Resize::Stretch { height: 640, width: 640 })),
            (r#"{"image_processor": {"size": {"height": 3, "width": 5}}}"#, Some(Resize::Stretch { height: 3, width: 5 })),
            (r#"{"image_mean": [0, 0, 0]}"#, None),
        ] {
            assert_eq!(of(text).resize(), Ok(expected), "{text}");
        }
        for text in [
            r#"{"size": {"shortest_edge": 800}}"#,
            r#"{"size": {"height": 480}}"#,
            r#"{"size": {"min_pixels": 4, "max_pixels": 9}}"#,
            r#"{"size": {"height": 480, "width": 0}}"#,
            r#"{"size": {"height": 480.5, "width": 640}}"#,
            r#"{"size": {"shortest_edge": 800, "longest_edge": 600}}"#,
            r#"{"size": [480]}"#,
            r#"{"size": "large"}"#,
            r#"{"size": 640, "image_processor_type": "RTDetrImageProcessor"}"#,
            r#"{"size": 640, "max_size": "much"}"#,
        ] {
            let problem = of(text).resize().unwrap_err();
            assert!(problem.starts_with("size ") && problem.contains("--resize"), "{text}: {problem}");
        }
        assert!(of(r#"{"do_resize": "no"}"#).resize().unwrap_err().contains("do_resize \"no\""));
    }

    #[test]
    fn pixels_are_scaled_and_normalised_as_stated() {
        let detr = Pixels::detr();
        let found = |text: &str| of(text).normalisation(None, None);
        assert_eq!(found(r#"{"image_processor_type": "DetrImageProcessor"}"#), Ok(Some((detr.mean, detr.std))));
        assert_eq!(found(r#"{"image_processor_type": "RTDetrImageProcessor"}"#), Ok(Some(([0.0; 3], [1.0; 3]))));
        assert_eq!(found(r#"{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}"#), Ok(Some(([0.0; 3], [1.0; 3]))));
        assert_eq!(
            found(r#"{"image_mean": [0.5, 0.25, 0.5], "image_std": 0.25, "rescale_factor": 0.00392156862745098}"#),
            Ok(Some(([0.5, 0.25, 0.5], [0.25; 3])))
        );
        assert_eq!(found(r#"{"size": 3}"#), Ok(None));
        assert_eq!(of(r#"{"do_normalize": false}"#).normalisation(Some([0.1; 3]), None), Ok(Some(([0.1; 3], [1.0; 3]))));
        // As transformers computes it of a byte of 51: (51 · factor − mean) / std.
        for (text, expected) in [
            (r#"{"do_rescale": false, "do_normalize": false}"#, 51.0),
            (r#"{"do_rescale": false, "image_mean": 100, "image_std": 2}"#, -24.5),
            (r#"{"rescale_factor": 0.5, "image_mean": 0.5, "image_std": 2}"#, 12.5),
            (r#"{"rescale_factor": 0.00784313725490196, "image_mean": 1, "image_std": 1}"#, -0.6),
        ] {
            let (mean, std) = found(text).unwrap().unwrap();
            let value = (51.0 / 255.0 - mean[1]) / std[1];
            assert!((value - expected).abs() < 1e-4 * expected.abs(), "{text}: {value}");
        }
        for text in
            [r#"{"image_mean": [0.5, 0.5]}"#, r#"{"image_mean": "x"}"#, r#"{"do_normalize": true, "rescale_factor": 0}"#, r#"{"do_normalize": 1}"#]
        {
            assert!(found(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_changes_pixels_otherwise_is_refused_by_name() {
        for (text, problem) in [
            (r#"{"resample": 3}"#, "resample 3 (bicubic)"),
            (r#"{"resample": "lanczos"}"#, "resample \"lanczos\""),
            (r#"{"do_center_crop": true}"#, "do_center_crop"),
            (r#"{"size_divisor": 32}"#, "size_divisor 32"),
            (r#"{"do_flip_channel_order": true}"#, "do_flip_channel_order"),
        ] {
            let found = of(text).check().unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
        for text in [r#"{"resample": 2, "do_center_crop": false, "do_convert_rgb": true, "format": "coco_detection"}"#, r#"{"resample": null}"#, "{}"]
        {
            assert_eq!(of(text).check(), Ok(()), "{text}");
        }
        let padded = r#"{"pad_size": {"height": 480, "width": 500}, "image_processor_type": "DetrImageProcessor"}"#;
        assert_eq!(of(padded).padding(), Ok(Some([480, 500])));
        assert_eq!(of(&padded.replace("Detr", "RTDetr")).padding(), Ok(None));
        assert_eq!(of(r#"{"pad_size": {"height": 480, "width": 500}, "do_pad": false}"#).padding(), Ok(None));
        assert!(of(r#"{"pad_size": 480, "do_pad": true}"#).padding().is_err());
    }
}
