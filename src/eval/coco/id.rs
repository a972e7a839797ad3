//! Ids of images, categories and annotations: COCO's own are whole numbers, other tools write floats, strings and file names.
//!
//! Numbers are one id where Python has them equal (`1 == 1.0`), as pycocotools looks them up in dictionaries. A string is never equal to a
//! number there; [`Ids`] still finds the one for the other where nothing else can be meant.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Id {
    Number(i128),
    /// Neither whole nor within 128 bits; never NaN.
    Real(f64),
    Text(Arc<str>),
}

impl Id {
    /// Of a number as JSON has it; nothing for NaN.
    pub fn from_float(number: f64) -> Option<Self> {
        // (Every whole f64 below 2^127 is an i128.)
        let whole = number.fract() == 0.0 && number.abs() < 2f64.powi(127);
        (!number.is_nan()).then_some(if whole { Self::Number(number as i128) } else { Self::Real(number) })
    }

    /// The number that it is, or that its text is.
    fn number(&self) -> Option<i128> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Real(_) => None,
        }
    }

    /// As the number of a class, if it can be one.
    pub fn as_label(&self) -> Option<u32> {
        self.number().and_then(|number| u32::try_from(number).ok())
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Id {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Numbers before texts.
impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.cmp(b),
            (Self::Number(a), Self::Real(b)) => (*a as f64).total_cmp(b).then(Ordering::Less),
            (Self::Real(a), Self::Number(b)) => a.total_cmp(&(*b as f64)).then(Ordering::Greater),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (_, Self::Text(_)) => Ordering::Less,
            (Self::Text(_), _) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Number(number) => number.hash(state),
            Self::Real(number) => number.to_bits().hash(state),
            Self::Text(text) => text.hash(state),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// As it was read, so that other tools find it again.
impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // (Not every format has 128 bits.)
            Self::Number(number) => match i64::try_from(*number) {
                Ok(number) => number.serialize(serializer),
                Err(_) => number.serialize(serializer),
            },
            Self::Real(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an id: a number or a string")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Id, E> {
                Ok(Id::Number(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Id, E> {
                Ok(Id::Number(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Id, E> {
                Id::from_float(number).ok_or_else(|| E::custom("an id isn't a number"))
            }

            fn visit_str<E>(self, text: &str) -> Result<Id, E> {
                Ok(Id::Text(text.into()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Some ids, each with its place in a list.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    exact: HashMap<Id, usize>,
    /// By the number that an id is or spells; nothing where several are the same number.
    spelt: HashMap<i128, Option<usize>>,
}

/// Of ids with their places; several may have one.
impl<'a> FromIterator<(&'a Id, usize)> for Ids {
    fn from_iter<I: IntoIterator<Item = (&'a Id, usize)>>(ids: I) -> Self {
        let mut all = Self::default();
        for (id, place) in ids {
            all.exact.insert(id.clone(), place);
            if let Some(number) = id.number() {
                all.spelt.entry(number).and_modify(|spelt| *spelt = spelt.filter(|spelt| *spelt == place)).or_insert(Some(place));
            }
        }
        all
    }
}

impl Ids {
    /// The place of an id, or else of the only one that spells the same number (`"7"` for 7).
    pub fn place(&self, id: &Id) -> Option<usize> {
        self.exact.get(id).copied().or_else(|| self.spelt.get(&id.number()?).copied().flatten())
    }

    /// Whether it is there as it is written.
    pub fn has_exactly(&self, id: &Id) -> bool {
        self.exact.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Id {
        Id::Text(text.into())
    }

    #[test]
    fn numbers_are_equal_as_in_python_and_texts_spell_them() {
        assert_eq!(Id::from_float(3.0), Some(Id::Number(3)));
        assert_ne!(Id::from_float(3.5), Some(Id::Number(3)));
        assert_eq!(Id::from_float(f64::NAN), None);
        assert_ne!(Id::Number(3), text("3"));
        let ids: Vec<Id> = vec![Id::Number(-2), text("7"), text("a.jpg"), Id::Number(1 << 100)];
        let index: Ids = ids.iter().zip(0..).collect();
        assert_eq!([&text("-2"), &Id::Number(7), &text("a.jpg"), &Id::Number(1 << 100)].map(|id| index.place(id)), [0, 1, 2, 3].map(Some));
        assert!(!index.has_exactly(&Id::Number(7)) && index.has_exactly(&text("7")));
        assert_eq!([&text("b.jpg"), &Id::Number(8), &Id::Real(7.5)].map(|id| index.place(id)), [None; 3]);
        // Where both are there, each is itself, and a third spelling could be either.
        let both: Ids = [Id::Number(7), text("7")].iter().zip(0..).collect();
        assert_eq!([&Id::Number(7), &text("7"), &text(" 7")].map(|id| both.place(id)), [Some(0), Some(1), None]);
    }

    #[test]
    fn ids_are_sorted_as_python_does_and_come_back_from_json() {
        let mut ids = vec![text("b"), Id::Real(1.5), Id::Number(10), text("a"), Id::Number(-3), Id::Number(1), Id::Number(2)];
        ids.sort();
        assert_eq!(ids, [Id::Number(-3), Id::Number(1), Id::Real(1.5), Id::Number(2), Id::Number(10), text("a"), text("b")]);
        let json = serde_json::to_string(&ids).unwrap();
        assert_eq!(json, r#"[-3,1,1.5,2,10,"a","b"]"#);
        assert_eq!(serde_json::from_str::<Vec<Id>>(&json).unwrap(), ids);
    }

    #[test]
    fn a_class_has_a_small_number() {
        assert_eq!(
            (Id::Number(17).as_label(), text("17").as_label(), Id::Number(-1).as_label(), text("cat").as_label()),
            (Some(17), Some(17), None, None)
        );
    }
}
