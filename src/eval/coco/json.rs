//! JSON as Python's `json` module reads and writes it: also in UTF-16 or UTF-32, with a byte order mark, with `NaN` and `Infinity`, with
//! numbers of any size. serde_json parses it after a pass that puts into quotes what it would stumble over ([`quoted`]); entries are taken
//! one by one, so that a file of a million outlines isn't held as a tree.

use super::id::Id;
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// A file's text as UTF-8.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { file: path.display().to_string(), source })?;
    utf8(bytes).map_err(|problem| invalid(path, &problem))
}

/// What a file's text begins with, but for white space. (That is one byte in every encoding, with zeros about it in some.)
pub fn first(path: &Path) -> Result<Option<char>> {
    let fail = |source| Error::Io { file: path.display().to_string(), source };
    let mut start = Vec::new();
    // With more white space than that it is no file that a program wrote.
    std::fs::File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut start)).map_err(fail)?;
    let (_, mark) = encoding(&start);
    Ok(start[mark..].iter().find(|byte| **byte != 0 && !byte.is_ascii_whitespace()).map(|&byte| char::from(byte)))
}

pub fn invalid(path: &Path, problem: &str) -> Error {
    Error::Dataset { file: path.display().to_string(), problem: problem.into() }
}

enum Encoding {
    Utf8,
    Utf16 { big: bool },
    Utf32 { big: bool },
}

/// By the mark, and else by where the zeros are (as `json.detect_encoding`); and the mark's length.
fn encoding(bytes: &[u8]) -> (Encoding, usize) {
    use Encoding::*;
    match bytes {
        [0, 0, 0xfe, 0xff, ..] => (Utf32 { big: true }, 4),
        [0xff, 0xfe, 0, 0, ..] => (Utf32 { big: false }, 4),
        [0xfe, 0xff, ..] => (Utf16 { big: true }, 2),
        [0xff, 0xfe, ..] => (Utf16 { big: false }, 2),
        [0xef, 0xbb, 0xbf, ..] => (Utf8, 3),
        [0, 0, _, _, ..] => (Utf32 { big: true }, 0),
        [0, ..] => (Utf16 { big: true }, 0),
        [_, 0, 0, 0, ..] => (Utf32 { big: false }, 0),
        [_, 0, ..] => (Utf16 { big: false }, 0),
        _ => (Utf8, 0),
    }
}

fn utf8(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let (encoding, mark) = encoding(&bytes);
    let text = match encoding {
        Encoding::Utf8 => {
            bytes.drain(..mark);
            return match std::str::from_utf8(&bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(format!("byte {} isn't UTF-8: save the file as UTF-8", mark + error.valid_up_to() + 1)),
            };
        }
        Encoding::Utf16 { big } => {
            let (units, rest) = bytes[mark..].as_chunks::<2>();
            let units = units.iter().map(|&unit| if big { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) });
            rest.is_empty().then(|| char::decode_utf16(units).collect::<Result<String, _>>().ok()).flatten()
        }
        Encoding::Utf32 { big } => {
            let (units, rest) = bytes[mark..].as_chunks::<4>();
            let units = units.iter().map(|&unit| if big { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) });
            rest.is_empty().then(|| units.map(char::from_u32).collect::<Option<String>>()).flatten()
        }
    };
    text.map(String::into_bytes).ok_or_else(|| "it seems to be UTF-16 or UTF-32, but isn't whole: save the file as UTF-8".into())
}

/// From so many digits on a whole number may be none of 64 bits.
const LONG: usize = 19;

/// The text with what isn't JSON's or no number of 64 bits in quotes, from where [`number`] and [`id`] take it: `NaN`, `Infinity`, whole
/// numbers of many digits, exponents beyond two digits.
fn quoted(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' | b'N' | b'I' => {
                let length = text[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')).count();
                let token = &text[at..at + length];
                let digits = token.strip_prefix(b"-").unwrap_or(token);
                let whole = digits.len() >= LONG && digits.iter().all(u8::is_ascii_digit);
                let exponent = digits.split(|byte| matches!(byte, b'e' | b'E')).nth(1).map(|it| it.strip_prefix(b"-").unwrap_or(it));
                let far = exponent.is_some_and(|it| it.iter().filter(|byte| byte.is_ascii_digit()).count() > 2) && digits[0].is_ascii_digit();
                if matches!(digits, b"NaN" | b"Infinity") || whole || far {
                    let out = out.get_or_insert_with(|| Vec::with_capacity(text.len() + text.len() / 8));
                    out.extend_from_slice(&text[copied..at]);
                    out.push(b'"');
                    out.extend_from_slice(token);
                    out.push(b'"');
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&text[copied..]);
            out.into()
        }
        None => text.into(),
    }
}

/// Gives `entry` every entry of the lists of an object, with the list's name; which of these names there were as lists.
pub fn lists_of_object(text: &[u8], names: &[&'static str], entry: impl FnMut(&'static str, Value)) -> serde_json::Result<Vec<&'static str>> {
    let text = quoted(text);
    let mut parser = serde_json::Deserializer::from_slice(&text);
    let mut object = Object { names, entry, seen: Vec::new() };
    parser.deserialize_map(&mut object)?;
    parser.end()?;
    Ok(object.seen)
}

/// Gives `entry` every entry of a list.
pub fn list(text: &[u8], entry: impl FnMut(Value)) -> serde_json::Result<()> {
    let text = quoted(text);
    let mut parser = serde_json::Deserializer::from_slice(&text);
    parser.deserialize_seq(Entries(entry))?;
    parser.end()
}

struct Object<'a, F> {
    names: &'a [&'static str],
    entry: F,
    seen: Vec<&'static str>,
}

impl<'de, F: FnMut(&'static str, Value)> Visitor<'de> for &mut Object<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.names.iter().find(|name| **name == key) {
                Some(name) => {
                    if map.next_value_seed(Entries(|value| (self.entry)(name, value)))? {
                        self.seen.push(name);
                    }
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Of a list; what is no list has none. Tells which it is.
struct Entries<F>(F);

impl<'de, F: FnMut(Value)> DeserializeSeed<'de> for Entries<F> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(Value)> Visitor<'de> for Entries<F> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<bool, A::Error> {
        while let Some(value) = list.next_element()? {
            (self.0)(value);
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
}

/// A number, also as a text or as a truth.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub fn id(value: &Value) -> Option<Id> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Some(Id::Number(number.into())),
            (None, Some(number)) => Some(Id::Number(number.into())),
            (None, None) => number.as_f64().and_then(Id::from_float),
        },
        Value::Bool(truth) => Some(Id::Number((*truth).into())),
        // Long numbers are texts since they were put into quotes.
        Value::String(text) => Some(match text.parse() {
            Ok(number) if text.trim_start_matches('-').len() >= LONG => Id::Number(number),
            _ => Id::Text(text.as_str().into()),
        }),
        _ => None,
    }
}

/// A name, which may be a number.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_python_writes_is_put_into_quotes() {
        for (text, expected) in [
            (r#"[1, NaN, -Infinity, Infinity]"#, r#"[1, "NaN", "-Infinity", "Infinity"]"#),
            (r#"{"NaN": "a NaN, \"Infinity\" \\", "x": NaN}"#, r#"{"NaN": "a NaN, \"Infinity\" \\", "x": "NaN"}"#),
            ("[1180591620717411303425, -1180591620717411303425, 12]", "[\"1180591620717411303425\", \"-1180591620717411303425\", 12]"),
            ("[1e999, -2.5E+308, 1e30, 1.5e-7]", "[\"1e999\", \"-2.5E+308\", 1e30, 1.5e-7]"),
            ("[true, null, false, 0.12345678901234567890123]", "[true, null, false, 0.12345678901234567890123]"),
            ("\"an open \\", "\"an open \\"),
        ] {
            assert_eq!(std::str::from_utf8(&quoted(text.as_bytes())).unwrap(), expected);
        }
        let value = |text: &str| serde_json::from_slice::<Value>(&quoted(text.as_bytes())).unwrap();
        assert_eq!(number(&value("1e999")), Some(f64::INFINITY));
        assert!(number(&value("NaN")).unwrap().is_nan());
        assert_eq!(id(&value("-1180591620717411303425")), Some(Id::Number(-1_180_591_620_717_411_303_425)));
        assert_eq!(id(&value("18446744073709551615")), Some(Id::Number(u64::MAX.into())));
        assert_eq!(id(&value("\"12\"")), Some(Id::Text("12".into())));
    }

    #[test]
    fn every_encoding_that_python_tells_apart_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.json");
        let text = " {\"name\": \"Hündchen 🐕\"}";
        let sixteen = |mark: bool, big: bool| -> Vec<u8> {
            let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let thirty_two = |mark: bool, big: bool| -> Vec<u8> {
            let units = mark.then_some('\u{feff}').into_iter().chain(text.chars()).map(u32::from);
            units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let mut all = vec![text.as_bytes().to_vec(), ["\u{feff}", text].concat().into_bytes()];
        for (mark, big) in [(false, false), (false, true), (true, false), (true, true)] {
            all.extend([sixteen(mark, big), thirty_two(mark, big)]);
        }
        for bytes in all {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(String::from_utf8(read(&path).unwrap()).unwrap(), text, "{bytes:?}");
            assert_eq!(first(&path).unwrap(), Some('{'), "{bytes:?}");
        }
        for (bytes, problem) in [(&b"[\"caf\xe9\"]"[..], "byte 6 isn't UTF-8"), (b"\xff\xfe[", "isn't whole"), (b"\xfe\xff\xd8\x00", "isn't whole")] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("labels.json") && error.contains(problem), "{error}");
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!((read(&path).unwrap(), first(&path).unwrap()), (vec![], None));
    }
}
