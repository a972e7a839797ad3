//! Runs a pickle's program (protocols 0 to 5, as CPython's `pickletools` documents them), building inert values only.

use super::machine::{MAX_STEPS, Machine, pairs};
use super::value::{Global, Id, Value, Values};

/// A pickle's values.
pub struct Pickle<'a> {
    values: Values<'a>,
    pub root: Id,
    /// How many bytes the pickle took.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle at the beginning of `bytes`.
    pub fn load(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine::new(bytes);
        for _ in 0..MAX_STEPS {
            if machine.step().map_err(|problem| format!("broken pickle at byte {}: {problem}", machine.place))? {
                let root = machine.pop()?;
                return Ok(Self { values: machine.values, root, length: machine.place });
            }
        }
        Err(format!("its pickle takes more than {MAX_STEPS} steps"))
    }

    pub fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id)
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        std::str::from_utf8(self.values.text(id)?).ok()
    }

    pub fn values(&self) -> &[Value<'a>] {
        &self.values.0
    }

    /// Keys and values of a dictionary, or of an object's attributes (an `argparse.Namespace`'s options, say). OmegaConf keeps a
    /// configuration's entries in the attribute `_content`.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        let attributes = self.attributes(id)?;
        match self.attribute(attributes, "_content").map(|content| self.value(content)) {
            Some(Value::Dict(content)) => Some(content),
            _ => Some(attributes),
        }
    }

    /// The value of OmegaConf's node; anything else is its own value.
    pub fn node(&self, id: Id) -> Id {
        let attributes = self.attributes(id).filter(|_| matches!(self.value(id), Value::Object(_)));
        attributes.and_then(|attributes| self.attribute(attributes, "_val")).unwrap_or(id)
    }

    fn attribute(&self, attributes: &[(Id, Id)], name: &str) -> Option<Id> {
        // Objects have few; a large dictionary isn't searched.
        const MOST: usize = 32;
        let found = attributes.iter().take(MOST).find(|&&(key, _)| self.values.text(key) == Some(name.as_bytes()));
        found.map(|&(_, value)| value)
    }

    fn attributes(&self, id: Id) -> Option<&[(Id, Id)]> {
        let dict = |id| match self.value(id) {
            Value::Dict(entries) => Some(&entries[..]),
            _ => None,
        };
        match self.value(id) {
            // With slots, the state is a pair of dictionaries.
            Value::Object(state) => match self.value(*state) {
                Value::Sequence(parts) => parts.iter().find_map(|&part| dict(part)),
                _ => dict(*state),
            },
            _ => dict(id),
        }
    }
}

impl<'a> Machine<'a> {
    /// One instruction; whether it was the last.
    fn step(&mut self) -> Result<bool, String> {
        match self.byte()? {
            b'.' => return Ok(true),
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.discard()?,
            b'1' => drop(self.items()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // Numbers
            b'N' => self.push(Value::Inert)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'F' => {
                let number = std::str::from_utf8(self.line()?).ok().and_then(|line| line.parse().ok());
                self.push(number.map_or(Value::Inert, Value::Float))?;
            }
            b'G' => {
                let number = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(number))?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    _ => {
                        let digits = std::str::from_utf8(line.strip_suffix(b"L").unwrap_or(line)).map_err(|e| e.to_string())?;
                        digits.parse().map_or(Value::Inert, Value::Int)
                    }
                };
                self.push(value)?;
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)?;
            }
            0x8b => {
                let length = self.length4()?;
                self.long(length)?;
            }
            // Texts
            b'S' => {
                let line = self.line()?;
                let quoted = line.len() >= 2 && line.first() == line.last();
                self.push(Value::Text(if quoted { &line[1..line.len() - 1] } else { line }))?;
            }
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line))?;
            }
            b'U' | b'C' | 0x8c => {
                let length = self.byte()?.into();
                self.take_text(length)?;
            }
            b'T' | b'X' | b'B' => {
                let length = self.length4()?;
                self.take_text(length)?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = self.length8()?;
                self.take_text(length)?;
            }
            // Collections
            b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.items()?;
                self.push(Value::Sequence(items))?;
            }
            count @ 0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or("the stack is empty")?;
                let items = self.above(from)?;
                self.push(Value::Sequence(items))?;
            }
            b'd' => {
                let items = self.items()?;
                self.push(Value::Dict(pairs(&items)))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.items()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.items()?;
                self.set(&items)?;
            }
            // Objects
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Global::named(module, name).map_or(Value::Inert, Value::Global))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let known = self.values.text(module).zip(self.values.text(name)).and_then(|(module, name)| Global::named(module, name));
                self.push(known.map_or(Value::Inert, Value::Global))?;
            }
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.discard()?;
                self.call()?;
            }
            b'b' => self.build()?,
            b'i' => {
                self.line()?;
                self.line()?;
                self.items()?;
                self.push(Value::Inert)?;
            }
            b'o' => {
                self.items()?;
                self.push(Value::Inert)?;
            }
            b'P' => {
                self.line()?;
                self.push(Value::Inert)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.values.storage(id);
                self.push(value)?;
            }
            code @ 0x82..=0x84 => {
                self.take(1 << (code - 0x82))?;
                self.push(Value::Inert)?;
            }
            0x97 => self.push(Value::Inert)?,
            0x98 => {}
            // The memo
            b'p' => {
                let key = self.line_number()?;
                self.memorise(key)?;
            }
            b'q' => {
                let key = self.byte()?.into();
                self.memorise(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?).into();
                self.memorise(key)?;
            }
            0x94 => self.memorise(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line_number()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?).into();
                self.recall(key)?;
            }
            other => return Err(format!("unknown instruction {other:#04x}")),
        }
        Ok(false)
    }
}
