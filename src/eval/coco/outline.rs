//! Outlines: polygons and run-length encodings ([`maskApi.c`](https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c)), as far
//! as their boxes and areas go.

use super::json::number;
use serde_json::Value;

/// What an outline takes up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Left, top, width, height in pixels.
    pub bbox: [f64; 4],
    /// In square pixels.
    pub area: f64,
}

/// Of a `segmentation`; nothing where there is none, and why where it can't be used.
pub fn extent(value: &Value) -> Result<Option<Extent>, &'static str> {
    let parts = match value {
        Value::Null => return Ok(None),
        Value::Object(_) => vec![encoded(value)?],
        Value::Array(parts) => match parts.first() {
            None => return Ok(None),
            Some(Value::Object(_)) => parts.iter().map(encoded).collect::<Result<_, _>>()?,
            Some(Value::Array(_)) => parts.iter().map(polygon).collect::<Result<_, _>>()?,
            // One polygon that isn't in a list of them.
            Some(_) => vec![polygon(value)?],
        },
        _ => return Err(NEITHER),
    };
    Ok(parts.into_iter().reduce(Extent::with))
}

const NEITHER: &str = "its segmentation is neither polygons nor a run-length encoding";

impl Extent {
    fn with(self, other: Self) -> Self {
        let ([x0, y0, w0, h0], [x1, y1, w1, h1]) = (self.bbox, other.bbox);
        let (left, top) = (x0.min(x1), y0.min(y1));
        Self { bbox: [left, top, (x0 + w0).max(x1 + w1) - left, (y0 + h0).max(y1 + h1) - top], area: self.area + other.area }
    }
}

/// x and y of its corners in turns. The box is that of the corners, as COCO's own are.
fn polygon(value: &Value) -> Result<Extent, &'static str> {
    let Value::Array(numbers) = value else { return Err(NEITHER) };
    let numbers: Vec<f64> = numbers.iter().map(number).collect::<Option<_>>().ok_or(NEITHER)?;
    let (points, rest) = numbers.as_chunks::<2>();
    if points.len() < 3 || !rest.is_empty() || !numbers.iter().all(|x| x.is_finite()) {
        return Err("its segmentation has a polygon that isn't at least three points");
    }
    let over = |axis: usize, of: fn(f64, f64) -> f64| points.iter().map(|point| point[axis]).reduce(of).unwrap_or_default();
    let (left, top) = (over(0, f64::min), over(1, f64::min));
    let next = points.iter().cycle().skip(1);
    let twice: f64 = points.iter().zip(next).map(|([x0, y0], [x1, y1])| x0 * y1 - x1 * y0).sum();
    Ok(Extent { bbox: [left, top, over(0, f64::max) - left, over(1, f64::max) - top], area: twice.abs() / 2.0 })
}

/// Runs of background and foreground in turns, column by column: `{"size": [height, width], "counts": [6, 1, …] or "<their text>"}`.
fn encoded(value: &Value) -> Result<Extent, &'static str> {
    const BROKEN: &str = "its segmentation's run-length encoding is broken";
    let Value::Object(entries) = value else { return Err(NEITHER) };
    let whole = |value: &Value| number(value).filter(|x| x.fract() == 0.0 && (0.0..=1e9).contains(x)).map(|x| x as u64);
    let Some(Value::Array(size)) = entries.get("size") else { return Err(BROKEN) };
    let [height, width] = [0, 1].map(|i| size.get(i).and_then(whole));
    let (Some(height), Some(width)) = (height.filter(|side| *side > 0), width) else { return Err(BROKEN) };
    let counts = match entries.get("counts") {
        Some(Value::Array(counts)) => counts.iter().map(whole).collect::<Option<Vec<u64>>>(),
        Some(Value::String(text)) => decompress(text.as_bytes()),
        _ => None,
    };
    let counts = counts.ok_or(BROKEN)?;
    let (mut start, mut area) = (0, 0);
    let [mut left, mut top, mut right, mut bottom] = [u64::MAX, u64::MAX, 0, 0];
    for (i, count) in counts.into_iter().enumerate() {
        let end = start + count;
        if end > height * width {
            return Err(BROKEN);
        }
        if i % 2 == 1 && count > 0 {
            let [first, last] = [start, end - 1].map(|pixel| (pixel / height, pixel % height));
            // A run that goes on in the next column has this one's bottom and that one's top.
            let (highest, lowest) = if first.0 == last.0 { (first.1, last.1) } else { (0, height - 1) };
            (left, right, top, bottom) = (left.min(first.0), right.max(last.0), top.min(highest), bottom.max(lowest));
            area += count;
        }
        start = end;
    }
    if area == 0 {
        return Err("its segmentation is empty");
    }
    Ok(Extent { bbox: [left, top, right - left + 1, bottom - top + 1].map(|x| x as f64), area: area as f64 })
}

/// Counts from their text: five bits a character, the lowest first, with a bit for whether another follows; from the fourth count on it is
/// the difference from the last but one.
fn decompress(text: &[u8]) -> Option<Vec<u64>> {
    let mut counts: Vec<i64> = Vec::new();
    let (mut number, mut shift) = (0i64, 0);
    for byte in text {
        let bits = i64::from(byte.checked_sub(48).filter(|bits| *bits < 64)?);
        if shift > 50 {
            return None;
        }
        number |= (bits & 31) << shift;
        shift += 5;
        if bits & 32 == 0 {
            if bits & 16 != 0 {
                number |= -1 << shift;
            }
            let before = if counts.len() > 2 { counts[counts.len() - 2] } else { 0 };
            counts.push(number.checked_add(before)?);
            (number, shift) = (0, 0);
        }
    }
    // A last character that promises another is half a number.
    (shift == 0).then(|| counts.into_iter().map(|count| u64::try_from(count).ok().filter(|count| *count <= 1_000_000_000)).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(text: &str) -> Result<Option<Extent>, &'static str> {
        super::extent(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn polygons_have_the_box_and_the_area_of_their_corners() {
        let square = Extent { bbox: [1.0, 2.0, 4.0, 4.0], area: 16.0 };
        assert_eq!(extent("[[1, 2, 5, 2, 5, 6, 1, 6]]"), Ok(Some(square)));
        assert_eq!(extent("[1, 2, 5, 2, 5, 6, 1, 6]"), Ok(Some(square)));
        let both = Extent { bbox: [1.0, 2.0, 9.5, 4.0], area: 17.0 };
        assert_eq!(extent("[[1, 2, 5, 2, 5, 6, 1, 6], [9.5, 3, 10.5, 3, 10.5, 4, 9.5, 4]]"), Ok(Some(both)));
        for none in ["null", "[]"] {
            assert_eq!(extent(none), Ok(None), "{none}");
        }
        for bad in ["[[]]", "[[1, 2, 3, 4]]", "[[1, 2, 3, 4, 5, \"NaN\"]]", "[[1, 2, 3, 4, 5, 6, 7]]", "\"abc\"", "[\"a\", \"b\"]", "[null]"] {
            assert!(extent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn broken_run_lengths_are_refused() {
        // Too long, half a number, a stray character, negative, without a size, and nothing but background.
        let counts = ["\"o0\"", "\"0o\"", "\"0 \"", "\"0N\"", "[0, 101]", "[0, -1]", "[0, 1.5]", "[0, 1e300]", "[100]", "\"\"", "null", "\"abc\""];
        for counts in counts {
            let text = format!("{{\"size\": [10, 10], \"counts\": {counts}}}");
            assert!(extent(&text).is_err(), "{text}");
        }
        for text in ["{\"counts\": [0, 1]}", "{\"size\": [10], \"counts\": [0, 1]}", "{\"size\": [0, 10], \"counts\": [0]}", "{}", "[{}]"] {
            assert!(extent(text).is_err(), "{text}");
        }
        assert_eq!(extent("{\"size\": [10, 10], \"counts\": [0, 1]}"), Ok(Some(Extent { bbox: [0.0, 0.0, 1.0, 1.0], area: 1.0 })));
    }
}
