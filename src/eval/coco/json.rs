//! JSON as Python's `json` module reads and writes it: also in UTF-16 or UTF-32, with a byte order mark, with `NaN` and `Infinity`, with
//! numbers of any length. Parsed piece by piece by jiter, so that a file of a million outlines isn't held as a tree.

use super::id::Id;
use crate::error::{Error, Result};
use jiter::{Jiter, JiterError, JsonValue, Peek};
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

/// A parser of a text.
pub fn parser(text: &[u8]) -> Jiter<'_> {
    Jiter::new(text).with_allow_inf_nan()
}

/// Gives every entry of an object to `entry`, which has to take its value; whether it is an object.
pub fn object<'j, K>(
    parser: &mut Jiter<'j>,
    key: impl Fn(&str) -> K,
    mut entry: impl FnMut(&mut Jiter<'j>, K) -> Result<(), JiterError>,
) -> Result<bool, JiterError> {
    let peek = parser.peek()?;
    if peek != Peek::Object {
        parser.known_skip(peek)?;
        return Ok(false);
    }
    let mut next = parser.known_object()?.map(&key);
    while let Some(known) = next {
        entry(parser, known)?;
        next = parser.next_key()?.map(&key);
    }
    Ok(true)
}

/// Gives every entry of a list to `entry`, which has to take it; whether it is a list.
pub fn list<'j>(parser: &mut Jiter<'j>, mut entry: impl FnMut(&mut Jiter<'j>) -> Result<(), JiterError>) -> Result<bool, JiterError> {
    let peek = parser.peek()?;
    if peek != Peek::Array {
        parser.known_skip(peek)?;
        return Ok(false);
    }
    let mut next = parser.known_array()?;
    while next.is_some() {
        entry(parser)?;
        next = parser.array_step()?;
    }
    Ok(true)
}

/// The text of a value, to be parsed later.
pub fn skipped<'j>(parser: &mut Jiter<'j>) -> Result<&'j [u8], JiterError> {
    parser.peek()?;
    let start = parser.current_index();
    parser.next_skip()?;
    Ok(parser.slice_to_current(start))
}

/// A number, also as a text or as a truth.
pub fn number(value: &JsonValue) -> Option<f64> {
    match value {
        JsonValue::Int(number) => Some(*number as f64),
        JsonValue::BigInt(number) => number.to_string().parse().ok(),
        JsonValue::Float(number) => Some(*number),
        JsonValue::Bool(truth) => Some(f64::from(u8::from(*truth))),
        JsonValue::Str(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub fn id(value: &JsonValue) -> Option<Id> {
    match value {
        JsonValue::Int(number) => Some(Id::Number((*number).into())),
        JsonValue::BigInt(number) => {
            let text = number.to_string();
            Some(text.parse().map_or_else(|_| Id::Text(text.into()), Id::Number))
        }
        JsonValue::Float(number) => Id::from_float(*number),
        JsonValue::Bool(truth) => Some(Id::Number((*truth).into())),
        JsonValue::Str(text) => Some(Id::Text(text.as_ref().into())),
        _ => None,
    }
}

/// A name, which may be a number.
pub fn text(value: &JsonValue) -> Option<String> {
    match value {
        JsonValue::Str(text) => Some(text.to_string()),
        value => id(value).map(|id| id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
